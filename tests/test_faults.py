"""What goes wrong on machines: killed processes, full disks, endless notebooks. What was finished stays valid, and a
rerun gives what an undisturbed run gives."""

import errno
import functools
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import nbformat
import psutil
import pytest
from nbformat.v4 import new_output
from notebook_factory import write_notebook, write_profile
from papermill.clientwrap import PapermillNotebookClient
from test_trials import trials
from test_worker import order, write

from fedauto_core.experiments import pool
from fedauto_core.experiments.pool import map_units
from fedauto_core.report import batch, guard, plan, progress, worker
from fedauto_core.report.folder import file_hashes, place_page, read_manifest, write_json
from fedauto_core.store.keys import PACKAGE

WAITS = """
import os, pathlib, time
pathlib.Path({pid!r}).write_text(str(os.getpid()))
while not pathlib.Path({go!r}).exists(): time.sleep(.1)
print("done")
"""


@pytest.fixture
def two(tmp_path):
    """A notebook that waits for a file, and one that does not; the temporary folder of their workers is empty."""
    pid, go = str(tmp_path / "pid"), str(tmp_path / "go")
    write_notebook(tmp_path / "notebooks", "01_waits", WAITS.format(pid=pid, go=go))
    write_notebook(tmp_path / "notebooks", "02_quick", "1 + 1")
    write_profile(tmp_path / "notebooks", "01_waits: {minutes: 2}\n02_quick: {minutes: 1}\n")
    (tmp_path / "t").mkdir()
    return tmp_path


def start(folder, **redirected):
    """The command in a process of its own, and its kernel of 01_waits."""
    words = ["report", "--profile", "tiny", "--notebooks", folder / "notebooks", "--out", folder / "out", "--jobs", "2"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(folder / "t")}
    process = subprocess.Popen(
        [sys.executable, "-m", "fedauto_core", *words], env=environment, text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | redirected,
    )  # fmt: skip
    return process, psutil.Process(int(await_text(folder / "pid")))


def await_text(file):
    deadline = time.monotonic() + 120
    while not (file.exists() and file.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.05)
    return file.read_text(encoding="utf-8")


def pages(report):
    return {job: file_hashes(report / job) for job in ("01_waits", "02_quick")}


def undisturbed(folder):
    """What `start` leaves where nothing happens."""
    (folder / "go").touch()
    for name in ("01_waits", "02_quick"):
        assert worker.run_notebook(order(folder, name, out=folder / "calm")).error == ""
    return pages(folder / "calm")


def test_a_worker_that_is_killed_is_replaced_and_its_notebook_runs_again(two):
    process, kernel = start(two)
    kernel.parent().kill()
    kernel.wait(timeout=30)
    (two / "go").touch()
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert out.count("its worker process was killed; runs again") == 1 and out.count("  ok  ") == 2
    assert pages(two / "out") == undisturbed(two) and list((two / "t").iterdir()) == []
    assert not (two / "out" / ".work").exists()


def test_after_the_batch_and_its_worker_were_killed_the_rerun_clears_up_and_completes(two, capsys):
    process, kernel = start(two)
    for victim in (process, kernel.parent()):
        victim.kill()
    process.communicate(timeout=60)
    assert batch.print_status("tiny", two / "out", two / "notebooks") == 0
    assert re.match(r"interrupted: \d of 2 done. Continue with: python -m fedauto_core ", capsys.readouterr().out)
    (two / "go").touch()
    process, _ = start(two)
    out, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "") and "[2/2]" in out
    assert not kernel.is_running() and list((two / "t").iterdir()) == []
    assert pages(two / "out") == undisturbed(two)


def test_a_batch_whose_reader_is_gone_ends_with_its_kernels(two):
    reader, writer = os.pipe()
    process, kernel = start(two, stdout=writer)
    os.close(writer)
    os.close(reader)
    (two / "go").touch()  # it has something to say now
    assert process.wait(timeout=60) != 0 and "BrokenPipeError" in process.stderr.read()
    process.stderr.close()
    kernel.wait(timeout=30)
    assert list((two / "t").iterdir()) == []


def test_units_whose_process_is_killed_are_a_failure_and_the_next_get_new_ones():
    with pytest.raises(Exception, match="terminated abruptly"):
        map_units(os._exit, [3, 3], 2)
    assert map_units(abs, [-1, -2], 2) == [1, 2]


@pytest.mark.parametrize(
    "raised, expected, said",
    [
        (OSError("handle is closed"), BrokenProcessPool, "ended abruptly while units were handed over"),
        (OSError(errno.EPIPE, "broken pipe"), BrokenProcessPool, "ended abruptly while units were handed over"),
        (OSError(errno.ENOMEM, "no memory"), OSError, "no memory"),  # another matter, and told as it is
    ],
)
def test_a_pool_that_breaks_while_units_are_handed_over_is_the_same_failure(monkeypatch, raised, expected, said):
    class Broken(ProcessPoolExecutor):
        def submit(self, *words):
            raise raised

    monkeypatch.setattr(pool, "_pool", functools.cache(Broken))
    with pytest.raises(expected, match=said):
        map_units(abs, [-1, -2], 2)
    monkeypatch.undo()
    assert map_units(abs, [-1, -2], 2) == [1, 2]


def test_a_kernel_that_is_killed_is_told_apart_from_one_out_of_memory(tmp_path, monkeypatch):
    write(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.cell == 1 and re.fullmatch(
        r"the kernel was ended by SIGKILL( \(it held up to \d+ MiB\))?", outcome.error
    )
    kills = iter([4, 5])
    monkeypatch.setattr(worker, "memory_kills", lambda: next(kills))
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.error.startswith(
        "out of memory: the system has killed a process for it (the kernel was ended by SIG"
    )


UNDER_A_LIMIT = "import resource\nresource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"


@pytest.mark.parametrize(
    ("module", "more"),
    [("math", "bytearray(8 << 30)"), ("numpy", "numpy.ones(1 << 30)"), ("torch", "torch.ones(1 << 31)")],
)
def test_a_notebook_that_wants_more_memory_than_there_is_is_told_so(tmp_path, module, more):
    write(tmp_path, f"import {module}\n{UNDER_A_LIMIT}", more)
    outcome = worker.run_notebook(order(tmp_path))
    assert re.fullmatch(r"out of memory: \w*Error\b.*; use less, or fewer --jobs", outcome.error), outcome.error
    assert (outcome.cell, outcome.line) == (2, more)


def test_experiments_whose_process_was_killed_for_memory_are_told_so(tmp_path, monkeypatch):
    """Not by a real system, which would kill others too: only its counter is another one."""
    kills = iter([4, 5])
    monkeypatch.setattr(worker, "memory_kills", lambda: next(kills))
    write(tmp_path, "import os\nfrom fedauto_core.experiments.pool import map_units\nmap_units(os._exit, [3, 3], 2)")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.error.startswith("out of memory: the system has killed a process for it (BrokenProcessPool: ")


def test_a_notebook_that_hangs_is_ended_with_all_it_has_started(tmp_path):
    pid = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        f"pathlib.Path({str(pid)!r}).write_text(str(child.pid))\nchild.wait()"
    )
    write(tmp_path, "1", code)
    outcome = worker.run_notebook(order(tmp_path, limit_s=2.0))
    assert (outcome.cell, outcome.error[:10]) == (2, "time limit") and "--timeout MINUTES" in outcome.error
    assert not psutil.pid_exists(int(pid.read_text()))
    assert "time limit" in (tmp_path / "report" / "logs" / "nb.log").read_text(encoding="utf-8")


def test_a_hundred_megabytes_of_output_are_refused(tmp_path):
    write(tmp_path, "print('x' * 100_000_000)")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.error == "100 MB of output, 20 MB are allowed; show less, or write it into a file"
    assert not (tmp_path / "report" / "nb").exists()


def test_a_long_line_below_that_is_published(tmp_path):
    write(tmp_path, "print('x' * 3_000_000)")
    assert worker.run_notebook(order(tmp_path)).error == ""
    assert (tmp_path / "report" / "nb" / "nb.ipynb").stat().st_size > 3_000_000


def test_a_cell_that_exits_early_is_no_success(tmp_path):
    write(tmp_path, "print('before')", "raise SystemExit(0)", "print('after')")
    outcome = worker.run_notebook(order(tmp_path))
    assert (outcome.error, outcome.cell) == ("stopped early by sys.exit", 2) and not (
        tmp_path / "report" / "nb"
    ).exists()


def test_outputs_that_arrive_late_hide_no_error(tmp_path, monkeypatch):
    real = PapermillNotebookClient.process_message

    def late(self, *arguments):
        time.sleep(0.06)
        return real(self, *arguments)

    monkeypatch.setattr(PapermillNotebookClient, "process_message", late)
    write(tmp_path, "for i in range(100): display(i)\n1 / 0")
    assert worker.run_notebook(order(tmp_path)).error == "ZeroDivisionError: division by zero"


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_with_what_is_left_and_what_was_there_stays(tmp_path, monkeypatch):
    write(tmp_path, "1")
    assert worker.run_notebook(order(tmp_path)).error == ""
    before = file_hashes(tmp_path / "report" / "nb")
    monkeypatch.setattr(nbformat, "write", full)
    monkeypatch.setattr("fedauto_core.report.orders.write_atomically", full)
    error = worker.run_notebook(order(tmp_path)).error
    assert error.startswith("disk full: OSError: [Errno 28] No space left on device; there are left ")
    assert f"MB for report in {tmp_path / 'report'}, " in error and "(no log: [Errno 28]" in error
    assert file_hashes(tmp_path / "report" / "nb") == before == read_manifest(tmp_path / "report" / "nb")["files"]
    monkeypatch.undo()
    write(tmp_path, "with open('/dev/full', 'w') as file:\n    file.write('x')")
    outcome = worker.run_notebook(order(tmp_path))
    assert outcome.cell == 1 and outcome.error.startswith("disk full: OSError: [Errno 28]")


def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("FEDAUTO_DATA", "/proc/nowhere")
    code = "from fedauto_core.store.frames import write_frames\nfrom fedauto_core.store.files import cache_folder\n"
    write(tmp_path, code + "write_frames(cache_folder() / 'experiments' / 'key', {})")
    error = worker.run_notebook(order(tmp_path)).error
    assert (
        error.startswith("cannot use the cache: ") and "set FEDAUTO_DATA to a folder that this user may write" in error
    )


def test_a_notebook_whose_batch_has_ended_stops_and_leaves_nothing(tmp_path):
    write(tmp_path, "import time\ntime.sleep(600)")
    outcome = worker.run_notebook(order(tmp_path, token="of a batch that is gone"))
    assert outcome.error == "its batch has ended before it"
    assert [path for path in (tmp_path / "report").rglob("*") if path.is_file()] == []


@pytest.fixture
def page(tmp_path):
    """A page with a figure, beside a new one without it."""
    for name, files in (("page", ("nb.html", "old.csv")), ("new", ("nb.html", "new.csv"))):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text(name, encoding="utf-8")
        manifest = {"parameters": {}, "seconds": 1.0, "peak_mib": 1, "files": file_hashes(tmp_path / name)}
        write_json(tmp_path / name / "manifest.json", manifest)
    return tmp_path / "page"


def texts(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_a_new_page_replaces_what_the_manifest_lists_and_keeps_the_readers_own_files(page, capsys):
    (page / ".ipynb_checkpoints").mkdir()
    for name in ("notes.txt", ".ipynb_checkpoints/nb-checkpoint.ipynb", "new.csv"):
        (page / name).write_text("mine", encoding="utf-8")
    place_page(page.parent / "new", page)
    own = {"notes.txt": "mine", ".ipynb_checkpoints/nb-checkpoint.ipynb": "mine", "new.csv.kept": "mine"}
    assert texts(page) == {"nb.html": "new", "new.csv": "new"} | own
    assert set(read_manifest(page)["files"]) == {"nb.html", "new.csv"}
    assert "new.csv is not known to be the report's; kept as new.csv.kept" in capsys.readouterr().err


@pytest.mark.parametrize("manifest", [None, "{"])
def test_where_no_manifest_tells_whose_a_file_is_it_is_kept(page, manifest):
    (page / "manifest.json").unlink() if manifest is None else (page / "manifest.json").write_text(manifest)
    (page / "new.csv").write_text("mine", encoding="utf-8")
    (page / "new.csv.kept").write_text("mine of last week", encoding="utf-8")
    place_page(page.parent / "new", page)
    own = {"new.csv.kept": "mine of last week", "new.csv.kept2": "mine", "nb.html.kept": "page", "old.csv": "page"}
    assert texts(page) == {"nb.html": "new", "new.csv": "new"} | own


def test_a_readers_file_in_the_place_of_a_page_is_kept(page):
    (page.parent / "other").write_text("mine", encoding="utf-8")
    place_page(page.parent / "new", page.parent / "other")
    assert (page.parent / "other.kept").read_text(encoding="utf-8") == "mine"
    assert texts(page.parent / "other") == {"nb.html": "new", "new.csv": "new"}


def test_a_page_half_replaced_is_out_of_date_and_heals(page, monkeypatch):
    real, moved = Path.replace, []

    def killed(self, target):
        if moved:
            raise KeyboardInterrupt
        moved.append(target)
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        place_page(page.parent / "new", page)
    monkeypatch.undo()
    assert read_manifest(page)["files"] != file_hashes(page)
    for name, text in texts(page).items():  # the rerun makes the same page
        (page.parent / "new" / name).write_text(text if name == "new.csv" else "new", encoding="utf-8")
    place_page(page.parent / "new", page)
    assert texts(page) == {"nb.html": "new", "new.csv": "new"}


@pytest.mark.parametrize("name", ["../precious", "/precious", "a/../../precious"])
def test_a_manifest_that_lists_files_elsewhere_is_damaged(page, name):
    (page.parent / "precious").touch()
    manifest = json.loads((page / "manifest.json").read_text(encoding="utf-8"))
    write_json(page / "manifest.json", manifest | {"files": {name: "0" * 64}})
    assert read_manifest(page) is None
    place_page(page.parent / "new", page)
    assert (page.parent / "precious").exists() and texts(page)["nb.html"] == "new"


@trials
def test_a_clock_that_goes_backwards_changes_nothing(trial, two, monkeypatch):
    (two / "go").touch()
    monkeypatch.setattr(time, "time", lambda: -time.monotonic())
    jobs = plan.read_profile("tiny", two / "notebooks")
    for job in jobs:
        assert worker.run_notebook(order(two, job.name, inputs=plan.inputs_of(job, two / "report"))).seconds > 0
        for path in (two / "report" / job.name).iterdir():
            os.utime(path, (4e9, 4e9))
    assert [plan.changes(job, two / "report") for job in jobs] == [[], []]


def test_a_child_that_ends_by_itself_while_it_is_looked_at_is_no_error(tmp_path, monkeypatch):
    class Gone:
        def status(self):
            raise psutil.NoSuchProcess(1)

    class Going:
        def status(self):
            return psutil.STATUS_RUNNING

        def environ(self):
            return {progress.OUTPUT: str(tmp_path)}

        def kill(self):
            raise psutil.NoSuchProcess(1)

    monkeypatch.setattr(psutil, "process_iter", lambda: [Gone(), Going()])
    monkeypatch.setattr(psutil, "wait_procs", lambda found, timeout: None)
    progress.end_processes(tmp_path)


def stream(name, text):
    return new_output("stream", name=name, text=text)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([("stdout", "a"), ("stdout", "b\n"), ("stdout", "c")], [("stdout", "ab\nc")]),
        ([("stderr", "w"), ("stdout", "a"), ("stderr", "x")], [("stdout", "a"), ("stderr", "wx")]),
        ([("stdout", "10%\r20%\rdone\nnext\r")], [("stdout", "done\nnext\r")]),
        ([("stdout", "line\r\nline\r"), ("stdout", "\n")], [("stdout", "line\r\nline\r\n")]),
        ([("stdout", "a\r\rb")], [("stdout", "b")]),
    ],
)
def test_streams_are_joined_as_a_terminal_shows_them(outputs, expected):
    found = worker.coalesced([stream(*output) for output in outputs])
    assert [(output.name, output.text) for output in found] == expected


def test_the_guard_says_in_time_that_a_kernel_shows_too_much(tmp_path):
    watch = guard.Guard(order_of_nothing(tmp_path), tmp_path, "", tmp_path / "units", 1, lambda: None)
    cell = nbformat.from_dict(
        {"outputs": [{"data": {"text/html": "x" * 19_000_000, "application/json": [["y" * 500]]}}]}
    )
    watch.enter(1, cell)
    assert watch.excess() == ""
    cell.outputs.append(stream("stdout", "z" * 1_000_000))
    assert watch.excess().startswith("20 MB of output, 20 MB are allowed")


def order_of_nothing(tmp_path):
    write(tmp_path, "1")
    return order(tmp_path)


def test_clearing_up_deletes_sockets_only(tmp_path):
    """Whatever a damaged state file names."""
    for name, stays in (("fa-x", False), ("precious", True)):
        (tmp_path / name).mkdir()
        state = progress.Progress("nb", 0, 1, 0.0, 0, 0, 0.0, progress.this_worker(), str(tmp_path / name))
        progress.write_progress(tmp_path / "report", state)
        progress.clear_up(tmp_path / "report", "nb")
        assert (tmp_path / name).exists() == stays and progress.read_progress(tmp_path / "report") == {}
