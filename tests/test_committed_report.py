"""The committed reference run: untouched since it was written, of the notebooks as they are, small, and complete."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

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


def test_the_report_stays_below_20_megabytes():
    assert sum(path.stat().st_size for path in REPORT.rglob("*") if path.is_file()) < 20e6


class Links(HTMLParser):
    """What a page points at, and what can be pointed at in it."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.targets |= {found[key] for key in ("href", "src") if found.get(key)}
        self.anchors |= {found["id"]} if "id" in found else set()


def dead_links(report):
    """Page and target of every link to a file or a place in a page that does not exist."""
    pages = {path.resolve(): Links(path) for path in report.rglob("*.html")}
    dead = []
    for path, links in pages.items():
        for target in links.targets:
            if not re.match(r"[a-z]+:", target):
                place, _, anchor = unquote(target).partition("#")
                there = (path.parent / place).resolve() if place else path
                known = there not in pages or anchor in pages[there].anchors
                if not there.exists() or (anchor and not known):
                    dead.append((path.relative_to(report.resolve()).as_posix(), target))
    return sorted(dead)


def test_no_link_is_dead():
    assert dead_links(REPORT) == []


def test_a_dead_link_is_found(tmp_path):
    (tmp_path / "b.html").write_text('<p id="here"></p>')
    (tmp_path / "a.html").write_text('<a href="b.html#here"></a><a href="b.html#there"></a><img src="c.png">')
    assert dead_links(tmp_path) == [("a.html", "b.html#there"), ("a.html", "c.png")]
