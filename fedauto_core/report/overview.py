"""The pages on top of a report: index.html, claims.md, status.md, all computed from what lies in the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fedauto_core.report.folder import log_file, read_manifest, read_products
from fedauto_core.report.plan import Job, changes
from fedauto_core.report.tables import pipe_table
from fedauto_core.report.verdicts import CLAIMS, Verdict, combine_verdicts, describe, report_verdicts
from fedauto_core.store.keys import code_hash
from fedauto_core.store.writing import write_atomically

INDEX = "fedauto_core.report.index"
SEALED = "<!-- sealed "
STATUS_COLUMNS = ["notebook", "state", "seconds", "peak memory (MiB)", "other parameters than the profile"]
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
    found = changes(replace(job, parameters=manifest["parameters"]), manifest["threads"], out)
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


def of_claim(rows: Sequence[Row], claim: str) -> tuple[list[Row], str]:
    """The rows of a claim and its mark over all of them, "–" without verdicts."""
    mine = [row for row in rows if row.verdict.claim == claim]
    return mine, f"[{combine_verdicts([row.verdict for row in mine])}]" if mine else "–"


def claims_page(rows: Sequence[Row], profile: str) -> str:
    """claims.md: every verdict with its effect, interval, seeds and evidence, then the short table for a README."""
    full, short = [], []
    for claim, text in CLAIMS.items():
        mine, mark = of_claim(rows, claim)
        short.append((claim, text, mark, ", ".join(dict.fromkeys(row.notebook for row in mine)) or "–"))
        for row in mine:
            verdict, target = row.verdict, f"{row.notebook}/{row.verdict.evidence}"
            suffix = {"figure": ".png", "table": ".md"}.get(row.kind)
            evidence = f"[{verdict.evidence}]({target}{suffix})" if suffix else verdict.evidence
            full.append((claim, f"[{verdict.mark}]", verdict.statement, describe(verdict), row.notebook, evidence))
    columns = ["claim", "mark", "what was found", "effect [interval]", "notebook", "evidence"]
    short_table = pipe_table(["claim", "the paper says", "mark", "notebooks"], short)
    return (
        f"# Claims, profile {profile}\n\n{LEGEND}\n\n{pipe_table(columns, full)}\n"
        f"## Summary\n\n<!-- claims:begin -->\n{short_table}<!-- claims:end -->\n"
    )


def status_page(statuses: Sequence[Status], profile: str) -> str:
    """status.md: state, seconds, peak memory and changed parameters of every notebook of the profile."""
    return f"# Status, profile {profile}\n\n{pipe_table(STATUS_COLUMNS, map(status_cells, statuses))}"


def status_cells(status: Status) -> tuple[str, ...]:
    numbers = ("–" if value is None else f"{value:.0f}" for value in (status.seconds, status.peak_mib))
    return (status.name, status.state, *numbers, status.changed or "–")


def write_overview(out: Path, profile: str, jobs: Sequence[Job]) -> None:
    """Write index.html, claims.md and status.md; each replaces its predecessor in one step."""
    rows = verdict_rows(out, jobs)
    statuses = sorted((status_of(job, out) for job in jobs), key=lambda status: status.name)
    write_atomically(out / "claims.md", claims_page(rows, profile))
    write_atomically(out / "status.md", status_page(statuses, profile))
    shown = [read_products(out / status.name) for status in statuses]
    _write_index(out, profile, rows, statuses, repr((profile, rows, statuses, shown, code_hash([INDEX]))))


def _write_index(out: Path, profile: str, rows: Sequence[Row], statuses: Sequence[Status], source: str) -> None:
    """Its last line is a hash over `source`, all that it is made from, and itself. If that is right, it stays: what
    renders mathematics takes a second to import."""
    target = out / "index.html"
    old, mark, seal = (target.read_text("utf-8", "replace") if target.is_file() else "").rpartition(SEALED)
    if mark and seal == _seal(old, source):
        return
    from fedauto_core.report.index import index_page

    page = index_page(out, profile, rows, statuses)
    write_atomically(target, f"{page}{SEALED}{_seal(page, source)}")


def _seal(page: str, source: str) -> str:
    return f"{hashlib.sha256((source + page).encode()).hexdigest()} -->\n"
