"""The pages on top of a report: index.html, claims.md, status.md, all computed from what lies in the folder."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fedauto_core.report.claims import CLAIMS, Verdict, combine_verdicts
from fedauto_core.report.pages import document, html_table, markdown
from fedauto_core.report.plan import Job, job_key, read_manifest
from fedauto_core.report.record import describe, log_file, markdown_table, report_verdicts

MARK_CLASSES = {"Re": "Re", "¬Re": "notRe", "~": "open"}
LEGEND = (
    "[Re] reproduced, [¬Re] not reproduced, [~] undecided at this sample size. "
    "Every effect comes with its interval; the round brackets say of what kind it is."
)


@dataclass(frozen=True)
class Status:
    """What lies in the folder of one notebook. changed: parameters that differ from the profile's."""

    name: str
    state: str
    seconds: float | None = None
    peak_mib: float | None = None
    changed: str = ""


@dataclass(frozen=True)
class Row:
    """One verdict with where it comes from. kind: "figure" or "table"."""

    notebook: str
    verdict: Verdict
    kind: str


def status_of(job: Job, out: Path) -> Status:
    """ "failed", "not run", "ok", or "out of date" (the notebook, the core or a package changed since)."""
    manifest = read_manifest(out / job.name)
    if log_file(out, job.name).exists():
        return Status(job.name, "failed")
    if manifest is None:
        return Status(job.name, "not run")
    as_run = replace(job, parameters=manifest["parameters"])
    current = manifest["key"] == job_key(as_run, manifest["threads"], out)
    changed = [f"{k}={v}" for k, v in manifest["parameters"].items() if v != job.parameters.get(k)]
    state = "ok" if current else "out of date"
    return Status(job.name, state, manifest["seconds"], manifest["peak_mib"], ", ".join(changed))


def read_products(folder: Path) -> list[dict[str, str]]:
    """Slug, kind and caption of every figure and table of a notebook, in the order in which they were shown."""
    path = folder / "products.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def verdict_rows(out: Path, jobs: Sequence[Job]) -> list[Row]:
    """All verdicts of the report's notebooks, by claim."""
    names = {job.name for job in jobs}
    rows = []
    for notebook, verdicts in report_verdicts(out).items():
        kinds = {product["slug"]: product["kind"] for product in read_products(out / notebook)}
        rows += [Row(notebook, verdict, kinds[verdict.evidence]) for verdict in verdicts if notebook in names]
    return sorted(rows, key=lambda row: (row.verdict.claim, row.notebook, row.verdict.evidence))


def _of_claim(rows: Sequence[Row], claim: str) -> tuple[list[Row], str]:
    """The rows of a claim and its mark over all of them, "–" without verdicts."""
    mine = [row for row in rows if row.verdict.claim == claim]
    return mine, f"[{combine_verdicts([row.verdict for row in mine])}]" if mine else "–"


def claims_page(rows: Sequence[Row], profile: str) -> str:
    """claims.md: every verdict with its effect, interval, seeds and evidence, then the short table for a README."""
    full, short = [], []
    for claim, text in CLAIMS.items():
        mine, mark = _of_claim(rows, claim)
        short.append((claim, text, mark, ", ".join(dict.fromkeys(row.notebook for row in mine)) or "–"))
        for row in mine:
            verdict, target = row.verdict, f"{row.notebook}/{row.verdict.evidence}"
            evidence = f"[{row.verdict.evidence}]({target}.{'png' if row.kind == 'figure' else 'md'})"
            full.append((claim, f"[{verdict.mark}]", verdict.statement, describe(verdict), row.notebook, evidence))
    columns = ["claim", "mark", "what was found", "effect [interval]", "notebook", "evidence"]
    short_table = markdown_table(pd.DataFrame(short, columns=["claim", "the paper says", "mark", "notebooks"]))
    return (
        f"# Claims, profile {profile}\n\n{LEGEND}\n\n{markdown_table(pd.DataFrame(full, columns=columns))}\n"
        f"## Summary\n\n<!-- claims:begin -->\n{short_table}<!-- claims:end -->\n"
    )


def status_page(statuses: Sequence[Status], profile: str) -> str:
    """status.md: state, seconds, peak memory and changed parameters of every notebook of the profile."""
    frame = pd.DataFrame([_status_cells(status) for status in statuses], columns=STATUS_COLUMNS)
    return f"# Status, profile {profile}\n\n{markdown_table(frame)}"


STATUS_COLUMNS = ["notebook", "state", "seconds", "peak memory (MiB)", "other parameters than the profile"]


def _status_cells(status: Status) -> tuple[str, ...]:
    numbers = ("–" if value is None else f"{value:.0f}" for value in (status.seconds, status.peak_mib))
    return (status.name, status.state, *numbers, status.changed or "–")


def _mark(mark: str) -> str:
    return f'<span class="mark {MARK_CLASSES.get(mark.strip("[]"), "open")}">{mark}</span>'


def index_page(out: Path, profile: str, rows: Sequence[Row], statuses: Sequence[Status]) -> str:
    """index.html: claims, figures, status; relative links only."""
    claims = []
    for claim, text in CLAIMS.items():
        mine, mark = _of_claim(rows, claim)
        claims.append((f"<b>{claim}</b>", f"<b>{html.escape(text)}</b>", _mark(mark), "", ""))
        for row in mine:
            verdict, page = row.verdict, f"{row.notebook}/{row.notebook}.html"
            link = f'<a href="{page}#{verdict.evidence}">{row.notebook}: {verdict.evidence}</a>'
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
        f"<h1>FedAuto, replicated: profile {html.escape(profile)}</h1>\n<p>{LEGEND}</p>\n<h2>Claims</h2>\n{table}"
        f"<h2>Notebooks</h2>\n{html_table(STATUS_COLUMNS, notebooks)}"
        f'<h2>Figures</h2>\n<div class="gallery">\n{_gallery(out, statuses)}</div>\n',
        "wide",
    )


def _gallery(out: Path, statuses: Sequence[Status]) -> str:
    figures = []
    for status in sorted(statuses, key=lambda status: status.name):
        folder = out / status.name
        for product in read_products(folder) if status.state in ("ok", "out of date") else ():
            if product["kind"] == "figure":
                slug, caption = product["slug"], markdown(f"{status.name}: {product['caption']}", folder, out)
                figures.append(
                    f'<figure><a href="{status.name}/{status.name}.html#{slug}"><img src="{status.name}/{slug}.png" '
                    f'alt="{slug}"></a><figcaption>{caption}</figcaption></figure>\n'
                )
    return "".join(figures)


def write_overview(out: Path, profile: str, jobs: Sequence[Job]) -> None:
    """Write index.html, claims.md and status.md; each replaces its predecessor in one step."""
    rows = verdict_rows(out, jobs)
    statuses = sorted((status_of(job, out) for job in jobs), key=lambda status: status.name)
    pages = {
        "index.html": index_page(out, profile, rows, statuses),
        "claims.md": claims_page(rows, profile),
        "status.md": status_page(statuses, profile),
    }
    for name, text in pages.items():
        temporary = out / f".{name}.new"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, out / name)
