"""One notebook in its own kernel: the result is complete, free of the machine's traces, or not there at all."""

import json
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from notebook_factory import write_notebook

from fedauto_core.report import sources, worker
from fedauto_core.report.folder import file_hashes
from fedauto_core.report.orders import Order
from fedauto_core.store.keys import OPTIONAL_PACKAGES, versions

RECORDS = """
import matplotlib.pyplot as plt, pandas as pd
from fedauto_core.report import claims, record
page = record.Page("nb", {"seeds": seeds})
fig, ax = plt.subplots(figsize=(2, 2))
ax.plot([0, seeds])
page.figure(fig, "line", pd.DataFrame({"y": [0, seeds]}), "A line, $x$.")
page.verdict(claims.Verdict("C1", "s", "Re", 1.0, 0.5, 1.5, seeds, "points", "line"))
page.provenance()
"""
TRACES_OF_THE_MACHINE = """
import os, sys, warnings
print(os.environ["FEDAUTO_OUTPUT"], os.getcwd(), object())
warnings.warn("careful")
print(hash("text"))
sys.executable
"""


def order(tmp_path, name="nb", **changes):
    notebook = sources.read_notebook(tmp_path / "notebooks" / f"{name}.ipynb")
    inputs = {"code_sha256": "of the code", "parameters": changes.get("overrides", {})}
    values = dict(name=name, source=notebook.source, overrides={}, notebooks_dir=tmp_path / "notebooks", inputs=inputs)
    values |= dict(out=tmp_path / "report", processes=2, fresh=False, command="repeat me")
    values |= dict(limit_s=600.0, token="")
    return Order(**(values | changes))


def write(tmp_path, *sources, **options):
    write_notebook(tmp_path / "notebooks", "nb", *sources, **options)


@pytest.fixture
def result(tmp_path):
    return tmp_path / "report" / "nb"


def test_two_fresh_runs_leave_the_same_bytes(tmp_path):
    write(tmp_path, "# Title", RECORDS, TRACES_OF_THE_MACHINE, parameters="seeds: int = 1  # repetitions")
    runs = []
    for number in range(2):
        there = order(tmp_path, out=tmp_path / f"report{number}", overrides={"seeds": 2})
        assert worker.run_notebook(there).state == "ok"
        folder = there.out / "nb"
        runs.append({path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"})
    assert set(runs[0]) == {"nb.ipynb", "line.svg", "line.png", "line.csv"} | {
        f"{name}.json" for name in ("products", "provenance", "verdicts")
    }
    for name in runs[0]:
        assert runs[0][name] == runs[1][name], name
    text = runs[0]["nb.ipynb"].decode()
    for trace in (str(tmp_path), tempfile.gettempdir(), str(Path.home()), "papermill", "duration", str(os.getpid())):
        assert trace not in text, trace
    executed = nbformat.reads(text, as_version=4)
    nbformat.validate(executed)
    assert "![line](line.png)" in text and "image/png" not in text  # the picture lies beside the notebook
    assert [cell.id for cell in executed.cells] == ["cell-0", "injected-parameters", "cell-1", "cell-2", "cell-3"]
    assert executed.cells[1].source == "# Parameters\nseeds = 2\n"


def test_a_page_names_the_code_and_the_parameters_of_its_own_cell(tmp_path, result):
    """An imported constant is no parameter, and an injected value is the one that counts."""
    code = (
        "from math import pi\nfrom fedauto_core.report import record\nother = 3\n"
        "record.Page('nb', record.parameters(globals())).provenance()"
    )
    write(tmp_path, "# Title", code, parameters="seeds: int = 1  # repetitions\nname: str = 'a'  # which")
    assert worker.run_notebook(order(tmp_path, overrides={"seeds": 2})).error == ""
    facts = json.loads((result / "provenance.json").read_text(encoding="utf-8"))
    assert facts["parameters"] == {"seeds": 2, "name": "a"} and facts["code_sha256"] == "of the code"


def test_manifest_tells_what_was_run(tmp_path, result):
    write(tmp_path, "1 + 1")
    inputs = {"code_sha256": "of the code", "parameters": {"seeds": 2}}
    outcome = worker.run_notebook(order(tmp_path, inputs=inputs))
    manifest = json.loads((result / "manifest.json").read_text())
    assert manifest["code_sha256"] == "of the code" and manifest["parameters"] == {"seeds": 2}
    assert manifest["versions"] == versions(OPTIONAL_PACKAGES)
    assert manifest["files"] == file_hashes(result) and set(manifest["files"]) == {"nb.ipynb"}
    assert manifest["seconds"] == outcome.seconds > 0
    assert 20 < manifest["peak_mib"] < 2000
    assert manifest["machine"]["threads"] >= 1 and manifest["machine"]["memory_gib"] >= 1
    assert manifest["fresh_seconds"] == manifest["seconds"]  # there was nothing in the cache for it
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"nb", ".work"}
    assert list((tmp_path / "report" / ".work").iterdir()) == []


def test_the_kernel_is_set_up_by_the_batch_alone(tmp_path, result, monkeypatch):
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('start-up file of the user')")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "no kernels here"))
    names = [
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "FEDAUTO_FRESH",
        "FEDAUTO_PROCESSES",
        "FEDAUTO_OUTPUT",
        "FEDAUTO_REPORT",
        "PYTHONHASHSEED",
    ]
    seen = f"[os.environ[name] for name in {names}] + [os.getcwd(), sys.executable]"
    write(tmp_path, f"import json, os, sys\njson.dump({seen}, open('x.json', 'w'))")
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    assert worker.run_notebook(order(tmp_path, fresh=True)).error == ""
    report = tmp_path / "report"
    expected = [
        "1",
        "1",
        "1",
        "2",
        str(report / ".work" / "nb"),
        str(report),
        "0",
        str(tmp_path / "notebooks"),
        sys.executable,
    ]
    assert json.loads((tmp_path / "notebooks" / "x.json").read_text()) == expected
    assert list((tmp_path / "t").iterdir()) == []


def test_a_failure_names_cell_and_line_and_leaves_the_old_result(tmp_path, result):
    write(tmp_path, "1")
    worker.run_notebook(order(tmp_path))
    old = file_hashes(result)
    write(tmp_path, "# Title", "def f():\n    raise ValueError('first\\nsecond')", "x = 1\nf()\ny = 2")
    outcome = worker.run_notebook(order(tmp_path))
    assert (outcome.state, outcome.cell, outcome.line, outcome.error) == ("failed", 3, "f()", "ValueError: first")
    assert file_hashes(result) == old
    log = (tmp_path / "report" / "logs" / "nb.log").read_text()
    assert log.startswith("repeat me\n") and "ValueError: first\nsecond" in log and "\x1b" not in log
    write(tmp_path, "2")
    assert worker.run_notebook(order(tmp_path)).state == "ok"
    assert not (tmp_path / "report" / "logs" / "nb.log").exists() and file_hashes(result) != old


@pytest.mark.parametrize(("told", "known"), [("10.0\n2.5\n", 12.5), ("10.0\nnan\n", None)])
def test_the_time_of_a_cached_page_is_told_as_if_it_were_computed(tmp_path, result, told, known):
    """Or, where the cache does not know how long its entries took, as it was known before, if it was."""
    write(tmp_path, f"import os\nopen(os.environ['FEDAUTO_SAVED'], 'a').write({told!r})")
    for before in (None, 77.0):
        assert worker.run_notebook(order(tmp_path)).error == ""
        manifest = json.loads((result / "manifest.json").read_text())
        assert manifest["fresh_seconds"] == (round(manifest["seconds"] + known, 1) if known else before)
        (result / "manifest.json").write_text(json.dumps(manifest | {"fresh_seconds": 77.0}))


def test_a_kernel_that_dies_is_a_failure_of_its_cell(tmp_path, result):
    write(tmp_path, "1", "import os\nos._exit(3)")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.cell == 2 and outcome.error.startswith("the kernel left with exit status 3")
    assert not result.exists() and list((tmp_path / "report" / ".work").iterdir()) == []


def test_a_kernel_that_starts_slowly_is_waited_for(tmp_path, monkeypatch):
    """On a busy network disk longer than the minute that papermill waits by itself."""
    assert worker.START_S > 60
    write(tmp_path, "1")
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text("import time\ntime.sleep(5)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"), prepend=os.pathsep)
    assert worker.run_notebook(order(tmp_path)).error == ""
    monkeypatch.setattr(worker, "START_S", 2)
    assert "Kernel didn't respond in 2 seconds" in worker.run_notebook(order(tmp_path)).error


def test_a_temporary_folder_too_long_for_sockets_is_refused_with_the_remedy(tmp_path, result, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 100)
    write(tmp_path, "1")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.cell == 0 and "set TMPDIR to a shorter path" in outcome.error and not result.exists()


def test_a_long_output_without_a_space_is_cleaned_in_one_pass():
    """Quadratic time would take the better part of an hour here."""
    pattern, replacement = worker.VOLATILE[0]
    text = "x" * 1_000_000 + ' "/tmp/ipykernel_12/345.py:1: UserWarning'
    assert pattern.sub(replacement, text) == "x" * 1_000_000 + " cell:1: UserWarning"
