"""The pages on top of a report: index.html, claims.md, status.md, all computed from what lies in the folder.

`report.pages` takes a second to import, so it is imported only if the index has to be written.
"""

import hashlib
import html
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from fedauto_core.store.keys import code_hash
from fedauto_core.store.writing import write_atomically

from .folder import log_file, read_manifest, read_products
from .plan import Job, banner, changes
from .tables import html_table, pipe_table
from .verdicts import CLAIMS, LEGEND, Verdict, describe, mark_of, report_verdicts

SEALED = "<!-- sealed "
MARK_CLASSES = {"[Re]": "Re", "[¬Re]": "notRe", "[=]": "even", "[own]": "own"}
STATUS_COLUMNS = ["notebook", "state", "seconds", "peak memory (MiB)", "other parameters than the profile"]


class Status(NamedTuple):
    """What lies in the folder of one notebook. changed: parameters that differ from the profile's."""

    name: str
    state: str
    seconds: float | None = None
    peak_mib: float | None = None
    changed: str = ""


class Row(NamedTuple):
    """One verdict with where it comes from. kind: of the evidence, "figure" or "table"; "" if that is not known."""

    notebook: str
    verdict: Verdict
    kind: str


def status_of(job: Job, out: Path) -> Status:
    """ "failed", "not run", "ok", or "out of date" with what changed since: the notebook, the code that it uses, ..."""
    if log_file(out, job.name).exists():
        return Status(job.name, "failed")
    manifest = read_manifest(out / job.name)
    if manifest is None:
        return Status(job.name, "not run")
    found = changes(replace(job, parameters=manifest["parameters"]), out)
    other = [f"{k}={v}" for k, v in manifest["parameters"].items() if v != job.parameters.get(k)]
    state = f"out of date ({', '.join(found)})" if found else "ok"
    return Status(job.name, state, manifest["seconds"], manifest["peak_mib"], ", ".join(other))


def verdict_rows(out: Path, jobs: Sequence[Job]) -> list[Row]:
    """All verdicts of the report's notebooks, by claim."""
    names = {job.name for job in jobs}
    rows = []
    for notebook, verdicts in report_verdicts(out).items():
        kinds = {product["slug"]: product["kind"] for product in read_products(out / notebook)}
        rows += [Row(notebook, verdict, kinds.get(verdict.evidence, "")) for verdict in verdicts if notebook in names]
    return sorted(rows, key=lambda row: (row.verdict.claim, row.notebook, row.verdict.evidence))


def _of_claim(rows: Sequence[Row], claim: str) -> tuple[list[Row], str]:
    """The rows of a claim and its mark over all of them, "–" without verdicts."""
    mine = [row for row in rows if row.verdict.claim == claim]
    mark = mark_of(claim, [row.verdict for row in mine])
    return mine, f"[{mark}]" if mark else "–"


def claims_page(rows: Sequence[Row], profile: str) -> str:
    """claims.md: every verdict with its effect, interval, seeds and evidence, then the short table for a README."""
    full, short = [], []
    for claim, text in CLAIMS.items():
        mine, mark = _of_claim(rows, claim)
        short.append((claim, text, mark, ", ".join(dict.fromkeys(row.notebook for row in mine)) or "–"))
        for name, verdict, kind in mine:
            suffix = {"figure": ".png", "table": ".md"}.get(kind)
            evidence = f"[{verdict.evidence}]({name}/{verdict.evidence}{suffix})" if suffix else verdict.evidence
            full.append((claim, f"[{verdict.mark}]", verdict.statement, describe(verdict), name, evidence))
    columns = ["claim", "mark", "what was found", "effect [interval]", "notebook", "evidence"]
    short_table = pipe_table(["claim", "the paper says", "mark", "notebooks"], short)
    return (
        f"# Claims, profile {profile}\n\n{_stressed(banner(profile))}{LEGEND}\n\n{pipe_table(columns, full)}\n"
        f"## Summary\n\n<!-- claims:begin -->\n{short_table}<!-- claims:end -->\n"
    )


def _stressed(text: str) -> str:
    return f"**{text}**\n\n" if text else ""


def _status_cells(status: Status) -> tuple[str, ...]:
    numbers = ("–" if value is None else f"{value:.0f}" for value in (status.seconds, status.peak_mib))
    return (status.name, status.state, *numbers, status.changed or "–")


def _mark(mark: str) -> str:
    return f'<span class="mark {MARK_CLASSES.get(mark, "open")}">{mark}</span>'


def index_page(out: Path, profile: str, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """index.html: claims, figures, status; relative links only."""
    from .pages import banner_box, document

    claims = []
    for claim, text in CLAIMS.items():
        mine, mark = _of_claim(rows, claim)
        claims.append((f"<b>{claim}</b>", f"<b>{html.escape(text)}</b>", _mark(mark), "", ""))
        for name, verdict, _ in mine:
            link = f'<a href="{name}/{name}.html#{verdict.evidence}">{name}: {verdict.evidence}</a>'
            effect = html.escape(describe(verdict))
            claims.append(("", html.escape(verdict.statement), _mark(f"[{verdict.mark}]"), effect, link))
    table = html_table(["claim", "the paper says / what was found", "mark", "effect [interval]", "evidence"], claims)
    notebooks = []
    for status in statuses:
        name, *others = map(html.escape, _status_cells(status))
        target = f"logs/{name}.log" if status.state == "failed" else f"{name}/{name}.html"
        link = name if status.state == "not run" else f'<a href="{target}">{name}</a>'
        notebooks.append((link, *others))
    return document(
        f"Report, profile {profile}",
        f"<h1>FedAuto, replicated: profile {html.escape(profile)}</h1>\n{banner_box(banner(profile))}\n"
        f"<p>{LEGEND}</p>\n<h2>Claims</h2>\n{table}\n"
        f"<h2>Notebooks</h2>\n{html_table(STATUS_COLUMNS, notebooks)}\n"
        f'<h2>Figures</h2>\n<div class="gallery">\n{_gallery(out, statuses)}</div>\n',
        "wide",
    )


def _gallery(out: Path, statuses: Sequence[Status]) -> str:
    from .pages import markdown

    figures = []
    for name in [status.name for status in statuses if status.state not in ("failed", "not run")]:
        for product in read_products(out / name):
            if product["kind"] == "figure":
                slug, caption = product["slug"], markdown(f"{name}: {product['caption']}", out / name, out)
                figures.append(
                    f'<figure><a href="{name}/{name}.html#{slug}"><img src="{name}/{slug}.png" alt="{slug}"></a>'
                    f"<figcaption>{caption}</figcaption></figure>\n"
                )
    return "".join(figures)


def write_overview(out: Path, profile: str, jobs: Sequence[Job]) -> None:
    """Write index.html, claims.md and status.md; each replaces its predecessor in one step.

    The last line of the index is a hash over all that it is made from, and itself. If that is right, it stays.
    """
    rows = verdict_rows(out, jobs)
    statuses = sorted(status_of(job, out) for job in jobs)
    write_atomically(out / "claims.md", claims_page(rows, profile))
    status_table = pipe_table(STATUS_COLUMNS, map(_status_cells, statuses))
    write_atomically(out / "status.md", f"# Status, profile {profile}\n\n{status_table}")
    shown = [read_products(out / status.name) for status in statuses]
    source = repr((profile, rows, statuses, shown, code_hash([__name__])))
    target = out / "index.html"
    old = target.read_text("utf-8", "replace") if target.is_file() else ""
    body = old.rpartition(SEALED)[0]
    if old != body + _seal(body, source):
        page = index_page(out, profile, rows, statuses)
        write_atomically(target, page + _seal(page, source))


def _seal(page: str, source: str) -> str:
    return f"{SEALED}{hashlib.sha256((source + page).encode()).hexdigest()} -->\n"
