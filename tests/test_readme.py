"""The README shows what the committed report says, and points only at what exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- claims:begin -->.*<!-- claims:end -->", re.S)


def test_the_claims_table_is_the_generated_one():
    generated = BLOCK.search((ROOT / "reports" / "standard" / "claims.md").read_text())[0]
    assert BLOCK.search(README)[0] == generated


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_two_commands_exist():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"report", "test", *re.findall(r"`make ([a-z]+)", README)} <= set(targets)
    assert "\nmake test\n" in (ROOT / ".ci" / "run").read_text()
