"""The README shows what the committed report says, and points only at what exists."""

import re
from pathlib import Path

import pytest

from fedauto_core.methods import METHODS, make_method, method_card
from fedauto_core.report.record import markdown_table
from fedauto_core.store.keys import PACKAGE

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- claims:begin -->.*<!-- claims:end -->", re.S)


def test_the_claims_table_is_the_generated_one():
    generated = BLOCK.search((ROOT / "reports" / "standard" / "claims.md").read_text())[0]
    assert BLOCK.search(README)[0] == generated


def test_the_method_card_is_the_generated_one():
    """`python -m fedauto_core methods` prints what belongs between the marks."""
    shown = re.search(
        r"<!-- methods:begin -->\n(.*)<!-- methods:end -->", (ROOT / "notebooks" / "README.md").read_text(), re.S
    )
    assert shown[1] == markdown_table(method_card({name: make_method(name) for name in METHODS}))


@pytest.mark.parametrize("page", ["README.md", "notebooks/README.md"])
def test_links_and_pictures_exist(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_two_commands_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"report", "test", *re.findall(r"`make ([a-z]+)", README)} <= set(targets)
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "block", re.findall(r"```python\n(.*?)```", README, re.S), ids=lambda block: block.split("\n")[-2][:40]
)
def test_snippets_run_when_pasted(block, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FEDAUTO_DATA", str(tmp_path))
    if "flwr" in block:
        pytest.importorskip("flwr", reason="needs the extra [flower]")
    exec(compile(block, "README.md", "exec"), {})


def test_how_it_is_built_is_the_tree():
    tree = re.search(r"```\nfedauto_core/\n(.*?)```", README, re.S)[1]
    named = {word.rstrip("/") for line in tree.splitlines() for word in line[:25].split()}
    rooms = {path.name for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert named == {room for room in rooms if not room.startswith("__")}
