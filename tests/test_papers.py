"""The bibliography: every citation leads to an entry, every entry is cited, and what is quoted is its title."""

import ast
import calendar
import json
import re
from pathlib import Path

import pytest

from fedauto_core.report.papers import CITATION, citations, linked, meant, papers, read_papers
from fedauto_core.store.keys import PACKAGE

ROOT = Path(__file__).parents[1]
PAPERS = papers()
NO_AUTHORS = {*calendar.month_name, *(paper.place for paper in PAPERS)}
"""What stands before a year without having written anything: months, conferences."""


def prose():
    """Where papers are cited: docstrings and other texts of the core, notebooks, Markdown pages; in one line each."""
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        yield path, "\n\n".join(n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield path, "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    for path in (ROOT / "README.md", ROOT / "notebooks" / "README.md", ROOT / "docs" / "method.md"):
        yield path, path.read_text(encoding="utf-8")


TEXTS = {path.relative_to(ROOT).as_posix(): " ".join(text.split()) for path, text in prose()}


def unknown(text):
    """Citations that mean no entry."""
    found = [citation for citation, paper in citations(text, PAPERS) if paper is None]
    return [citation[0] for citation in found if citation["number"] or citation["first"] not in NO_AUTHORS]


@pytest.mark.parametrize("name", TEXTS)
def test_every_citation_is_in_the_bibliography(name):
    assert unknown(TEXTS[name]) == []


def test_every_entry_is_cited():
    cited = {paper.key for text in TEXTS.values() for citation in CITATION.finditer(text) for paper in
             meant(citation, PAPERS)[:1]}  # fmt: skip
    assert [paper.key for paper in PAPERS if paper.key not in cited] == []


@pytest.mark.parametrize(
    "text",
    [
        "Nobody et al. 1999",
        "(Wang and Nobody 2024)",
        "Nobody, Someone and Other (2021)",
        "Wang, Nobody and Other (2024)",
        "arXiv 1234.56789",
    ],
)
def test_the_check_finds_what_is_missing(text):
    assert len(unknown(f"As in {text}.")) == 1


def test_titles_that_docstrings_quote_are_those_of_the_entries():
    titles = {paper.title.casefold() for paper in PAPERS}
    quoted = [
        quote
        for name, text in TEXTS.items()
        if name.startswith("fedauto_core/methods/")
        for quote in re.findall(r'"([^"]{30,})"(?=, (?:arXiv|[A-Z][A-Za-z]+ (?:19|20)\d\d|(?:19|20)\d\d))', text)
    ]
    assert len(quoted) > 10 and [quote for quote in quoted if quote.casefold() not in titles] == []


def test_keys_say_who_and_when():
    keys = [paper.key for paper in PAPERS]
    assert len({*keys}) == len(keys)
    for paper in PAPERS:
        first = re.sub(r"[^a-z]", "", paper.authors[0].lower())
        assert re.fullmatch(rf"{first}{paper.year}\w+", paper.key), paper.key


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("after Wang et al. 2025 (FedCote)", "wang2025fedcote"),
        ("Wang et al. 2025 (reconstructed)", "wang2025fedauto"),
        ("Wang &amp; Ji 2024", "wang2024fedau"),
        ("Wang and Ji 2022", "wang2022amplified"),
        ("FedPBC, Xiang et al. 2024", "xiang2024fedpbc"),
        ("Daniilidis, Haddou, Le Gruyer and Ley 2018", "daniilidis2018explicit"),
        ("Li et al., ICML 2023", "li2023fedlaw"),
        ("Chen et al. (2020)", "chen2020joint"),
        ("arXiv 2512.22035", "wang2025fedauto"),
    ],
)
def test_a_citation_finds_its_paper(text, key):
    ((_, paper),) = citations(text, PAPERS)
    assert paper.key == key
    assert linked(text, "b.html").count(f'<a href="b.html#{key}">') == 1


def test_what_we_do_not_cite_stays_text():
    for text in ("in December 2025, NeurIPS 2024", "Nobody et al. 1999", "10 of 2020 rounds"):
        assert linked(text, "b.html") == text


def test_entries_are_read_as_they_stand():
    (paper,) = read_papers(
        "@misc{le2020x,\n  author = {{Le Roi} and others},\n  title = {A {B} c},\n  year = {2020},\n}\n"
    )
    assert (paper.authors, paper.title, paper.place, paper.url) == (("Le Roi", "others"), "A B c", "", "")
    assert (paper.cited, paper.named) == ("Le Roi et al. 2020", "Le Roi et al.")
    three = paper._replace(authors=("A", "B", "C"))
    assert (three.cited, three.named) == ("A et al. 2020", "A, B and C")
    two = paper._replace(authors=("A", "B"))
    assert (two.cited, two.named) == ("A and B 2020", "A and B")
    assert len(PAPERS) == (PACKAGE / "report" / "references.bib").read_text(encoding="utf-8").count("\n@")
