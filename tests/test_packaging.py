"""What a user gets without a checkout, and with one: the wheel holds everything, line ends stay as they are."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "fedauto_core": (".py", ".pyi", ".csv", ".bib", ".json", ".yaml", ".html", ".css", ".js", ".md", ".tex"),
    "notebooks": (".ipynb", ".md", ".yaml"),
    "examples": (".py", ".toml"),
}


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shipped():
    """Name in the wheel -> file in the checkout: all files of the core; notebooks, profiles, examples."""
    places = {
        "fedauto_core": "fedauto_core",
        "notebooks": "fedauto_core/_notebooks",
        "examples": "fedauto_core/_examples",
    }
    return {
        f"{places[folder]}/{path.relative_to(ROOT / folder).as_posix()}": path
        for folder, kinds in KINDS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in kinds and ".ipynb_checkpoints" not in path.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, as a build leaves files behind."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in KINDS:
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "made")
    run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=folder)
    (made,) = (folder / "made").iterdir()
    with zipfile.ZipFile(made) as archive:
        yield archive


def test_the_wheel_holds_every_module_stub_table_notebook_and_profile(wheel):
    contents = {name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name}
    assert sorted(contents) == sorted(files := shipped())
    assert [name for name, path in files.items() if path.read_bytes() != contents[name]] == []
    for name in ("theory/__init__.pyi", "network/example_sessions.csv", "_notebooks/profiles/smoke.yaml"):
        assert f"fedauto_core/{name}" in contents


def test_the_unpacked_wheel_finds_its_notebooks_from_anywhere(wheel, tmp_path):
    wheel.extractall(tmp_path / "site")
    (elsewhere := tmp_path / "elsewhere").mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}

    def python(*words):
        return run(sys.executable, *words, cwd=elsewhere, env=environment)

    place = python("-c", "import fedauto_core; print(fedauto_core.__file__)")
    assert Path(place).is_relative_to(tmp_path / "site")
    core = ("-m", "fedauto_core")
    listed = python(*core, "list")
    assert [path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem not in listed] == []
    assert "30_review" in python(*core, "report", "--profile", "smoke", "--out", "report", "--dry-run")
    assert list(elsewhere.iterdir()) == []


def test_a_checkout_that_converts_line_ends_has_the_same_bytes(tmp_path):
    """One file of each kind, through a clone made as Git for Windows is set up."""
    tracked = [*ROOT.glob("*.*"), *ROOT.glob("fedauto_core/**/*.*"), *ROOT.glob("reports/standard/**/*.*")]
    kinds = {path.suffix: path for path in tracked if path.is_file() and path.suffix != ".pyc"}
    assert {".py", ".csv", ".png", ".svg", ".json", ".html", ".tex"} <= set(kinds)
    (tmp_path / "first").mkdir()
    for path in (ROOT / ".gitattributes", *kinds.values()):
        shutil.copy(path, tmp_path / "first")
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "core.autocrlf=true")
    for words in (["init", "-q"], ["add", "-f", "."], ["commit", "-q", "-m", "all"]):
        run(*git, *words, cwd=tmp_path / "first")
    run(*git, "clone", "-q", "first", "second", cwd=tmp_path)
    for path in kinds.values():
        assert (tmp_path / "second" / path.name).read_bytes() == path.read_bytes(), path
