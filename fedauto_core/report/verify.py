"""Is a report what it says it is? Every hash is taken again, and every verdict computed again from the CSV files alone.

Nothing is run and nothing is written: a reviewer can ask this of a report that came from elsewhere.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from fedauto_core.errors import require, require_known

from . import claims, contests, paper
from .evidence import claim_marks, verdict_rows
from .folder import STATE, content_hash, file_hashes, log_file, read_manifest, verdict_files
from .judging import judged
from .tables import pipe_table
from .verdicts import CLAIMS, Verdict, describe, read_verdicts, report_verdicts

RULES: Mapping[str, Callable[..., Verdict]] = {
    rule.__name__: rule
    for rule in (
        claims.bounded,
        claims.difference,
        claims.factorial,
        claims.mean_lead,
        claims.mean_of_column,
        claims.rung,
        claims.untouched,
        contests.beats_all,
        paper.order_verdict,
        paper.value_verdict,
    )
}
"""What a notebook may hand to `record.Page.judge`."""
ROUNDING = 1e-9  # relative: another build of NumPy or SciPy may round differently


class Verified(NamedTuple):
    """What was checked of a report. recomputed: how many verdicts were computed again; without_rule: those that cannot
    be; differences: what was found, in words."""

    pages: list[str]
    recomputed: int
    without_rule: list[str]
    differences: list[str]


def run_verify(report: Path) -> int:
    """Print what is wrong with `report`, and how much was checked; the exit status is 0, or 1 if anything is wrong.
    InputError if it is no report."""
    found = verified(report)
    wrong, open_ = found.differences, found.without_rule
    print("\n".join(wrong), end="\n" * bool(wrong))
    print(
        f"{len(found.pages)} pages, {found.recomputed} verdicts computed again from their CSV files: {len(wrong)} "
        "differences"
    )
    if open_:
        print(f"{len(open_)} verdicts are computed by lines of their notebook, not from CSV: {_counted(open_)}")
    return int(bool(wrong))


def verified(report: Path) -> Verified:
    """Take every hash of `report` again, and compute every verdict again. InputError if it is no report."""
    pages = pages_of(report)
    differences, recomputed, without_rule = [], 0, []
    for name in pages:
        differences += [f"{name}: {problem}" for problem in changed_files(report, name)]
        for verdict in read_verdicts(report / name):
            if verdict.basis is None:
                without_rule.append(f"{name} ({verdict.claim}, {verdict.evidence})")
                continue
            recomputed += 1
            differences += [f"{name}: {problem}" for problem in changed_verdict(report / name, verdict)]
    return Verified(pages, recomputed, without_rule, differences + missing_rows(report))


def pages_of(report: Path) -> list[str]:
    """The names of the pages of a report, those of failed notebooks left out. InputError if there are none."""
    found = sorted({path.parent.name for name in STATE for path in report.glob(f"*/{name}")})
    require(
        bool(found),
        f"no pages in {report}",
        allowed="a report: a folder with one folder per notebook",
        remedy="name a folder such as reports/standard",
    )
    return [name for name in found if not log_file(report, name).exists()]


def changed_files(report: Path, name: str) -> list[str]:
    """What differs from the manifest of a page, in words: its files, and the verdicts that it was made from."""
    manifest = read_manifest(report / name)
    if manifest is None:
        return ["its manifest.json is damaged or missing"]
    found = _differences(manifest["files"], file_hashes(report / name))
    read = manifest.get("verdicts_sha256", {})
    now = {other: content_hash(path) for other, path in verdict_files(report).items() if other != name}
    found += [f"verdicts of {problem}" for problem in _differences(read, now)]
    return found + [f"verdicts of {other} are not in the manifest" for other in now if read and other not in read]


def _differences(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [f"{key} is missing" for key in then if key not in now] + [
        f"{key} has another hash than in the manifest" for key in then if now.get(key, then[key]) != then[key]
    ]


def changed_verdict(page: Path, verdict: Verdict) -> list[str]:
    """How a verdict differs from the one that its rule gives on the CSV files of the page now, in words."""
    name = f"verdict on {verdict.claim}, {verdict.evidence}"
    basis = verdict.basis or {}
    try:
        require_known("rule", basis["rule"], RULES)
        tables = basis["tables"]
        remedy = "name CSV files of the page itself"
        there = {path.stem for path in page.glob("*.csv")}
        require({*tables.values()} <= there, f"tables {tables}", allowed=", ".join(sorted(there)), remedy=remedy)
        again = judged(page, RULES[basis["rule"]], tables, basis["options"])
    except (OSError, ValueError, TypeError, LookupError) as error:
        return [f"{name}: cannot be computed again: {type(error).__name__}: {error}"]
    now = asdict(again)
    other = [key for key, value in asdict(verdict).items() if not _same(value, now[key])]
    if not other:
        return []
    return [
        f"{name}: {', '.join(other)} not as stored: [{verdict.mark}] {describe(verdict)}; {verdict.statement}; the CSV "
        f"files give [{again.mark}] {describe(again)}; {again.statement}"
    ]


def missing_rows(report: Path) -> list[str]:
    """The verdicts that do not stand in claims.md as they are stored, and whether others stand there."""
    path = report / "claims.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    missing, total = [], 0
    for name, found in report_verdicts(report).items():
        total += len(found)
        for v in found:
            row = pipe_table([""] * 4, [(f"[{v.mark}]", v.statement, describe(v), name)]).splitlines()[-1]
            if row not in text:
                missing.append(f"claims.md: the verdict of {name} on {v.claim}, {v.evidence}, is not there as stored")
    for claim, mark in claim_marks(verdict_rows(report, report_verdicts(report))).items():
        if f"| {claim} | {CLAIMS[claim]} | {mark} |" not in text:
            missing.append(f"claims.md: {claim} does not stand there with the mark of its verdicts, {mark}")
    if (shown := len(re.findall(r"^\| C\d \| \[\S+\] \| ", text, re.M))) > total:
        missing.append(f"claims.md has {shown} verdicts, the pages have {total}")
    return missing


def _same(stored: object, computed: object) -> bool:
    if isinstance(stored, float) and isinstance(computed, float):
        return math.isclose(stored, computed, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return stored == computed


def _counted(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(f"{names.count(name)} of {name}" for name in dict.fromkeys(names))
