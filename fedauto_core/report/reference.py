"""The pages to look things up (methods and scenarios, glossary, papers), and what the search finds there."""

import html
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from markupsafe import Markup

from fedauto_core.network.suite import SCENARIOS, SUITE
from fedauto_core.store.keys import PACKAGE

from . import lexicon
from .pages import Place, markdown, scroll_box
from .papers import Paper, linked, papers
from .plain import plain
from .rules import card, rules
from .search import Found
from .site import Site
from .tables import html_table


def place(site: Site, folder: Path, up: str) -> Place:
    """Where prose of a page in `folder` stands, and what its words lead to; up: the way from there to the top of the
    report."""
    notebooks = {number: (f"{up}{entry.page}", entry.title) for number, entry in site.titles.items()}
    terms = [entry for entry in lexicon.entries() if entry.kind == "term"]
    words = {word.casefold(): f"{up}{entry.address}" for entry in terms for word in (entry.name, *entry.spellings)}
    words |= {rule.method.casefold(): f"{up}{rule.address}" for rule in rules()}
    return Place(site.notebooks_dir, folder, notebooks, words, lambda text: linked(text, f"{up}bibliography.html"))


def table(name: str, head: Sequence[str], rows: Iterable[Iterable[str]], right: Sequence[int] = ()) -> Markup:
    """A table of cells that are HTML already, in a box of its own."""
    return Markup(scroll_box(html_table(head, rows, right), name))


def inline(source: str, there: Place) -> str:
    """Markdown of one paragraph as HTML that may stand in a cell."""
    return markdown(source, there).strip().removeprefix("<p>").removesuffix("</p>")


def to_code(folder: Path) -> Callable[[str], str]:
    """Dotted name in the core -> a link to its file, from a page in `folder`."""

    def link(home: str) -> str:
        way = os.path.relpath(lexicon.home_file(home), folder)
        return f'<a href="{html.escape(way)}"><code>{home}</code></a>'

    return link


def methods(site: Site) -> tuple[str, list[Found]]:
    """reference.html: the methods of the method card, and the scenarios."""
    pages = {rule.method: rule.address for rule in rules()}
    found = []

    def line(kind: str, name: str, *cells: str) -> tuple[str, ...]:
        """The cells of a row whose first one the search finds."""
        anchor = f"{kind}-{re.sub(r'[^A-Za-z0-9_]+', '', name)}"
        words = " ".join(re.sub("<[^>]+>", "", cell) for cell in cells[1:])
        found.append(Found(pages.get(name, f"reference.html#{anchor}"), name, kind, html.unescape(words)))
        return (f'<span id="{anchor}">{cells[0]}</span>', *cells[1:])

    def cell(text: str) -> str:
        return linked(html.escape(text), "bibliography.html")

    head, *rows = card(site.notebooks_dir) or [[]]
    own = {name: f'<a href="{address}">{name}</a>' for name, address in pages.items()}
    listed = [line("method", name, own.get(name, html.escape(name)), *map(cell, rest)) for name, *rest in rows]
    scenarios = [line("scenario", name, name, html.escape(what)) for name, what in (SCENARIOS | SUITE).items()]
    page = site.page(
        "reference.html",
        "Methods and scenarios",
        "reference.html",
        methods=table("methods", head, listed) if listed else "",
        scenarios=table("scenarios", ["name", "what fails"], scenarios),
    )
    return page, found


def glossary(site: Site) -> tuple[str, list[Found]]:
    """glossary.html: every symbol and term, where it first matters, and its home in the code."""
    there, code = place(site, site.out, ""), to_code(site.out)

    def row(entry: lexicon.Entry) -> tuple[str, ...]:
        where = inline(f"notebook {entry.notebook}", there) if entry.notebook else "docs/method.md"
        name = f'<span id="{entry.anchor}">{inline(entry.name, there)}</span>'
        return name, inline(entry.meaning, there), where, code(entry.home)

    there.words = {}  # a page of terms that all lead to itself would be blue all over
    of = {kind: [row(entry) for entry in lexicon.entries() if entry.kind == kind] for kind in ("symbol", "term")}
    found = [
        Found(entry.address, plain(entry.name).replace("\\", ""), entry.kind, plain(entry.meaning))
        for entry in lexicon.entries()
    ]
    head = ["meaning", "first in", "in the code"]
    page = site.page(
        "glossary.html",
        "Glossary",
        "glossary.html",
        symbols=table("symbols", ["symbol", *head], of["symbol"]),
        terms=table("terms", ["term", *head], of["term"]),
    )
    return page, found


def bibliography(site: Site) -> tuple[str, list[Found]]:
    """bibliography.html: all papers that are cited, by author and year."""
    used: dict[str, list[str]] = {}
    for rule in rules():
        for key in rule.papers:
            used.setdefault(key, []).append(f'<a href="{rule.address}">{rule.method}</a>')
    order = sorted(papers(), key=lambda paper: (paper.authors, paper.year))
    listed = [(paper.key, as_html(paper), Markup(", ".join(used.get(paper.key, ())))) for paper in order]
    found = [
        Found(f"bibliography.html#{paper.key}", paper.cited, "paper", f"{paper.title} {paper.shorthand}")
        for paper in order
    ]
    source = os.path.relpath(PACKAGE / "report" / "references.bib", site.out)
    page = site.page("bibliography.html", "Papers", "bibliography.html", papers=listed, source=source)
    return page, found


def as_html(paper: Paper) -> Markup:
    """One entry of the bibliography."""
    said = [f"{paper.named} ({paper.year})", f"<b>{html.escape(paper.title)}</b>", html.escape(paper.place)]
    said += [f'<a href="{paper.url}">arXiv {paper.eprint}</a>'] if paper.url else []
    said += [html.escape(f"{paper.note[:1].upper()}{paper.note[1:]}")]
    return Markup(". ".join(part for part in said if part) + ".")
