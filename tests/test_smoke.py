"""The real smoke profile, from the command line to the pages, with nothing cached: twice run, twice the same bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_pages import from_elsewhere

ROOT = Path(__file__).parents[1]
NAMES = sorted(yaml.safe_load((ROOT / "notebooks" / "profiles" / "smoke.yaml").read_text(encoding="utf-8")))
REPEATED = ("00_start_here", "02_problem", "03_fedauto_by_hand", "10_full_parameter")
"""Notebooks of the second run: all those that simulate, but for 01, whose code 10 runs as well."""


def run_smoke(out, data, *options):
    """The report command in a process of its own. Without a cache, what is compared was really computed twice."""
    command = [sys.executable, "-m", "fedauto_core", "report", "--profile", "smoke", "--out", str(out), "--fresh"]
    environment = os.environ | {"FEDAUTO_DATA": str(data)}
    return subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture(scope="module")
def finished(folder):
    return run_smoke(folder / "first", folder / "data1")


def products(notebook):
    """Name -> bytes of everything that must not change: numbers, verdicts, the executed notebook."""
    files = [*notebook.glob("*.csv"), *notebook.glob("verdicts.json"), *notebook.glob("*.ipynb")]
    return {path.name: path.read_bytes() for path in files}


def test_every_notebook_succeeds(finished, folder):
    assert finished.returncode == 0, finished.stdout + finished.stderr
    rows = (folder / "first" / "status.md").read_text(encoding="utf-8").splitlines()[4:]
    states = dict(tuple(cell.strip() for cell in row.split("|")[1:3]) for row in rows)
    assert states == dict.fromkeys(NAMES, "ok")


def test_pages_are_there_and_load_nothing_from_elsewhere(finished, folder):
    first = folder / "first"
    for page in (first / "index.html", *(first / name / f"{name}.html" for name in NAMES)):
        assert from_elsewhere(page.read_text(encoding="utf-8")) == [], page


def test_a_second_run_gives_the_same_bytes(finished, folder):
    selection = [word for name in REPEATED for word in ("--only", name)]
    again = run_smoke(folder / "second", folder / "data2", *selection)
    assert again.returncode == 0, again.stdout + again.stderr
    for name in REPEATED:
        before, after = products(folder / "first" / name), products(folder / "second" / name)
        assert {f"{name}.ipynb"} < set(before)
        assert [file for file in before | after if before.get(file) != after.get(file)] == [], name
