"""The committed reference run: untouched since it was written, of the notebooks as they are, small, and complete."""

import json
import re
from pathlib import Path

import pytest

from fedauto_core.report.folder import file_hashes, read_manifest
from fedauto_core.report.plan import read_profile
from fedauto_core.report.verify import run_verify

REPORT = Path(__file__).parents[1] / "reports" / "standard"
JOBS = {job.name: job for job in read_profile("standard")}


@pytest.fixture(params=JOBS)
def name(request):
    return request.param


def test_no_file_was_edited_by_hand(name):
    assert read_manifest(REPORT / name)["files"] == file_hashes(REPORT / name)


def test_every_verdict_follows_from_its_csv_files():
    assert run_verify(REPORT) == 0


def test_it_was_run_with_the_parameters_of_the_profile(name):
    assert read_manifest(REPORT / name)["parameters"] == dict(JOBS[name].parameters)


def test_its_cells_are_those_of_the_source_or_it_says_so(name):
    """A page that was not run again since its notebook changed is marked as out of date, with the reason."""
    executed = json.loads((REPORT / name / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    outside = [cell for cell in executed if "injected-parameters" not in cell["metadata"].get("tags", [])]
    sources = json.loads(JOBS[name].notebook.source)["cells"]
    same = ["".join(cell["source"]) for cell in outside] == ["".join(cell["source"]) for cell in sources]
    page = (REPORT / "status.md").read_text(encoding="utf-8")
    (state,) = re.findall(rf"^\| {re.escape(name)} \| ([^|]+) \|", page, re.M)
    assert same or state.startswith("out of date (notebook")


def test_every_figure_has_its_numbers_beside_it(name):
    pictures = list((REPORT / name).glob("*.png"))
    for picture in pictures:
        assert picture.with_suffix(".svg").exists() and picture.with_suffix(".csv").exists()


def test_the_report_stays_below_30_megabytes():
    assert sum(path.stat().st_size for path in REPORT.rglob("*") if path.is_file()) < 30e6
