"""What prose puts in backticks exists: names, paths and commands in notebooks, docstrings and Markdown pages."""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

from fedauto_core.store.keys import PACKAGE

ROOT = Path(__file__).parents[1]
SOURCES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "notebooks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
REPORT = ROOT / "reports" / "standard"
PLACES = (ROOT, ROOT / "notebooks", REPORT, PACKAGE, *(path for path in PACKAGE.iterdir() if path.is_dir()))
MADE = ("reports/", "my_report", "logs/", "~", "fedauto_core/methods/mine.py")
"""Beginnings of paths that are made by running the project, or by its user."""


def cells(path, kind):
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in found if cell["cell_type"] == kind)


def docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    alone = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    return "\n\n".join(node.value for node in alone if isinstance(node, ast.Constant) and isinstance(node.value, str))


def without_docstrings(path):
    """The code of a module: a name that stands in prose alone does not vouch for itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(getattr(node, "body", None), list):
            kept = [s for s in node.body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
            node.body = kept or [ast.Pass()]
    return ast.unparse(tree)


def words_of(source):
    """Identifiers of a piece of code, and the words in its strings (names of methods, columns, options)."""
    found = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            found.add(token.string)
        elif token.type == tokenize.STRING:
            found |= set(re.findall(r"\w+", token.string))
    return found


CODE = {path: without_docstrings(path) for path in SOURCES}
CODE |= {path: cells(path, "code") for path in NOTEBOOKS}
KNOWN = {"make"}.union(*map(words_of, CODE.values()))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
TEXTS = {path: cells(path, "markdown") for path in NOTEBOOKS}
TEXTS |= {path: docstrings(path) for path in SOURCES} | {path: path.read_text(encoding="utf-8") for path in PAGES}


def modules_ending_with(dotted):
    tail = dotted.split(".")
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in SOURCES}
    names = {path: tuple(part for part in whole if part != "__init__") for path, whole in parts.items()}
    return [path for path, name in names.items() if list(name[-len(tail) :]) == tail]


def exists(name, code):
    """A dotted name: a module, a name in a module of that ending, or else words that the code knows; a variable of
    `code` may have the name of a module."""
    head, _, last = name.rpartition(".")
    if modules_ending_with(name):
        return True
    homes = modules_ending_with(head) if head else []
    if homes and not re.search(rf"\b{re.escape(head)}(?: =|: [A-Z])", code):
        faces = [path.with_suffix(".pyi") for path in homes if path.with_suffix(".pyi").is_file()]
        return any(re.search(rf"\b{re.escape(last)}\b", path.read_text(encoding="utf-8")) for path in [*homes, *faces])
    return all(part in KNOWN for part in name.split("."))


def is_there(path):
    if path.startswith(MADE) or "..." in path or "<" in path:
        return True
    return any(list(place.glob(path.rstrip("/"))) for place in PLACES)


def wrong(text, code=""):
    """The backticked pieces that name something that is not there."""
    for piece in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if make := re.fullmatch(r"make ([a-z]+)(?: .*)?", piece):
            found = make[1] in TARGETS
        elif re.fullmatch(
            r"[\w*.~-]+(?:/[\w*.-]+)+/?|[\w*-]+\.(?:py|md|ipynb|ya?ml|txt|toml|cff|csv|json|html)", piece
        ):
            found = is_there(piece)
        elif re.fullmatch(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?", piece):
            found = exists(piece.removesuffix("()"), code)
        else:
            continue  # mathematics, an expression, a command with arguments
        if not found:
            yield piece


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_stands_in_backticks_exists(path):
    assert sorted(set(wrong(TEXTS[path], CODE.get(path, "")))) == []


def test_the_check_sees_what_is_not_there():
    gone = ["fedauto_core/radio.py", "models.nonconvex_loss", "make coffee", "sourcery.py", "frobnicate"]
    there = ["make test", "methods/fedauto.py", "fedauto_weights", "engine.rounds", "theory.nets", "q_floor"]
    assert list(wrong(" ".join(f"`{piece}`" for piece in (*gone, *there)))) == gone
