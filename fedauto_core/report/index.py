"""index.html, the page on top of a report: claims, figures, status."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from fedauto_core.report.folder import read_products
from fedauto_core.report.overview import LEGEND, STATUS_COLUMNS, Row, Status, of_claim, status_cells
from fedauto_core.report.pages import document, html_table, markdown
from fedauto_core.report.verdicts import CLAIMS, describe

MARK_CLASSES = {"Re": "Re", "¬Re": "notRe", "~": "open"}


def _mark(mark: str) -> str:
    return f'<span class="mark {MARK_CLASSES.get(mark.strip("[]"), "open")}">{mark}</span>'


def index_page(out: Path, profile: str, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """index.html: claims, figures, status; relative links only."""
    claims = []
    for claim, text in CLAIMS.items():
        mine, mark = of_claim(rows, claim)
        claims.append((f"<b>{claim}</b>", f"<b>{html.escape(text)}</b>", _mark(mark), "", ""))
        for row in mine:
            verdict, page = row.verdict, f"{row.notebook}/{row.notebook}.html"
            link = f'<a href="{page}#{verdict.evidence}">{row.notebook}: {verdict.evidence}</a>'
            effect = html.escape(describe(verdict))
            claims.append(("", html.escape(verdict.statement), _mark(f"[{verdict.mark}]"), effect, link))
    table = html_table(["claim", "the paper says / what was found", "mark", "effect [interval]", "evidence"], claims)
    notebooks = []
    for status in statuses:
        name, *others = map(html.escape, status_cells(status))
        target = f"logs/{name}.log" if status.state == "failed" else f"{name}/{name}.html"
        link = name if status.state == "not run" else f'<a href="{target}">{name}</a>'
        notebooks.append((link, *others))
    return document(
        f"Report, profile {profile}",
        f"<h1>FedAuto, replicated: profile {html.escape(profile)}</h1>\n<p>{LEGEND}</p>\n<h2>Claims</h2>\n{table}"
        f"<h2>Notebooks</h2>\n{html_table(STATUS_COLUMNS, notebooks)}"
        f'<h2>Figures</h2>\n<div class="gallery">\n{_gallery(out, statuses)}</div>\n',
        "wide",
    )


def _gallery(out: Path, statuses: Sequence[Status]) -> str:
    figures = []
    for status in sorted(statuses, key=lambda status: status.name):
        folder = out / status.name
        for product in read_products(folder) if status.state not in ("failed", "not run") else ():
            if product["kind"] == "figure":
                slug, caption = product["slug"], markdown(f"{status.name}: {product['caption']}", folder, out)
                figures.append(
                    f'<figure><a href="{status.name}/{status.name}.html#{slug}"><img src="{status.name}/{slug}.png" '
                    f'alt="{slug}"></a><figcaption>{caption}</figcaption></figure>\n'
                )
    return "".join(figures)
