"""The conda route asks for exactly what the pip route installs."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from rattler import MatchSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dependencies():
    return yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]


@pytest.fixture(scope="module")
def pins(dependencies):
    (pip,) = [entry["pip"] for entry in dependencies if isinstance(entry, dict)]
    return pip


def test_conda_lines_are_python_and_pip_as_valid_match_specs(dependencies):
    lines = [entry for entry in dependencies if isinstance(entry, str)]
    specs = [MatchSpec(line) for line in lines]
    assert [spec.name.normalized for spec in specs] == ["python", "pip"]
    assert lines[0] == "python=3.11"


def test_pip_list_equals_the_pins_of_pyproject(pins):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert pins == project["dependencies"] + extras["certificates"] + extras["dev"] + extras["text"]


def test_every_pin_is_what_is_installed(pins):
    installed = {name: version(name).split("+")[0] for name in (pin.split("==")[0] for pin in pins)}
    assert [f"{name}=={number}" for name, number in installed.items()] == pins


def test_every_requirement_is_an_exact_pin(pins):
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9-]+==[0-9.]+", pin)] == []
