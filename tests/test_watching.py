"""What a batch shows of itself: how far, how long still; in lines, on a terminal, to another shell."""

import io
import sys

import pytest
from notebook_factory import InProcess, use_executor, write_notebook, write_profile
from rich.console import Console
from test_batch import pretend

from fedauto_core.report import batch, guard, progress, watching
from fedauto_core.report.folder import work_folder
from fedauto_core.report.progress import Progress
from fedauto_core.store.progress import tell


def at(name="10_long", **changes):
    values = dict(cell=3, cells=12, seconds=120.0, done=0, units=0, units_s=0.0, worker="host:1", sockets="")
    return Progress(name, **(values | changes))


@pytest.fixture
def board():
    minutes = {"10_long": 10.0, "11_short": 2.0, "12_done": 1.0}
    return watching.Board("the command", 2, minutes, {"10_long": 2, "11_short": 1, "12_done": 1})


def test_what_is_left_follows_the_profile_the_pace_seen_and_the_units_done(board):
    assert board.left("10_long") == 600 and board.left("10_long", at()) == 480
    board.ended["12_done"] = ["ok", 30.0]  # half of what was expected
    assert board.pace() == 0.5 and board.left("10_long", at()) == 180 and board.left("10_long", at(seconds=900)) == 0
    assert board.left("10_long", at(seconds=900, done=3, units=12, units_s=60.0)) == 180  # nine more at twenty seconds
    board.ended["11_short"] = ["failed", 1.0]  # says nothing of the pace, no more than a page that was up to date
    assert board.pace() == 0.5


def test_the_batch_needs_at_least_as_long_as_its_work_on_all_processes(board):
    assert board.left_in_all({}) == (600 * 2 + 120 + 60) / 2
    board.ended |= {"10_long": ["ok", 600.0], "12_done": ["up to date", None]}
    assert board.left_in_all({}) == board.left_in_all({"11_short": at("11_short", seconds=0.0)}) == 120
    board.ended["11_short"] = ["failed", 1.0]
    assert board.left_in_all({}) == 0


def test_lines_and_the_live_table_say_the_same(board):
    board.ended["12_done"] = ["failed", 60.0]
    running = {"10_long": at(done=4, units=40, units_s=100.0)}
    summary = "1 of 3 done, 1 running, 1 failed, about 16:00 left"
    row = ["10_long", "cell 3 of 12", "4 of 40 units", "2:00", "about 15:00 left"]
    assert list(watching.lines(board, running)) == [summary, "  ".join(["", *row])]
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    shown = watching.LiveDisplay(board, lambda: running, None, console)
    with shown.live:
        shown.refresh(1.0)
    text = console.file.getvalue()
    assert all(part in text for part in row) and "1 of 3 done" in Console().render_str(text).plain.replace("\x1b", "")
    assert watching.clock(3725.4) == "1:02:05" and watching.cells_of(board, at(cell=0))[1:3] == ("starting", "")
    assert watching.cells_of(board, at(seconds=900.0))[3:] == ("15:00", "longer than expected")


def test_without_a_terminal_a_line_a_minute_tells_what_runs(board, tmp_path, capsys):
    with watching.display(board, lambda: {"10_long": at()}, tmp_path) as shown:
        for _ in range(59):
            shown.refresh(1.0)
        assert capsys.readouterr().out == ""
        shown.refresh(1.0)
    assert capsys.readouterr().out.splitlines()[1].split("  ")[1:3] == ["10_long", "cell 3 of 12"]


def test_a_terminal_gets_the_table_and_what_is_printed_stays_above(board, tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with watching.display(board, lambda: {"10_long": at()}, tmp_path) as shown:
        shown.refresh(1.0)
        shown.line("[1/3] 12_done  ok  60 s")
    assert "cell 3 of 12" in terminal.getvalue() and "[1/3] 12_done  ok  60 s" in terminal.getvalue()


def test_the_kernel_tells_its_units_through_a_file_and_the_worker_passes_them_on(tmp_path, monkeypatch):
    tell(1, 2)  # nobody watches
    monkeypatch.setenv("FEDAUTO_PROGRESS", str(tmp_path / "units.json"))
    order = type("Order", (), {"name": "10_long", "out": tmp_path})
    watch = guard.Guard(order, tmp_path, "there", tmp_path / "units.json", 12, lambda: None)
    watch.enter(3, {})
    tell(4, 40)
    watch._tell()
    (found,) = progress.read_progress(tmp_path).values()
    assert (found.cell, found.cells, found.done, found.units, found.sockets) == (3, 12, 4, 40, "there")
    watch.enter(4, {})  # the units were those of the cell before
    watch._tell()
    (found,) = progress.read_progress(tmp_path).values()
    assert (found.cell, found.units, found.units_s) == (4, 0, 0.0)
    progress.state_file(tmp_path, "11_short").write_text("{", encoding="utf-8")
    assert list(progress.read_progress(tmp_path)) == ["10_long"]


@pytest.fixture
def folder(tmp_path):
    write_notebook(tmp_path / "notebooks", "01_a", "1")
    write_notebook(tmp_path / "notebooks", "02_b", "1")
    write_profile(tmp_path / "notebooks", "01_a: {minutes: 2}\n02_b: {minutes: 1}\n")
    return tmp_path


def status(folder, capsys):
    assert batch.print_status("tiny", folder / "out", folder / "notebooks") == 0
    return capsys.readouterr().out


def test_status_tells_of_a_running_batch_and_of_none(folder, monkeypatch, capsys):
    seen = []

    def look(order):
        progress.write_progress(order.out, at(order.name))
        seen.append(status(folder, capsys))
        progress.state_file(order.out, order.name).unlink()
        return pretend(order)

    use_executor(monkeypatch, InProcess(look))
    assert status(folder, capsys).splitlines()[0] == "no batch runs here"
    assert batch.run_report("tiny", notebooks_dir=folder / "notebooks", out=folder / "out", jobs=1) == 0
    first, second, *_ = seen[0].splitlines()
    assert first == "0 of 2 done, 1 running, about 1:00 left" and second.split()[:2] == ["01_a", "cell"]
    assert seen[0].splitlines()[2].split() == ["01_a", "running"]
    capsys.readouterr()
    lines = status(folder, capsys).splitlines()
    assert [line.split() for line in lines[1:]] == [["01_a", "ok"], ["02_b", "ok"]]
    assert not work_folder(folder / "out").exists()


def test_every_order_has_a_time_limit(folder, monkeypatch):
    executor = use_executor(monkeypatch, InProcess(pretend))
    options = dict(notebooks_dir=folder / "notebooks", out=folder / "out")
    batch.run_report("tiny", **options)
    batch.run_report("tiny", timeout=0.5, fresh=True, **options)
    assert [order.limit_s for order in executor.orders] == [1200, 600, 30, 30]
    assert "--timeout 0.5 " in executor.orders[2].command + " "
    with pytest.raises(batch.InputError, match=r"--timeout = -1"):
        batch.run_report("tiny", timeout=-1, **options)
