"""The real smoke profile, from the command line to the pages, with no result kept: twice run, twice the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import caches
import nbformat
import pytest
import yaml
from test_pages import from_elsewhere

from fedauto_core.teaching.books import numbers
from fedauto_core.teaching.edition import is_tagged

ROOT = Path(__file__).parents[1]
NAMES = sorted(yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yaml").read_text(encoding="utf-8")))
REPEATED = ("02_problem", "03_fedauto_by_hand", "11_lora-mlp")
"""Notebooks of the second run: one that compares trained models, one step by step, one that tunes and adapts layers."""


def run_smoke(folder, *options):
    """The report command in a process of its own, with a cache of its own: what is compared was computed twice, by code
    that was compiled once."""
    command = [sys.executable, "-m", "fedauto_core", "report", "--profile", "smoke", "--out", str(folder / "report")]
    environment = os.environ | {"FEDAUTO_DATA": str(caches.own_cache(folder / "data"))}
    return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """The smoke report: it takes minutes, so whatever reads one reads this one."""
    folder = tmp_path_factory.mktemp("smoke")
    finished = run_smoke(folder)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return folder / "report"


def results(page):
    """Name -> bytes of all that must not change: all but the manifest, which holds seconds and memory, and the HTML
    page, which links to others of its report."""
    left_out = {"manifest.json", f"{page.name}.html"}
    return {path.name: path.read_bytes() for path in page.iterdir() if path.name not in left_out}


def test_every_notebook_succeeds(smoke):
    rows = (smoke / "status.md").read_text(encoding="utf-8").splitlines()[4:]
    states = dict(tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows)
    assert states == dict.fromkeys(NAMES, "ok")


@pytest.mark.parametrize("number", numbers())
def test_every_solution_is_judged_right_and_the_prediction_is_answered(smoke, number):
    for name in [name for name in NAMES if name.startswith(number)]:
        cells = nbformat.read(smoke / name / f"{name}.ipynb", as_version=4).cells
        said = {cell.id: "".join(out.get("data", {}).get("text/markdown", "") for out in cell.get("outputs", ()))
                for cell in cells}  # fmt: skip
        solved = [cell for cell in cells if is_tagged(cell, "solution")]
        assert solved and [cell.source for cell in solved if ": right.**" not in said[cell.id]] == [], name
        assert sum("**Prediction.** You predicted" in text for text in said.values()) == 1, name


def test_pages_are_there_and_load_nothing_from_elsewhere(smoke):
    for page in (smoke / "index.html", *(smoke / name / f"{name}.html" for name in NAMES)):
        assert from_elsewhere(page.read_text(encoding="utf-8")) == [], page


def test_a_second_run_gives_the_same_bytes(smoke, tmp_path):
    again = run_smoke(tmp_path, *(word for name in REPEATED for word in ("--only", name)))
    assert again.returncode == 0, again.stdout + again.stderr
    for name in REPEATED:
        before, after = results(smoke / name), results(tmp_path / "report" / name)
        assert {f"{name}.ipynb", "provenance.json"} < set(before)
        assert [file for file in before | after if before.get(file) != after.get(file)] == [], name
