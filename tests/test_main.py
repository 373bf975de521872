"""The command line: options reach the batch, bad input is one line and exit status 2."""

import importlib
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from notebook_factory import write_notebook, write_profile

from fedauto_core import __main__ as command
from fedauto_core.errors import InputError
from fedauto_core.methods import METHODS
from fedauto_core.report.sources import NOTEBOOKS
from fedauto_core.store.keys import PACKAGE

HEAVY = {"torch", "numpy", "pandas", "scipy", "matplotlib", "papermill", "nbconvert", "nbformat", "IPython"}


@pytest.fixture
def calls(monkeypatch):
    made = []
    monkeypatch.setattr(command, "run_report", lambda *args, **options: made.append((args, options)) or 1)
    return made


def test_options_reach_the_batch_and_its_status_is_returned(calls):
    line = (
        "report --profile full --only 1* --only 30* --set a=1 --set b=2 --jobs 3 --dry-run --fresh --out x --timeout 5"
    )
    assert command.main([*line.split(), "--notebooks", "y", "--scheduler", "tcp://h:1"]) == 1
    ((arguments, options),) = calls
    assert arguments == ("full",)
    assert options == {
        "only": ["1*", "30*"],
        "settings": ["a=1", "b=2"],
        "jobs": 3,
        "dry_run": True,
        "fresh": True,
        "scheduler": "tcp://h:1",
        "timeout": 5.0,
        "out": Path("x"),
        "notebooks_dir": Path("y"),
    }


def test_a_sweep_takes_the_options_of_a_report(monkeypatch):
    made = []
    monkeypatch.setattr(
        "fedauto_core.report.sweep.run_sweep", lambda *args, **options: made.append((args, options)) or 1
    )
    line = "sweep 01_a --grid a=1,2 --grid b=3 --set c=4 --profile full --jobs 2 --out x --scheduler tcp://h:1"
    assert command.main(line.split()) == 1
    ((arguments, options),) = made
    assert arguments == ("01_a", "full", ["a=1,2", "b=3"])
    assert options["settings"] == ["c=4"] and options["jobs"] == 2 and options["out"] == Path("x")
    assert options["scheduler"] == "tcp://h:1" and options["fresh"] is options["dry_run"] is False


@pytest.mark.parametrize(
    ("line", "name", "arguments", "options"),
    [
        ("verify r", "verify", (Path("r"),), {}),
        ("compare a b --out c", "compare", (), {"first": Path("a"), "second": Path("b"), "out": Path("c")}),
        (
            "reproduce 01_a --profile full --report r --at-least bit-identical --jobs 1",
            "reproduce",
            ("01_a", "full"),
            {"report": Path("r"), "out": None, "at_least": "bit-identical", "jobs": 1, "notebooks_dir": NOTEBOOKS},
        ),
    ],
)
def test_each_command_reaches_its_module_and_its_status_is_returned(monkeypatch, line, name, arguments, options):
    made = []
    module = importlib.import_module(f"fedauto_core.report.{name}")
    monkeypatch.setattr(module, f"run_{name}", lambda *args, **options: made.append((args, options)) or 1)
    assert command.main(line.split()) == 1
    assert made == [(arguments, options)]


def test_defaults(calls):
    command.main(["report"])
    assert calls == [
        (
            ("smoke",),
            {
                "only": [],
                "settings": [],
                "jobs": None,
                "dry_run": False,
                "fresh": False,
                "scheduler": None,
                "timeout": None,
                "out": None,
                "notebooks_dir": NOTEBOOKS,
            },
        )
    ]


def test_bad_input_is_one_line_and_status_2(monkeypatch, capsys):
    def refuse(*_, **__):
        raise InputError("seeds = 0", allowed="seeds >= 1", remedy="use more")

    monkeypatch.setattr(command, "run_report", refuse)
    assert command.main(["report"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: seeds = 0. Allowed: seeds >= 1. Remedy: use more.\n" and captured.out == ""


def test_methods_prints_the_card(capsys):
    assert command.main(["methods"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 + len(METHODS) and rows[2].startswith("| fedauto |")


def test_list_names_the_notebooks(monkeypatch, capsys):
    monkeypatch.setattr(command, "print_notebooks", print)
    assert command.main(["list", "--notebooks", "y"]) == 0
    assert capsys.readouterr().out == "y\n"


def test_the_module_can_be_called(monkeypatch, capsys):
    """`python -m fedauto_core` with an unknown profile, in the real folder: status 2, one line, no traceback."""
    monkeypatch.setattr(sys, "argv", ["fedauto_core", "report", "--profile", "nope"])
    monkeypatch.delitem(sys.modules, "fedauto_core.__main__")  # runpy warns if what it runs was imported before
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("fedauto_core", run_name="__main__", alter_sys=True)
    captured = capsys.readouterr()
    assert stopped.value.code == 2 and captured.out == ""
    assert captured.err.startswith("error: unknown profile 'nope'. Allowed: ") and captured.err.count("\n") == 1


def test_help_says_where_reports_go(capsys):
    for line in (["--help"], ["report", "--help"]):
        with pytest.raises(SystemExit):
            command.main(line)
    out = " ".join(capsys.readouterr().out.split())
    assert "In a checkout, reports go to its folder reports/" in out and "reports/PROFILE" in out


@pytest.mark.parametrize("line", ["--help", "list", "report --profile standard --dry-run", "report"])
def test_a_command_without_work_imports_nothing_heavy(tmp_path, line):
    """`report` is that of a folder in which everything is up to date."""
    write_notebook(tmp_path / "notebooks", "01_a", "1")
    write_profile(tmp_path / "notebooks", "01_a: {minutes: 1}\n")
    words = [*line.split(), *(UP_TO_DATE.format(tmp_path).split() if line == "report" else ())]
    if line == "report":
        assert command.main(words) == 0
    code = (
        "import sys, contextlib\nfrom fedauto_core.__main__ import main\n"
        f"with contextlib.suppress(SystemExit):\n    main({words})\n"
        "print('\\n', *{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *output, loaded = done.stdout.splitlines()
    assert output and HEAVY & set(loaded.split()) == set()
    assert line != "report" or "[1/1] 01_a  up to date" in output


UP_TO_DATE = "--profile tiny --notebooks {0}/notebooks --out {0}/out"


def test_an_installed_package_brings_its_notebooks_and_reports_into_the_current_folder(tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    shutil.copytree(PACKAGE, site / "fedauto_core", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(NOTEBOOKS, site / "fedauto_core" / "_notebooks")
    here.mkdir()

    def output(*words):
        command, environment = [sys.executable, "-m", "fedauto_core", *words], os.environ | {"PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True).stdout

    assert "\n30_review\n    show_open: bool" in output("list")
    assert output("report", "--dry-run").endswith(f"into {here / 'reports' / 'smoke'}\n")
    assert "(default: reports/PROFILE)" in " ".join(output("report", "--help").split())


def test_a_reader_who_has_seen_enough_is_no_error():
    command = f"'{sys.executable}' -m fedauto_core list | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "00_start_here\n", "")


def test_a_report_cut_short_by_its_reader_is_no_success(monkeypatch):
    def cut(*_, **__):
        raise BrokenPipeError

    monkeypatch.setattr(command, "run_report", cut)
    with pytest.raises(BrokenPipeError):
        command.main(["report"])


def test_a_status_whose_reader_has_seen_enough_is_no_error(tmp_path):
    for number in range(3000):  # more lines than a pipe holds
        write_notebook(tmp_path, f"{number:04}_a", "1")
    write_profile(tmp_path, "".join(f"{number:04}_a: {{minutes: 1}}\n" for number in range(3000)))
    line = f"report --status --profile tiny --notebooks '{tmp_path}' --out '{tmp_path}/out'"
    command = f"'{sys.executable}' -m fedauto_core {line} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "no batch runs here\n", "")
