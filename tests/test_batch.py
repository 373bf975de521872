"""The batch: order, skipping, failures, interruption, damaged state."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
from notebook_factory import InProcess, use_executor, write_notebook, write_profile

from fedauto_core.errors import InputError
from fedauto_core.report import batch, plan, worker
from fedauto_core.report.orders import Outcome
from fedauto_core.report.overview import OF_RULES, ON_TOP

WRITTEN = {"claims.md", "status.md", *(name.partition("/")[0] for name in (*ON_TOP, *OF_RULES))}
PROFILE = "01_a: {minutes: 1}\n02_b: {minutes: 5, parameters: {seeds: 4}}\n30_review: {minutes: 9, after: all}\n"


@pytest.fixture
def folder(tmp_path):
    for name in ("01_a", "30_review"):
        write_notebook(tmp_path / "notebooks", name, "1")
    write_notebook(tmp_path / "notebooks", "02_b", "seeds", parameters="seeds: int = 3  # repetitions")
    write_profile(tmp_path / "notebooks", PROFILE)
    return tmp_path


def pretend(order, others=()):
    """A notebook that leaves a page in no time."""
    result = order.out / order.name
    shutil.rmtree(result, ignore_errors=True)
    result.mkdir(parents=True)
    for name in ("verdicts", *others):
        (result / f"{name}.json").write_text("[]")
    worker._write_manifest(order, result, 1.0, 10)
    return Outcome(order.name, 1.0)


def report(folder, **options):
    return batch.run_report("tiny", notebooks_dir=folder / "notebooks", out=folder / "out", **options)


@pytest.fixture
def executor(monkeypatch):
    return use_executor(monkeypatch, InProcess(pretend))


def test_longest_first_the_review_last_then_everything_is_up_to_date(folder, executor, capsys):
    assert report(folder) == 0
    assert [order.name for order in executor.orders] == ["02_b", "01_a", "30_review"]
    assert executor.orders[0].inputs["parameters"] == executor.orders[0].overrides == {"seeds": 4}
    assert capsys.readouterr().out.splitlines()[:2] == ["[1/3] 02_b  ok  1 s", "[2/3] 01_a  ok  1 s"]
    assert report(folder) == 0
    assert len(executor.orders) == 3
    assert capsys.readouterr().out.count("up to date\n") == 3
    assert {path.name for path in (folder / "out").iterdir()} >= WRITTEN


def test_only_what_changed_runs_again(folder, executor):
    report(folder)
    del executor.orders[:]
    (folder / "out" / "01_a" / "verdicts.json").write_text("[ ]")  # edited by hand: not what the notebook left
    report(folder, settings=["seeds=5"])
    assert [order.name for order in executor.orders] == ["02_b", "01_a"]
    report(folder, fresh=True, only=["01*"])
    assert [(order.name, order.fresh) for order in executor.orders[2:]] == [("01_a", True)]


def test_a_review_runs_again_when_a_verdict_changed(folder, executor):
    report(folder)
    write_notebook(folder / "notebooks", "01_a", "2")
    executor.run = lambda order: (order.name == "01_a" and VERDICT.update(text="[\n]")) or pretend_with(order)
    report(folder)
    assert [order.name for order in executor.orders[3:]] == ["01_a", "30_review"]


VERDICT = {"text": "[]"}


def pretend_with(order):
    outcome = pretend(order)
    (order.out / order.name / "verdicts.json").write_text(VERDICT["text"])
    return outcome


class Slow(Executor):
    """Keeps what was submitted until nothing more comes, and notes how many processes were promised at a time."""

    def __init__(self):
        self.open, self.busy = {}, []

    def submit(self, function, order):
        future = Future()
        self.open[future] = order
        self.busy.append(sum(order.processes for order in self.open.values()))
        return future

    def finish(self, futures, timeout, return_when):
        first = next(iter(futures))
        first.set_result(pretend(self.open.pop(first)))
        return {first}, set()


def test_notebooks_that_share_all_cores_leave_none_to_others(folder, monkeypatch):
    text = "02_b: {minutes: 3, parallel: true}\n01_a: {minutes: 2}\n30_review: {minutes: 1, parallel: true}"
    write_profile(folder / "notebooks", text)
    executor = use_executor(monkeypatch, Slow())
    monkeypatch.setattr(batch, "wait", executor.finish)
    report(folder, jobs=2)
    assert executor.busy == [2, 2, 1]  # each that shares them ran alone, then the other


def test_a_parallel_notebook_gets_a_process_for_each_cpu_or_as_many_as_asked_for(folder, executor, monkeypatch):
    write_profile(folder / "notebooks", "01_a: {minutes: 1, parallel: true}")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    report(folder)
    report(folder, jobs=2, fresh=True)
    assert [order.processes for order in executor.orders] == [8, 2]
    with pytest.raises(InputError, match=r"--jobs = 0. Allowed: integers >= 1"):
        report(folder, jobs=0)


def test_a_failing_notebook_stops_nothing_and_ends_in_the_table(folder, monkeypatch, capsys):
    write_notebook(folder / "notebooks", "02_b", "# B", "x = 1\nx / 0", parameters="seeds: int = 3  # repetitions")
    executor = use_executor(monkeypatch, InProcess())
    assert report(folder, only=["0*"], settings=["seeds=7"]) == 1
    assert [order.name for order in executor.orders] == ["02_b", "01_a"]
    out = capsys.readouterr().out
    assert "02_b: cell 3, line `x / 0`\n  ZeroDivisionError: division by zero\n" in out
    assert f"log:    {os.path.relpath(folder / 'out' / 'logs' / '02_b.log')}\n" in out
    source, target = (os.path.relpath(folder / name) for name in ("notebooks", "out"))
    repeat = f"--profile tiny --only 02_b --set seeds=7 --notebooks {source} --out {target}\n"
    assert f"repeat: python -m fedauto_core report {repeat}" in out
    assert "1 notebook failed" in out and (folder / "out" / "01_a" / "01_a.html").exists()
    assert "| 02_b | failed |" in (folder / "out" / "status.md").read_text()


def test_a_notebook_that_refuses_its_input_gives_exit_status_2(folder, monkeypatch, capsys):
    source = (
        "from fedauto_core.errors import require\nrequire(seeds > 0, 'seeds = 0', allowed='> 0', remedy='ask for one')"
    )
    write_notebook(folder / "notebooks", "02_b", source, parameters="seeds: int = 3  # repetitions")
    use_executor(monkeypatch, InProcess())
    assert report(folder, only=["0*"], settings=["seeds=0"]) == 2
    assert "InputError: seeds = 0. Allowed: > 0. Remedy: ask for one." in capsys.readouterr().out
    assert not (folder / "out" / "02_b").exists()


def test_a_worker_that_dies_is_a_failure_of_its_notebook(folder, monkeypatch, capsys):
    class Broken(InProcess):
        def submit(self, function, order):
            if order.name == "01_a":
                raise BrokenProcessPool("the pool refuses")
            return super().submit(function, order)

    def die(order):
        if order.name == "02_b":
            raise BrokenProcessPool("a process died")
        return pretend(order)

    use_executor(monkeypatch, Broken(die))
    assert report(folder) == 1
    out = capsys.readouterr().out
    assert "02_b: outside the cells\n  BrokenProcessPool: a process died" in out
    assert "01_a: outside the cells\n  BrokenProcessPool: the pool refuses" in out
    assert (folder / "out" / "logs" / "02_b.log").exists() and (folder / "out" / "30_review").exists()


def test_a_dry_run_shows_the_plan_and_touches_nothing(folder, executor, capsys):
    report(folder, only=["02*"], jobs=1)
    capsys.readouterr()
    assert report(folder, dry_run=True, jobs=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["02_b", "up", "to", "date", "5.0", "min", "seeds=4"]
    assert lines[2].split() == ["30_review", "run", "9.0", "min", "after", "all", "others"]
    assert lines[3].startswith("about 10 minutes with 1 process(es)")
    assert len(executor.orders) == 1
    batch.run_report("tiny", notebooks_dir=folder / "notebooks", out=folder / "new", dry_run=True)
    assert not (folder / "new").exists()


def test_two_batches_never_share_a_folder(folder, executor):
    with batch._held(folder / "out"), pytest.raises(InputError, match=r"in use by another batch.*--out"):
        report(folder)
    assert report(folder) == 0


DAMAGED = {
    "empty": b"",
    "cut": b'{"key": "x", ',
    "mapping": b"{}",
    "list": b"[3]",
    "null": b"null",
    "wrong types": b'{"parameters": [], "seconds": 1, "peak_mib": 1, "files": {}}',
    "binary": bytes(range(256)),
    "deep": b"[" * 100_000,
    "folder": None,
}


def damage(path, content):
    path.unlink()
    path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_page_with_a_damaged_manifest_counts_as_not_there_and_one_line_says_so(folder, executor, capsys, content):
    report(folder)
    del executor.orders[:]
    capsys.readouterr()
    damage(folder / "out" / "01_a" / "manifest.json", content)
    assert report(folder) == 0
    assert executor.orders[0].name == "01_a" and "02_b" not in [order.name for order in executor.orders]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{folder / 'out' / '01_a' / 'manifest.json'} is damaged and counts as not there: ")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["verdicts", "products", "provenance"])
def test_a_page_with_any_damaged_file_runs_again_and_breaks_nothing_before(folder, executor, name, content):
    executor.run = lambda order: pretend(order, ("products", "provenance"))
    report(folder)
    del executor.orders[:]
    damage(folder / "out" / "02_b" / f"{name}.json", content)
    assert report(folder, only=["01*"]) == 0  # the overview is written over the damaged page
    status = (folder / "out" / "status.md").read_text(encoding="utf-8")
    assert "| 02_b | out of date (files) |" in status and "| 01_a | ok |" in status
    assert executor.orders == []
    assert report(folder) == 0
    assert executor.orders[0].name == "02_b"


def test_a_file_in_the_place_of_a_page_is_replaced(folder, monkeypatch, capsys):
    use_executor(monkeypatch, InProcess())
    (folder / "out").mkdir()
    for name in ("01_a", ".work"):
        (folder / "out" / name).write_text("a file")
    (folder / "out" / "logs" / "02_b.log").mkdir(parents=True)
    (folder / "out" / "index.html").mkdir()
    assert report(folder, only=["0*"]) == 0
    assert (folder / "out" / "index.html").is_file() and list((folder / "out" / "logs").iterdir()) == []
    assert (folder / "out" / "01_a" / "01_a.html").is_file() and not (folder / "out" / ".work").exists()
    assert capsys.readouterr().err.count("counts as not there") == 1


def test_one_damaged_notebook_is_a_failure_of_its_own(folder, executor, capsys):
    report(folder)
    (folder / "notebooks" / "02_b.ipynb").write_bytes(b"")
    write_notebook(folder / "notebooks", "01_a", "2")
    assert report(folder, only=["0*"]) == 2
    assert [order.name for order in executor.orders[3:]] == ["01_a"]
    out = capsys.readouterr().out
    assert "02_b: outside the cells\n  InputError: 02_b.ipynb cannot be read: JSONDecodeError" in out
    assert "| 02_b | failed |" in (folder / "out" / "status.md").read_text(encoding="utf-8")
    assert (folder / "out" / "02_b" / "verdicts.json").exists()  # what it left last time is kept
    batch.print_notebooks(folder / "notebooks")
    listed = capsys.readouterr().out
    assert "01_a\n02_b\n    02_b.ipynb cannot be read" in listed and listed.endswith("30_review\n")
    assert report(folder, dry_run=True) == 0 and "02_b.ipynb cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["/dev/null/x", "/proc/x", "a file", "a file/below", "logs is a file"])
def test_a_report_folder_that_cannot_be_used_is_one_clear_error(folder, executor, place):
    (folder / "a file").touch()
    (folder / "logs is a file").mkdir()
    (folder / "logs is a file" / "logs").touch()
    options = dict(notebooks_dir=folder / "notebooks", out=folder / place)
    with pytest.raises(InputError, match=r"report folder .*can be made, locked and written.*--out"):
        batch.run_report("tiny", **options)
    assert batch.run_report("tiny", dry_run=True, **options) == 0


def test_a_folder_that_knows_no_locks_is_one_clear_error(folder, executor, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("filelock._unix.lock_fd_nonblocking", refuse)
    with pytest.raises(InputError, match=r"no lock can be had on .*No locks available.*--out"):
        report(folder)


def test_the_index_is_rewritten_only_when_something_in_it_changed(folder, executor):
    report(folder)
    index = folder / "out" / "index.html"
    before, written = index.read_bytes(), index.stat().st_mtime_ns
    report(folder)
    assert index.stat().st_mtime_ns == written
    index.write_bytes(before.replace(b"claims", b"klaims"))
    report(folder)
    assert index.read_bytes() == before
    report(folder, settings=["seeds=9"])
    assert index.read_bytes() != before and b"seeds=9" in (folder / "out" / "status.html").read_bytes()


@pytest.mark.parametrize(
    ("prose", "reason"),
    [
        (r"# Title $\nosuch$", r"01_a, cell 1: mathematics '\\\\nosuch': unknown command \\nosuch"),
        (r"# See $\eqref{eq:1}$", "01_a, cell 1: unknown equation label 'eq:1'"),
        ("# ![x](attachment:x.png)", "01_a, cell 1: unknown pasted picture 'x.png'"),
        ('# <img src="attachment:x.png">', "01_a, cell 1: unknown pasted picture 'x.png'"),
    ],
)
def test_prose_that_no_page_can_show_is_refused_before_the_run(folder, executor, capsys, prose, reason):
    write_notebook(folder / "notebooks", "01_a", prose, "1")
    assert report(folder, only=["0*"]) == 2
    assert [order.name for order in executor.orders] == ["02_b"]  # the others are run
    assert re.search(rf"01_a: outside the cells\n  InputError: {reason}", capsys.readouterr().out)


def test_pages_are_written_anew_without_running_anything(folder, monkeypatch, capsys):
    use_executor(monkeypatch, InProcess())
    report(folder)
    page = folder / "out" / "01_a" / "01_a.html"
    before, executor = page.read_bytes(), use_executor(monkeypatch, InProcess(pretend))
    options = {"out": folder / "out", "notebooks_dir": folder / "notebooks"}
    page.unlink()
    (folder / "out" / "assets" / "style.css").write_text("damaged")
    assert batch.write_pages("tiny", **options) == 0
    assert page.read_bytes() == before and executor.orders == []
    assert "damaged" not in (folder / "out" / "assets" / "style.css").read_text()
    (folder / "out" / "02_b" / "02_b.ipynb").write_text("damaged")  # which does not keep the others from theirs
    assert batch.write_pages("tiny", **options) == 0
    assert "| 02_b | out of date (files) |" in (folder / "out" / "status.md").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="no notebook of profile tiny has been run into"):
        batch.write_pages("tiny", out=folder / "nothing", notebooks_dir=folder / "notebooks")
    assert not (folder / "nothing").exists()


def test_a_scheduler_without_dask_is_refused_with_the_remedy(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"Dask is not installed.*pip install -e '\.\[cluster\]'"):
        report(folder, scheduler="tcp://localhost:1")


def test_the_command_that_repeats_a_batch_names_its_scheduler(folder, executor):
    report(folder, only=["01*"])
    report(folder, only=["01*"], scheduler="tcp://h:1", fresh=True)
    commands = [order.command for order in executor.orders]
    assert ["--scheduler tcp://h:1 " in command for command in commands] == [False, True]


def test_notebooks_are_listed_with_type_default_and_help(folder, capsys):
    batch.print_notebooks(folder / "notebooks")
    assert capsys.readouterr().out == "01_a\n02_b\n    seeds: int = 3 (repetitions)\n30_review\n"


def test_an_interrupted_batch_stops_its_kernels_and_continues_later(tmp_path):
    """The real pool of processes: Ctrl-C while one notebook is done and another one runs."""
    pid = tmp_path / "pid"
    slow = f"import os, pathlib, time\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(tmp_path / "notebooks", "01_quick", "1")
    write_notebook(tmp_path / "notebooks", "02_slow", slow)
    write_profile(tmp_path / "notebooks", "01_quick: {minutes: 2}\n02_slow: {minutes: 1}\n")
    script = tmp_path / "go.py"
    script.write_text(
        "import pathlib, sys\nfrom fedauto_core.report.batch import run_report\n"
        "if __name__ == '__main__':\n    here = pathlib.Path(__file__).parent\n"
        "    sys.exit(run_report('tiny', jobs=1, out=here / 'out', notebooks_dir=here / 'notebooks'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(batch.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    kernel = psutil.Process(int(pid.read_text()))
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors == ""
    assert "01_quick  ok" in out and "Continue with: python -m fedauto_core report --profile tiny" in out
    kernel.wait(timeout=30)
    result = tmp_path / "out"
    assert {path.name for path in result.iterdir()} == {"01_quick", *WRITTEN}
    first, second = plan.read_profile("tiny", tmp_path / "notebooks")
    assert plan.changes(first, result) == [] and plan.changes(second, result) is None


def test_a_legacy_locale_gives_the_same_files(tmp_path):
    """Captions, prose and outputs beyond ASCII, under a locale that knows ASCII only."""
    source = (
        "import pandas as pd\nfrom fedauto_core.report import record\nprint('−∞ ä')\n"
        "record.Page('01_a', {}).table(pd.DataFrame({'λ': ['½']}), 'x', 'Größe −1')"
    )
    write_notebook(tmp_path / "notebooks", "01_a", "# Überschrift $\\alpha$ “so”", source)
    write_profile(tmp_path / "notebooks", "# Umlaut: ä\n01_a: {minutes: 2}\n")
    reports = []
    for name, locale in (
        ("utf8", {"LC_ALL": "C.UTF-8"}),
        ("c", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    ):
        words = ["--profile", "tiny", "--notebooks", tmp_path / "notebooks", "--out", tmp_path / name]
        environment = os.environ | locale | {"PYTHONPATH": str(Path(batch.__file__).parents[2])}
        command = [sys.executable, "-m", "fedauto_core", "report", *words]
        done = subprocess.run(command, env=environment, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        files = {path.name: path.read_bytes() for path in (tmp_path / name / "01_a").iterdir()}
        reports.append({name: content for name, content in files.items() if name != "manifest.json"})  # it has the time
    assert reports[0] == reports[1] and "x.csv" in reports[0]


def test_a_grid_gives_a_report_of_its_points(folder, executor, capsys):
    assert report(folder, only=["02*"], grids=["seeds=1,2"]) == 0
    assert {order.name: order.inputs["parameters"] for order in executor.orders} == {
        "02_b-seeds_1": {"seeds": 1},
        "02_b-seeds_2": {"seeds": 2},
    }
    assert executor.orders[0].command.startswith("python -m fedauto_core sweep '02*' --profile tiny --grid seeds=1,2")
    status = (folder / "out" / "status.md").read_text(encoding="utf-8")
    assert "| 02_b-seeds_1 | ok |" in status and "| 01_a |" not in status
    assert report(folder, only=["02*"], grids=["seeds=2,3"]) == 0
    assert [order.name for order in executor.orders[2:]] == ["02_b-seeds_3"]
