"""What lies in a report: the state of its notebooks, the verdicts with where they come from, the claims' marks."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from .folder import log_file, read_manifest, read_products
from .plan import Job, changes
from .verdicts import CLAIMS, PAPER, Verdict, mark_of, report_verdicts

STATUS_COLUMNS = [
    "notebook",
    "state",
    "seconds",
    "seconds when computed fresh",
    "peak memory (MiB)",
    "other parameters than the profile",
]
STATUS_NUMBERS = range(2, 5)
"""Which columns of the status hold numbers."""

WHAT: Mapping[str, str] = {
    "[Re]": "reproduced",
    "[=]": "equivalent",
    "[own]": "holds, but is not the paper's to reproduce",
    "[~]": "undecided",
    "[¬Re]": "not reproduced",
    "–": "not tested",
}
"""Mark of a claim, as it is shown -> what it says."""


class Status(NamedTuple):
    """What lies in the folder of one notebook.

    seconds: of its last run, which may have found experiments in the cache; fresh_seconds: with the time that those had
    taken. changed: parameters that differ from the profile's.
    """

    name: str
    title: str
    state: str
    seconds: float | None = None
    fresh_seconds: float | None = None
    peak_mib: float | None = None
    changed: str = ""


class Row(NamedTuple):
    """One verdict with where it comes from. kind: of the evidence, "figure" or "table"; "" if that is not known."""

    notebook: str
    verdict: Verdict
    kind: str


def verdict_rows(out: Path, names: Collection[str]) -> list[Row]:
    """All verdicts of the notebooks `names` of a report, by claim."""
    rows = []
    for notebook, verdicts in report_verdicts(out).items():
        kinds = {product["slug"]: product["kind"] for product in read_products(out / notebook)}
        rows += [Row(notebook, verdict, kinds.get(verdict.evidence, "")) for verdict in verdicts if notebook in names]
    return sorted(rows, key=lambda row: (row.verdict.claim, row.notebook, row.verdict.evidence))


def claim_marks(rows: Sequence[Row]) -> dict[str, str]:
    """Claim -> its mark over all of its verdicts, "–" without any."""
    found = {claim: mark_of(claim, [row.verdict for row in rows]) for claim in CLAIMS}
    return {claim: f"[{mark}]" if mark else "–" for claim, mark in found.items()}


def deciding(mark: str, rows: Sequence[Row]) -> Row:
    """The verdict that a claim's mark rests on: of those that have it, the least favourable; of equal ones that on all
    rivals. What is our own to show has no order: the first."""
    having = [row for row in rows if f"[{row.verdict.mark}]" == mark and row.verdict.evidence != PAPER] or list(rows)
    if mark == "[own]":
        return having[0]
    return min(having, key=lambda row: (row.verdict.effect, "all rivals" not in row.verdict.statement))


def title_of(job: Job) -> str:
    """The notebook's title; with the variant's name where the profile runs it more than once."""
    variant = job.name.partition("-")[2]
    return f"{job.notebook.title or job.name} ({variant})" if variant else job.notebook.title or job.name


def status_of(job: Job, out: Path) -> Status:
    """ "failed", "not run", "ok", or "out of date" with what changed since: the notebook, the code that it uses, ..."""
    known = (job.name, title_of(job))
    if log_file(out, job.name).exists():
        return Status(*known, "failed")
    manifest = read_manifest(out / job.name)
    if manifest is None:
        return Status(*known, "not run")
    found = changes(replace(job, parameters=manifest["parameters"]), out)
    other = [f"{k}={v}" for k, v in manifest["parameters"].items() if v != job.parameters.get(k)]
    state = f"out of date ({', '.join(found)})" if found else "ok"
    times = manifest["seconds"], manifest.get("fresh_seconds"), manifest["peak_mib"]
    return Status(*known, state, *times, ", ".join(other))


def status_cells(status: Status) -> tuple[str, ...]:
    """The line of a notebook under STATUS_COLUMNS."""
    times = (status.seconds, status.fresh_seconds, status.peak_mib)
    numbers = ("–" if value is None else f"{value:.0f}" for value in times)
    return (status.name, status.state, *numbers, status.changed or "–")
