"""The bibliography: the entries of references.bib, and the citations in prose that mean them.

A citation is written as surnames and a year ("Gu et al. 2021", "Wang & Ji 2024", "Holm 1979") or as an arXiv number.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

REFERENCES = Path(__file__).parent / "references.bib"
ENTRY = re.compile(r"^@(\w+)\{(\w+),\n(.*?)\n\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.MULTILINE)
NAME = r"(?:Le |de )?[A-Z][\w’-]+(?: y [A-Z]\w+)?"
CITATION = re.compile(
    rf"\b(?P<first>{NAME})(?: (?P<others>et al)\.|(?P<list>(?:, {NAME})*)(?:,? (?:and|&amp;|&) (?P<last>{NAME}))?)"
    rf",? (?:[A-Z][A-Za-z]+ ){{0,2}}\(?(?P<year>(?:19|20)\d\d)\b|\barXiv:? ?(?P<number>\d{{4}}\.\d{{5}})"
)
NEAR = 60  # letters beside a citation in which the short name of a paper decides between two of one year


class Paper(NamedTuple):
    """One entry. authors: surnames, "others" last where not all are named. eprint: its arXiv number, or "". shorthand:
    what the paper's method or tool is called, or "". place: journal, conference or publisher, or ""."""

    key: str
    authors: tuple[str, ...]
    year: int
    title: str
    place: str = ""
    eprint: str = ""
    shorthand: str = ""
    note: str = ""

    @property
    def url(self) -> str:
        """Where it can be read, "" if we know no address."""
        return f"https://arxiv.org/abs/{self.eprint}" if self.eprint else ""

    @property
    def cited(self) -> str:
        """How prose cites it."""
        first, *rest = self.authors
        others = "" if not rest else " et al." if len(rest) > 1 or rest == ["others"] else f" and {rest[0]}"
        return f"{first}{others} {self.year}"

    @property
    def named(self) -> str:
        """All authors that the entry has, in one phrase."""
        *most, last = self.authors
        return f"{', '.join(most)} {'et al.' if last == 'others' else f'and {last}'}" if most else last


def read_papers(text: str) -> tuple[Paper, ...]:
    """The entries of a BibTeX file with one field a line, in its order."""
    found = []
    for _, key, body in ENTRY.findall(text):
        fields = {name: re.sub(r"[{}]", "", value) for name, value in FIELD.findall(body)}
        authors = tuple(fields["author"].split(" and "))
        place = fields.get("booktitle") or fields.get("journal") or fields.get("publisher", "")
        known = {name: fields.get(name, "") for name in ("eprint", "shorthand", "note")}
        found.append(Paper(key, authors, int(fields["year"]), fields["title"], place, **known))
    return tuple(found)


@functools.cache
def papers() -> tuple[Paper, ...]:
    """All that we cite, in the order of references.bib."""
    return read_papers(REFERENCES.read_text(encoding="utf-8"))


def meant(citation: re.Match[str], among: Sequence[Paper]) -> list[Paper]:
    """The papers that a match of `CITATION` can mean; the one whose short name stands beside it first."""
    if citation["number"]:
        return [paper for paper in among if paper.eprint == citation["number"]]
    found = [paper for paper in among if (paper.authors[0], str(paper.year)) == (citation["first"], citation["year"])]
    if citation["others"]:
        found = [paper for paper in found if len(paper.authors) > 2 or paper.authors[-1] == "others"]
    elif citation["last"]:
        listed = (*citation["list"].split(", ")[1:], citation["last"])
        found = [paper for paper in found if paper.authors[1:] == listed]
    start, end = citation.span()
    beside = citation.string[max(start - NEAR, 0) : end + NEAR]
    return sorted(found, key=lambda paper: not (paper.shorthand and paper.shorthand in beside))


def citations(text: str, among: Sequence[Paper]) -> Iterator[tuple[re.Match[str], Paper | None]]:
    """Every citation in a text, with the paper that it means, None where none of `among` fits."""
    for citation in CITATION.finditer(text):
        yield citation, next(iter(meant(citation, among)), None)


def linked(text: str, page: str) -> str:
    """Text, escaped for HTML, in which the citations that we know lead to the bibliography at `page`."""

    def link(citation: re.Match[str]) -> str:
        found = meant(citation, papers())
        return f'<a href="{page}#{found[0].key}">{citation[0]}</a>' if found else citation[0]

    return CITATION.sub(link, text)
