"""Every notebook: stripped, anatomy, size, and the claims it says it tests."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from fedauto_core.report.plan import read_profile
from fedauto_core.report.verdicts import TESTED_BY

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
assert NOTEBOOKS


def cells(path, kind):
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


@pytest.fixture(params=NOTEBOOKS, ids=lambda p: p.stem)
def notebook(request):
    return request.param


def test_outputs_are_stripped(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_anatomy(notebook):
    all_cells = json.loads(notebook.read_text())["cells"]
    prose, code = cells(notebook, "markdown"), cells(notebook, "code")
    assert prose[0].startswith(f"# {notebook.stem[:2]} ") and "**Time**" in prose[0]
    assert all_cells[1]["metadata"].get("tags") == ["parameters"]
    assert any("**Predict before you run.**" in text for text in prose)
    assert code[-1].startswith("page.provenance(")
    lesson = itertools.takewhile(lambda cell: not "".join(cell["source"]).startswith("## Exercises"), all_cells)
    assert len(list(lesson)) <= 30
    assert not any(re.search(r"^class ", text, re.M) for text in code)


def test_functions_are_short(notebook):
    for text in cells(notebook, "code"):
        for body in re.findall(r"^def .*?(?=^\S|\Z)", text, re.M | re.S):
            assert len(body.strip().splitlines()) <= 15, body


def test_the_named_claims_are_the_tested_ones(notebook):
    code = "\n".join(cells(notebook, "code"))
    tested = {*re.findall(r'(?:Verdict\(\s*|_verdict\(\s*|\bclaim=|"claim": )"(C\d)"', code)}
    assert tested == {claim for claim, names in TESTED_BY.items() if notebook.stem in names}


@pytest.mark.parametrize("profile", ["smoke", "standard", "full"])
def test_profiles_name_every_notebook(profile):
    plan = yaml.safe_load((FOLDER / "profiles" / f"{profile}.yaml").read_text())
    assert {name.partition("-")[0] for name in plan} == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("profile", ["smoke", "standard", "full", "paper"])
def test_the_pages_that_judge_a_claim_share_the_level_of_its_correction(profile):
    jobs = [job for job in read_profile(profile) if "claim_pages" in job.parameters]
    pages = Counter(job.notebook.name for job in jobs)
    assert jobs
    assert [job.parameters["claim_pages"] for job in jobs] == [pages[job.notebook.name] for job in jobs]
