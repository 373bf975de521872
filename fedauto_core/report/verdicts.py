"""Claims and the verdicts on them, as they lie in a report. How one is computed: `report.claims`, `report.contests`.

Marks: [Re] reproduced; [=] equivalent (nobody is ahead, but some are level within a stated margin); [¬Re] not
reproduced; [~] undecided; [own] holds, but is not the paper's to reproduce.
"""

import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from fedauto_core.errors import require_known

from .folder import NUMBER, REPORTS, read_state, rows_of_shape, verdict_files

CLAIMS: Mapping[str, str] = {
    "C1": "Failures and label skew together degrade plain aggregation; either alone does so much less",
    "C2": "FedAuto beats every baseline under transient, long and mixed failures (full-parameter)",
    "C3": "FedAuto beats every baseline for LoRA too",
    "C4": "FedAuto beats plain aggregation on an optimised radio",
    "C5": "FedAuto uses no network knowledge",
    "C6": "The convergence bound holds in every realisation, whatever the failure process",
    "C7": "With client data, fine-tuning beats the server's data alone; pre-training saves client work",
    "C8": "Plug and play: it runs on an unmodified federated stack",
}
TESTED_BY: Mapping[str, tuple[str, ...]] = {
    "C1": ("02_problem",),
    "C2": ("10_full_parameter",),
    "C3": ("11_lora",),
    "C4": ("12_resource_optimisation",),
    "C5": ("03_fedauto_by_hand", "04_networks"),
    "C6": ("20_bound_step_by_step", "21_any_failure_law", "22_tight_or_loose", "24_attack"),
    "C7": ("01_pretraining",),
    "C8": ("16_plug_and_play",),
}
"""Claim -> notebooks that compute a verdict on it (a test holds this against the notebooks)."""
PAPER = "paper"
"""Evidence of a verdict on the paper's own values or their order: shown beside its claim, no part of it."""
OWN = ("C5", "C6")
"""Claims that hold by construction (C5) or as our own reconstructed theorem (C6): one that holds is [own], not [Re]."""
MARKS = ("Re", "=", "~", "¬Re", "own")
LEGEND = (
    "[Re] reproduced, [=] equivalent within the stated margin, [¬Re] not reproduced, [~] undecided at this sample size "
    "or length of the runs, [own] holds, but by construction or as our own theorem: not the paper's to reproduce. "
    "Every effect comes with its interval; the round brackets say of what kind it is."
)


@dataclass(frozen=True)
class Verdict:
    """One computed verdict. effect and [low, high] are in `unit`; spread says what [low, high] is. basis: how it
    follows from the page's CSV files (`report.judging`: rule, tables, options), None if lines of the notebook computed
    it. The mark "Re" of a claim that is ours to show (`OWN`) becomes "own"."""

    claim: str
    statement: str
    mark: str
    effect: float
    low: float
    high: float
    seeds: int
    unit: str
    evidence: str
    spread: str = "95 % t interval"
    basis: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        require_known("claim", self.claim, CLAIMS)
        require_known("mark", self.mark, MARKS)
        if self.mark == "Re" and self.claim in OWN:
            object.__setattr__(self, "mark", "own")


SHAPE = {field.name: NUMBER if field.type is float else field.type for field in fields(Verdict)}
SHAPE |= dict.fromkeys(("low", "high"), (*NUMBER, NoneType)) | {"basis": (dict, NoneType)}
"""A row of verdicts.json; an open side of an interval is stored as null."""


def stored(verdicts: Iterable[Verdict]) -> list[dict[str, object]]:
    """The rows of verdicts.json, sorted."""
    ordered = sorted(verdicts, key=lambda v: (v.claim, v.evidence, v.statement))
    rows = [asdict(verdict) for verdict in ordered]
    return [{k: None if isinstance(v, float) and math.isinf(v) else v for k, v in row.items()} for row in rows]


def _from_stored(value: object) -> tuple[Verdict, ...]:
    open_sides = {"low": -math.inf, "high": math.inf}
    rows = rows_of_shape(value, SHAPE)
    return tuple(Verdict(**{k: open_sides.get(k) if row.get(k) is None else row[k] for k in SHAPE}) for row in rows)


def read_verdicts(folder: Path) -> tuple[Verdict, ...]:
    """The verdicts of the page in `folder`; none if there are none, or if they are damaged."""
    return read_state(folder / "verdicts.json", _from_stored) or ()


def report_verdicts(report: Path | None = None) -> dict[str, tuple[Verdict, ...]]:
    """Notebook name -> verdicts, of a whole report.

    report: its folder; by default the report being built (set by the batch in FEDAUTO_REPORT), else reports/standard.
    """
    folder = report or Path(os.environ.get("FEDAUTO_REPORT", REPORTS / "standard"))
    return {name: read_verdicts(path.parent) for name, path in verdict_files(folder).items()}


def mark_of(claim: str, verdicts: Iterable[Verdict]) -> str | None:
    """The mark of a claim, of all verdicts that speak to it; None without any."""
    deciding = speaking_to(claim, verdicts)
    return combine_marks(verdict.mark for verdict in deciding) if deciding else None


def speaking_to(claim: str, verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that decide a claim."""
    return [verdict for verdict in verdicts if verdict.claim == claim and verdict.evidence != PAPER]


def combine_marks(marks: Iterable[str]) -> str:
    """Mark of a whole of which every part must hold: one [¬Re] refutes it, one [~] leaves it open, one [=] makes it
    equivalent; [~] without parts."""
    found = {*marks}
    return next((mark for mark in ("¬Re", "~", "=", "own", "Re") if mark in found), "~")


def subject(verdict: Verdict) -> str:
    """What a verdict is about: its statement up to the colon or stop behind which the numbers begin."""
    found = re.match(r"(.*?)[:.] (?=.*\d)", verdict.statement)
    return found[1] if found else verdict.statement


def _side(value: float) -> str:
    return f"{value:+.3g}" if math.isfinite(value) else "−∞" if value < 0 else "+∞"


def describe(verdict: Verdict) -> str:
    """Effect, interval, unit, what the interval is, and number of seeds in words."""
    seeds = f"{verdict.seeds} seed" + ("s" if verdict.seeds != 1 else "")
    sides = f"[{_side(verdict.low)}, {_side(verdict.high)}]"
    return f"{verdict.effect:+.3g} {sides} {verdict.unit} ({verdict.spread}), {seeds}"
