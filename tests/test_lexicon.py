"""The glossary lacks no symbol of docs/method.md and no term that notebooks introduce or tables print."""

import ast
import itertools
import json
import re
from pathlib import Path

import pytest

from fedauto_core.engine.averaging import AGGREGATIONS
from fedauto_core.network.radio.allocation import ALLOCATIONS
from fedauto_core.report.contests import CONTESTS
from fedauto_core.report.lexicon import entries, home_file
from fedauto_core.report.verdicts import MARKS
from fedauto_core.store.keys import PACKAGE
from fedauto_core.theory.posterior import PARTS

ROOT = Path(__file__).parents[1]
NOTEBOOKS = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"]
             for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}  # fmt: skip
ENTRIES = entries()
SYMBOLS = [entry for entry in ENTRIES if entry.kind == "symbol"]
TERMS = [entry for entry in ENTRIES if entry.kind == "term"]
WRITTEN = {spelling for entry in SYMBOLS for spelling in entry.spellings}
KNOWN = {word.casefold() for entry in TERMS for word in (entry.name, *entry.spellings)}
GREEK = "alpha|beta|gamma|delta|Delta|eps|epsilon|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|chi2|omega"
SYMBOL = re.compile(rf"(?<![\w./'-])(?:{GREEK}|[A-Za-z])(?:_(?:\{{[^}}]*\}}|inf|[A-Za-z0-9]))?(?![\w'-]|\.\w)")
"""A letter, Latin or Greek, with or without an index."""
CARD = {"Claim", "Claims", "Data", "Time", "Ours", "Stated / reconstructed / ours"}
LITTLE_WORDS = """
a after all also an and another any are as at be because before both but by can cannot did do does each either
every few for from had has have how if in is it its least less many may more most must neither no nobody none nor not
nothing of on once one only or other others our own same should some than that the their them these they this those to
under up was we were what when where whether which while who whose why will with without would you your
"""
"""Words that say how things belong together can be stressed, and mean nothing to look up."""
SAID = {
    "algebra",
    "certifies",
    "equality",
    "happened",
    "known",
    "knows",
    "proof",
    "random",
    "remembers",
    "sees",
    "training",
    "tunes",
    "uniform",
    "wrong",
    "Claims marked [own]",
    'Claims marked "not tested"',
    "Client data help",
    "Corollaries",
    "Decaying steps",
    "Fine-tuning after the average",
    "Never larger",
    "One round",
    "Pre-training saves work",
    "Runs",
    "The best",
    "The later inequalities",
    "The single steps",
    "What the weights minimise",
    "Which classes are compensated",
    "is global",
    "no algorithm",
    "of the same uploads",
}
"""Stressed in a sentence, or its beginning, and no term."""


def text_of(cells, *kinds):
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] in kinds)


def defined(path):
    """Names that a module defines."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def symbols_of(text):
    """Symbols in prose as docs/method.md writes it; "a" is an article there as well."""
    return {*SYMBOL.findall(re.sub(r"`[^`\n]*`", "", text))} - {"a"}


def letters_of(text):
    """Letters that stand for something in the mathematics of a notebook, Latin or Greek, without their indices."""
    letters = set()
    for display, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", text, re.S):
        tex = re.sub(r"\\(?:text|mathrm|mathbf|operatorname\*?)\{[^}]*\}|\\mathbb\s*\{?\w\}?", " ", display or inline)
        letters |= {*re.findall(rf"\\(?:{GREEK}|chi|varepsilon|varphi|psi|phi|zeta|ell)(?![A-Za-z])", tex)}
        letters |= {*re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", tex)}
    return letters


def introduced(text):
    """What prose emphasises, but for whole sentences and headings that run in."""
    prose = re.sub(r"\$[^$]*\$|`[^`]*`|^\|[-| ]*\|$", " ", text, flags=re.M)
    found = re.findall(r"\*\*([^*\n]+)\*\*", prose) + re.findall(r"(?<![*\w])\*([^*\s][^*\n]*)\*(?!\*)", prose)
    words = {" ".join(word.split()) for word in found if not word.endswith((".", ":", "?"))}
    return {word for word in words if len(word.split()) <= 4 and not re.fullmatch(r"[A-Z]\d+[a-z]?", word)} - CARD


def lesson(cells):
    """The cells before the exercises, which speak of tables and columns by their names."""
    return itertools.takewhile(lambda cell: not "".join(cell["source"]).startswith("## Exercises"), cells)


def unexplained(text):
    """Words that prose introduces and the glossary lacks."""
    return sorted(word for word in introduced(text) - SAID if word.casefold() not in KNOWN | {*LITTLE_WORDS.split()})


def test_every_symbol_of_the_theory_is_explained():
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    theory = text[text.index("\n## 3.") : text.index("\n## 6.")]
    assert symbols_of(theory) - WRITTEN == set()
    assert len(symbols_of(theory)) > 60
    assert symbols_of("for psi_r and zeta: with sum_j eta_g beta_j^2, but an eta alone") - WRITTEN == {"eta"}


EXPLAINED = letters_of(" ".join(f"{entry.name} {entry.meaning}" for entry in SYMBOLS))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_letter_in_the_mathematics_of_a_notebook_is_explained(name):
    text = text_of(NOTEBOOKS[name], "markdown")
    assert letters_of(text) - EXPLAINED == set()


def test_the_check_of_letters_sees_what_is_not_explained():
    text = r"$\zeta_j + Y^2$ costs $5, and $$\mathrm{KL} \sum_k \beta_k \operatorname{J} Z$$"
    assert letters_of(text) - EXPLAINED == {r"\zeta", "Y", "Z"}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_term_that_a_notebook_introduces_is_explained(name):
    assert unexplained(text_of(lesson(NOTEBOOKS[name]), "markdown")) == []


def test_the_check_sees_what_is_not_explained():
    text = "A *frobnicator* and **two gadgets**, *not* one, are *iid*. **Note.** | **Data** | x |"
    assert unexplained(text) == ["frobnicator", "two gadgets"]


STATUS = ("tight", "valid", "violated", "not applicable", "by older code", "early", "settled", "harmless")
PRINTED = {*CONTESTS, *AGGREGATIONS, *ALLOCATIONS, *PARTS, *STATUS, *(f"[{mark}]".casefold() for mark in MARKS)}
"""Values of columns that code fills: a notebook shows them without naming them."""


def test_what_tables_print_is_explained():
    assert PRINTED <= KNOWN


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.anchor)
def test_an_entry_has_a_home_and_stands_in_the_notebook_it_names(entry):
    home = home_file(entry.home)
    module = ".".join(home.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    assert entry.home == module or entry.home.removeprefix(f"{module}.") in defined(home)
    assert entry.meaning.endswith((".", ")")) and len(entry.meaning) < 400
    if entry.notebook:
        (cells,) = (cells for name, cells in NOTEBOOKS.items() if name.startswith(entry.notebook))
        text = text_of(cells, "markdown", "code")
        if entry.kind == "term":
            text += home.read_text(encoding="utf-8") if entry.name.casefold() in PRINTED else ""
            assert any(spelling.casefold() in text.casefold() for spelling in entry.spellings)
        else:
            letters = re.findall(r"\\[A-Za-z]+|[A-Za-z]", entry.name)
            assert any(re.search(rf"(?<![A-Za-z\\]){re.escape(letter)}(?![A-Za-z])", text) for letter in letters)


def test_anchors_and_spellings_of_terms_are_unique():
    anchors, spellings = [e.anchor for e in ENTRIES], [word for entry in TERMS for word in entry.spellings]
    assert len({*anchors}) == len(anchors) and len({*spellings}) == len(spellings)
