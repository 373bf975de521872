"""The README shows what the committed report says, and points only at what exists."""

import re
from pathlib import Path

import pytest

from fedauto_core.methods import METHODS, make_method, method_card
from fedauto_core.report.record import markdown_table

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
