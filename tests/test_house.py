"""The walls of the house: which room may import which, and what each room is for."""

import importlib
import re
from pathlib import Path

import pytest

from fedauto_core.store.keys import PACKAGE, imported

ROOT = Path(__file__).parents[1]
EVERYBODY = "errors seeding"
ALLOWED = {
    "store": "",
    "models": "store",
    "network": "",
    "methods": "",
    "data": "store models",
    "engine": "store models network methods data",
    "experiments": "store models network methods data engine",
    "report": "store network data",
    "theory": "models methods data",
    "server": "methods",
    "flower": "network methods server",
    "benchmark": "models network methods data engine flower",
    "teaching": "store report network methods data theory benchmark",
    "__main__": "methods report teaching",
}
"""Room -> the rooms it may import; `errors` and `seeding` are everybody's, and no arrow points back up this list."""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def imports(path):
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    return imported(path.read_text(encoding="utf-8"), package)


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_every_import_follows_an_allowed_arrow(path):
    here, module = room(module_of(path)), module_of(path)
    allowed = {here, *EVERYBODY.split(), *ALLOWED.get(here, "").split()}
    crossing = {taken for taken in imports(path) if room(taken) not in allowed}
    assert not crossing, f"{module} imports {', '.join(sorted(crossing))}: {here} may import {sorted(allowed)}"


def test_no_arrow_points_up():
    order = list(ALLOWED)
    for name, below in ALLOWED.items():
        assert all(order.index(other) < order.index(name) for other in below.split()), name


def test_every_allowed_arrow_is_used():
    used = {(room(module_of(path)), room(taken)) for path in FILES for taken in imports(path)}
    assert {(here, below) for here, rooms in ALLOWED.items() for below in rooms.split()} <= used


def test_every_room_is_in_the_table():
    rooms = {room(module_of(path)) for path in FILES} - {"__init__", *EVERYBODY.split()}
    assert rooms == set(ALLOWED)


def test_modules_form_no_circle():
    needs = {module_of(path): {*imports(path)} - {module_of(path)} for path in FILES}
    needs = {module: {other for other in below if other in needs} for module, below in needs.items()}
    while leaves := [module for module, below in needs.items() if not below & needs.keys()]:
        for module in leaves:
            del needs[module]
    assert not needs, f"in or above a circle: {', '.join(needs)}"


def test_no_private_name_crosses_a_wall():
    """What another module needs has a public name."""
    taken = re.compile(r"^from ((?:fedauto_core|\.)[\w.]*) import (?:\([^)]*?\b|[^\n]*?\b)(_[a-z]\w*)", re.M)
    found = {(module_of(path), *match) for path in FILES for match in taken.findall(path.read_text(encoding="utf-8"))}
    assert not found


def test_the_core_takes_names_where_they_are_defined():
    """A lazy face is for users: inside, an import names the module, so that staleness can be read from it."""
    faces = {module_of(stub) for stub in PACKAGE.rglob("__init__.pyi")}
    pattern = re.compile(r"^\s*from (fedauto_core[\w.]*) import \(?([^)\n]*)", re.M)
    through = {
        (module_of(path), package, name.strip())
        for path in FILES
        for package, names in pattern.findall(path.read_text(encoding="utf-8"))
        if package in faces
        for name in names.split(",")
        if name.strip() and not PACKAGE.joinpath(*package.split(".")[1:], name.split()[0]).with_suffix(".py").is_file()
    }
    assert not through


@pytest.mark.parametrize("stub", sorted(PACKAGE.rglob("__init__.pyi")), ids=module_of)
def test_every_name_of_a_face_is_there_and_hides_no_module(stub):
    names = re.findall(r"^from \.([\w.]*) import (\w+) as \2$", stub.read_text(encoding="utf-8"), re.M)
    assert len(names) == len(stub.read_text(encoding="utf-8").splitlines())
    for module, name in names:
        own = (stub.parent / f"{name}.py").is_file() or (stub.parent / name).is_dir()
        assert own == (module == ""), f"{name} is the name of a module as well"
    package = importlib.import_module(module_of(stub))
    for _, name in names:
        assert hasattr(package, name)


def test_files_are_rooms_not_halls():
    long = {module_of(path): n for path in FILES if (n := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long, long
