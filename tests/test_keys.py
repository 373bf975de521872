"""What a module uses, read from the source, is what Python loads; a hash over it follows every edit and no other."""

import json
import subprocess
import sys
from importlib.util import find_spec

import pytest

from fedauto_core.store import keys

MODULES = sorted(
    ".".join((keys.ROOT, *path.relative_to(keys.PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
    for path in keys.PACKAGE.rglob("*.py")
    if path.name != "__main__.py"
    and not path.name.startswith("peer_")  # these have an environment of their own
    and (find_spec("flwr") or path.parent.name != "flower")
)
LOAD_ALL = """
import importlib, json, sys
loaded = {}
for module in json.load(sys.stdin):
    for name in [name for name in sys.modules if name.partition(".")[0] == "fedauto_core"]:
        del sys.modules[name]  # what they import from elsewhere stays, so this takes seconds and not minutes
    face = importlib.import_module(module)
    for name in getattr(face, "__all__", ()):
        getattr(face, name)
    loaded[module] = sorted(name for name in sys.modules if name.partition(".")[0] == "fedauto_core")
json.dump(loaded, sys.stdout)
"""


@pytest.fixture(scope="module")
def loaded():
    """Module -> modules of the core that are there once it, and all behind its face, has been imported."""
    command = [sys.executable, "-c", LOAD_ALL]
    done = subprocess.run(command, input=json.dumps(MODULES), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_loaded_that_the_source_does_not_show(loaded, module):
    assert set(loaded[module]) <= set(keys.used_modules([module]))


def test_what_the_source_shows_beyond_that_is_imported_later(loaded):
    """Inside functions (where it saves a start of seconds, or a circle) or for annotations alone: used all the same."""
    beyond = {module: set(keys.used_modules([module])) - set(loaded[module]) for module in MODULES}
    assert "fedauto_core.report.worker" in beyond["fedauto_core.report.batch"]
    exact = [module for module in MODULES if not beyond[module]]
    assert len(exact) > len(MODULES) / 2
    for room in ("errors", "store.keys", "methods.fedlaw", "network", "report.claims", "report.record"):
        assert f"{keys.ROOT}.{room}" in exact


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import numpy\nfrom fedauto import x\nimport fedauto_core_else", set()),
        ("import fedauto_core.errors as e, os", {"fedauto_core.errors"}),
        ("from fedauto_core import METHODS, errors", {"fedauto_core.methods.registry", "fedauto_core.errors"}),
        (
            "from fedauto_core.methods import fedlaw, METHODS",
            {f"fedauto_core.methods.{x}" for x in ("fedlaw", "registry")},
        ),
        ("from fedauto_core.errors import require", {"fedauto_core.errors"}),
        ("def f():\n    from fedauto_core.errors import require", {"fedauto_core.errors"}),
    ],
)
def test_a_name_taken_from_a_face_stands_for_its_home(source, found):
    assert set(keys.imported(source)) == found


def test_what_is_left_out_is_not_followed():
    every = keys.used_modules(["fedauto_core.experiments"])
    fewer = keys.used_modules(["fedauto_core.experiments"], without=["fedauto_core.methods"])
    assert any(module.startswith("fedauto_core.methods") for module in every)
    assert fewer and not any(f"{module}.".startswith("fedauto_core.methods.") for module in fewer)


def test_the_hash_follows_the_files_that_are_used_and_no_others(monkeypatch):
    real = keys.file_hash

    def edit(*names):
        monkeypatch.setattr(keys, "file_hash", lambda path: "edited" if path.name in names else real(path))

    roots = ["fedauto_core.methods.fedlaw"], ["fedauto_core.methods"]
    before = [keys.code_hash(root) for root in roots]
    edit("scaffold.py")
    assert keys.code_hash(roots[0]) == before[0] and keys.code_hash(roots[1]) != before[1]
    edit("scaffold.py", "base.py")
    assert keys.code_hash(roots[0]) != before[0]


def test_the_data_files_that_a_module_reads_belong_to_it(monkeypatch):
    before = keys.code_hash(["fedauto_core.network.recorded"])
    real = keys.file_hash
    monkeypatch.setattr(keys, "file_hash", lambda path: "edited" if path.suffix == ".csv" else real(path))
    assert keys.code_hash(["fedauto_core.network.recorded"]) != before
    for module, pattern in keys.DATA.items():
        assert module in MODULES and list(keys.PACKAGE.glob(pattern))


@pytest.mark.parametrize(
    ("after", "same"),
    [
        ('"""New words."""\n\ndef f(x):\n    """Other."""\n    return (x + 1)  # why\n', True),
        ('"""Words."""\n\ndef f(x):\n    """Doc."""\n    return x + 2\n', False),
        ('"""Words."""\n\ndef f(y):\n    """Doc."""\n    return y + 1\n', False),
    ],
)
def test_wording_is_no_code(after, same, tmp_path):
    """The keys of experiments and checkpoints leave out comments, docstrings and layout, those of pages do not."""
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text('"""Words."""\n\ndef f(x):\n    """Doc."""\n    return x + 1\n', encoding="utf-8")
    two.write_text(after, encoding="utf-8")
    assert (keys.meaning_hash(one) == keys.meaning_hash(two)) == same
    assert keys.file_hash(one) != keys.file_hash(two)
    roots = ["fedauto_core.engine.rounds"]
    assert keys.code_hash(roots) != keys.code_hash(roots, wording=False)
