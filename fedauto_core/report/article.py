"""The replication article of a report, in the structure of ReScience C, as HTML and LaTeX.

It is written from what lies in the report, like the pages beside it, and not by a notebook: `pages` runs none, and the
article is due after every batch. Its prose is the template article.md; every number in it is cited (`report.ledger`).
"""

import html
import re
from collections.abc import Callable, Sequence

import pandas as pd
from markupsafe import Markup

from fedauto_core.store.writing import write_atomically

from . import reference
from .checklist import Check, checks
from .essay import bare, essay
from .evidence import Row, Status
from .folder import read_products
from .latex import escaped, latex, pdf
from .ledger import Ledger
from .pages import folded, markdown, picture
from .papers import Paper, papers
from .passages import FOLDER, Passages
from .plan import banner
from .site import TEMPLATES, Site

PAGE = f"{FOLDER}/article.html"
AUTHORS = "The fedauto-core authors"  # as in CITATION.cff, which an installed package lacks
SUBJECT = "wang2025fedauto"  # the paper that is replicated
KEYS = r"(@\w+(?:;\s@\w+)*)"
CITATION = re.compile(rf"\[{KEYS}\]")
IN_TEX = re.compile(rf"{{\[}}{KEYS}{{\]}}")
FIGURE = re.compile(r'<img src="\.\./([^/"]+)/(\w+)\.png"[^>]*>')
TABLE = re.compile(r'<div class="scroll" data-label="table">(<table>.*?</table>)</div>', re.DOTALL)
TEX = {  # TeX has its own use for braces
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


def essay_html(site: Site, rows: Sequence[Row]) -> str:
    """What came out, for the front page: HTML of one paragraph, without the tag around it."""
    there, said = reference.place(site, site.out, ""), bare(essay(Ledger(site.out), rows))
    return markdown(said, there, escape=True).strip().removeprefix("<p>").removesuffix("</p>")


def article(site: Site, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """The text of article.html; the files beside it (`overview.BESIDE`) are written, the PDF where TeX is at hand."""
    folder, ledger = site.out / FOLDER, Ledger(site.out)
    ledger.add(f"{FOLDER}/times.csv", _times(site, statuses))
    ledger.add(f"{FOLDER}/checklist.csv", pd.DataFrame(checks(site, rows, statuses), columns=Check._fields))
    made = Passages(site, rows, statuses, ledger)
    prose = TEMPLATES.overlay(autoescape=False).get_template("article.md").render(a=made)
    text = re.sub("(?<=[.]) {2,}", " ", prose)  # where a passage has nothing to say
    write_atomically(folder / "numbers.csv", ledger.table(text).to_csv(index=False, lineterminator="\n"))
    write_atomically(folder / "article.tex", _tex(site, ledger, text))
    reason = pdf(folder / "article.tex") if rows else "there is no verdict to report"
    return _html(site, ledger, text, reason)


def _times(site: Site, statuses: Sequence[Status]) -> pd.DataFrame:
    """A row per notebook of the profile: whether it has a page, seconds when computed fresh, peak memory."""
    shown = {entry.name for entry in site.entries}
    rows = [(s.name, s.state, s.name in shown, s.fresh_seconds, s.peak_mib) for s in statuses]
    frame = pd.DataFrame(rows, columns=["notebook", "state", "page", "seconds fresh", "peak MiB"])
    return frame.astype({"seconds fresh": float, "peak MiB": float})


def title() -> str:
    """The article's: that of the paper, marked as a replication."""
    return f"[Re] {_paper(SUBJECT).title}"


def _paper(key: str) -> Paper:
    return {paper.key: paper for paper in papers()}[key]


def _cited(text: str) -> list[Paper]:
    """The papers that a Markdown text cites as [@key; @key], by first author and year."""
    keys = {key for found in CITATION.findall(text) for key in re.findall(r"\w+", found)}
    return sorted(map(_paper, keys), key=lambda paper: (paper.authors[0], paper.year, paper.key))


def described(paper: Paper, escape: Callable[[str], str]) -> str:
    """A line of the bibliography; escape: for the language that it stands in."""
    number = f"arXiv {paper.eprint}" if paper.eprint else ""
    parts = [f"{paper.named} ({paper.year})", paper.title, paper.place, number]
    return escape(". ".join(part for part in parts if part) + ".")


def _tex(site: Site, ledger: Ledger, text: str) -> str:
    body = IN_TEX.sub(lambda found: "\\cite{" + ",".join(re.findall(r"\w+", found[1])) + "}", latex(text))
    return (
        TEMPLATES.overlay(autoescape=False, **TEX)
        .get_template("article.tex")
        .render(
            title=escaped(title()),
            authors=escaped(AUTHORS),
            banner=escaped(banner(site.profile)),
            body=ledger.as_latex(body),
            references=[(paper.key, described(paper, escaped)) for paper in _cited(text)],
        )
    )


def _html(site: Site, ledger: Ledger, text: str, no_pdf: str) -> str:
    """no_pdf: why there is none, "" if there is."""
    place = reference.place(site, site.out / FOLDER, "../")
    body = CITATION.sub(_links, markdown(text, place, escape=True))
    body = TABLE.sub(lambda found: folded(found[1], "table"), body)
    body = FIGURE.sub(lambda found: _picture(site, *found.groups()), body)
    return site.page(
        "article.html",
        title(),
        PAGE,
        authors=AUTHORS,
        body=Markup(ledger.as_html(body)),
        headings=[heading for heading in place.headings if heading[0] in (2, 3)],
        references=[(paper.key, Markup(described(paper, html.escape))) for paper in _cited(text)],
        no_pdf=no_pdf,
    )


def _picture(site: Site, page: str, slug: str) -> str:
    captions = {product["slug"]: product["caption"] for product in read_products(site.out / page)}
    return picture(site.out / page, slug, captions[slug], f"../{page}/")


def _links(found: re.Match[str]) -> str:
    cited = map(_paper, re.findall(r"\w+", found[1]))
    return "(" + "; ".join(f'<a href="#ref-{paper.key}">{html.escape(paper.cited)}</a>' for paper in cited) + ")"
