"""The pins: what is installed, what conda asks for, what has wheels for every Python; and when `.venv` is made anew."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from rattler import MatchSpec

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = [line.rpartition(" ")[2] for line in PROJECT["classifiers"]]
INSTALLS = ["-c constraints.txt", "-e .[certificates,cluster,dev,flower,text]"]
"""What pip is told to install, by `make` and by conda."""


def requirements(lines):
    return [Requirement(line) for line in lines]


LOCKS = {"constraints.txt": sorted(EXTRAS.keys() - {"appfl"}), "examples/appfl/constraints.txt": ["appfl"]}
"""Files of pins, and the extras that each holds: APPFL does not go together with [text]."""


def pins(lock="constraints.txt"):
    """All requirements of a file of pins."""
    lines = (ROOT / lock).read_text().splitlines()
    return requirements(line for line in lines if not line.startswith("#"))


def number(pin):
    """The version that an exact pin asks for."""
    return re.fullmatch(r"==([0-9a-z.]+)", str(pin.specifier))[1]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_supported_pythons_are_those_of_the_classifiers():
    supported = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if f"3.{minor}.1" in supported] == PYTHONS
    assert sys.version_info[:2] in [tuple(map(int, python.split("."))) for python in PYTHONS]


def test_conda_and_make_hand_the_same_words_to_pip():
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert [MatchSpec(line).name.normalized for line in conda] == ["python", "pip"]
    assert conda[0].removeprefix("python=") in PYTHONS
    assert pip == {"pip": INSTALLS}
    assert " ".join(INSTALLS) in (ROOT / "Makefile").read_text().replace("'", "")


def test_pip_takes_the_conda_list_and_finds_it_installed(tmp_path):
    for name in ("constraints.txt", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for folder in ("examples", "fedauto_core", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "list.txt").write_text("\n".join(INSTALLS))
    options = ("--no-index", "--no-build-isolation", "--dry-run", "--report", "report.json", "--quiet")
    done = run(sys.executable, "-m", "pip", "install", *options, "-r", "list.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert [package["metadata"]["name"] for package in report["install"]] == ["fedauto-core"]


@pytest.mark.parametrize("lock, extras", LOCKS.items())
def test_every_requirement_is_a_range_around_its_pin(lock, extras):
    pinned = {canonicalize_name(pin.name): number(pin) for pin in pins(lock)}
    for requirement in requirements(sum(map(EXTRAS.get, extras), PROJECT["dependencies"])):
        assert sorted(part.operator for part in requirement.specifier) == ["<", ">="], requirement
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_every_pin_is_what_is_installed():
    """What is asked for must be there; of what that needs in turn, a CPU build of PyTorch leaves the CUDA part out."""
    installed = {}
    for pin in pins():
        if pin.marker is None or pin.marker.evaluate():
            with suppress(PackageNotFoundError):
                installed[canonicalize_name(pin.name)] = number(pin), version(pin.name).split("+")[0]
    assert {name: pair for name, pair in installed.items() if pair[0] != pair[1]} == {}
    direct = PROJECT["dependencies"] + EXTRAS["certificates"] + EXTRAS["dev"] + EXTRAS["text"]
    assert {canonicalize_name(requirement.name) for requirement in requirements(direct)} <= set(installed)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Where the index's answers are kept between two resolutions; nothing is downloaded but metadata."""
    return tmp_path_factory.mktemp("answers")


@pytest.mark.parametrize("lock", LOCKS)
@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_resolve_to_wheels(python, lock, answers):
    """On Linux, x86_64. Without an index it is skipped, except in CI."""
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--cache-dir", str(answers)]
    target = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_28", "--only-binary", ":all:"]
    extras = [word for extra in LOCKS[lock] for word in ("--extra", extra)]
    options = ["--no-python-downloads", "--no-header", "--no-annotate", *extras, "-c", lock]
    done = run(*uv, *target, *options, "pyproject.toml", cwd=ROOT)
    if done.returncode > 1 and "CI" not in os.environ:
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1].strip()}")
    assert done.returncode == 0, f"Python {python}: no wheels for these pins (status 1), or no index (2)\n{done.stderr}"
    pinned = {f"{canonicalize_name(pin.name)}{pin.specifier}" for pin in pins(lock)}
    assert set(done.stdout.splitlines()) <= pinned, f"{lock} is incomplete: make lock"


COMPILE = "import json, sys\nfor name, text in json.load(sys.stdin).items(): compile(text, name, 'exec')"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_sources_compile_without_a_warning(python):
    """By every interpreter at hand; pyenv must be told which one is meant."""
    command = sys.executable if python == "{}.{}".format(*sys.version_info) else f"python{python}"
    environment = os.environ | {"PYENV_VERSION": python}
    if not shutil.which(command) or run(command, "-c", "", env=environment).returncode:
        pytest.skip(f"no {command} here")
    sources = {
        str(path): path.read_text() for room in ("fedauto_core", "tests") for path in (ROOT / room).rglob("*.py")
    }
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources[str(path)] = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    done = run(command, "-W", "error", "-c", COMPILE, input=json.dumps(sources), env=environment)
    assert done.returncode == 0, done.stderr


def interpreter(path, python):
    """A stand-in for an interpreter, which only says its version, as the Makefile asks for it; none if unsupported."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {python}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def plan(tmp_path):
    """A folder with an environment of Python 3.12, and what `make test PYTHON=...` would do there."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    interpreter(tmp_path / ".venv" / "bin" / "python", "3.12")
    (tmp_path / ".venv" / ".installed-3.12").touch()
    environment = {"PATH": os.environ["PATH"]}  # not the options of a make that started these tests
    return lambda *words: run("make", "--dry-run", "test", *words, cwd=tmp_path, env=environment)


def test_an_environment_that_is_there_keeps_its_python(plan):
    assert plan().stdout == "OMP_NUM_THREADS=1 .venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder \n"


def test_another_python_makes_a_new_environment(plan, tmp_path):
    other = interpreter(tmp_path / "other", "3.13")
    words = plan(f"PYTHON={other}").stdout
    assert f"{other} -m venv --clear .venv" in words and "touch .venv/.installed-3.13" in words


@pytest.mark.parametrize("changed", ["constraints.txt", "pyproject.toml"])
def test_other_pins_are_installed_into_the_same_environment(plan, tmp_path, changed):
    os.utime(tmp_path / changed, (later := time.time() + 60, later))
    words = plan().stdout
    assert "pip install" in words and "--clear" not in words


@pytest.mark.parametrize("changed", ["constraints.txt", "examples/appfl/constraints.txt"])
def test_appfl_is_installed_anew_for_its_own_pins_only(plan, tmp_path, changed):
    for folder in (".venv-appfl", "examples/appfl"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".venv-appfl" / ".installed-3.12").touch()
    (tmp_path / "examples/appfl/constraints.txt").touch()
    os.utime(tmp_path / changed, (later := time.time() + 60, later))
    assert (".venv-appfl/bin/python -m pip install" in plan("appfl").stdout) == changed.startswith("examples")


def test_peers_have_an_environment_of_their_own(plan):
    words = plan("bench", "PEERS=1").stdout
    assert ".venv-peers/bin/python -m pip install" in words and "-c constraints.txt -e '.[peers]'" in words
    assert "\n.venv-peers/bin/python -m fedauto_core.benchmark --peers" in words
    assert plan("bench").stdout.endswith("\n.venv/bin/python -m fedauto_core.benchmark \n")


def test_appfl_has_an_environment_and_pins_of_its_own(plan, tmp_path):
    (tmp_path / "examples" / "appfl").mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "appfl" / "constraints.txt", tmp_path / "examples" / "appfl")
    words = plan("appfl").stdout
    assert "-c examples/appfl/constraints.txt -e '.[appfl]'" in words
    assert words.endswith("\nPYTHONPATH=examples/flower .venv-appfl/bin/python examples/appfl/simulate.py\n")
    locks = plan("lock").stdout.splitlines()[-len(LOCKS) :]
    for (lock, extras), line in zip(LOCKS.items(), locks, strict=True):
        assert sorted(re.findall(r"--extra (\w+)", line)) == extras and line.endswith(f"--output-file {lock}")


def test_an_environment_of_an_unsupported_python_is_replaced(plan, tmp_path):
    interpreter(tmp_path / ".venv" / "bin" / "python", "")
    assert "-m venv --clear .venv" in plan(f"PYTHON={interpreter(tmp_path / 'other', '3.11')}").stdout


def test_no_supported_python_is_said_plainly(plan, tmp_path):
    done = plan(f"PYTHON={interpreter(tmp_path / 'old', '')}")
    assert done.returncode == 2 and "No Python 3.11 to 3.14 found" in done.stderr and "old" in done.stderr
