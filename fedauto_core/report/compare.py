"""Two reports side by side: marks, effects, and what the pages cost."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from .folder import read_manifest
from .record import FLOAT_FORMAT
from .tables import markdown_table
from .verdicts import Verdict, describe, read_verdicts, subject
from .verify import pages_of


def run_compare(first: Path, second: Path, out: Path | None = None) -> int:
    """Print the verdicts that differ between two reports, and what their pages cost; the exit status is 0.

    out: folder for the whole tables as verdicts.csv and pages.csv, made if it is missing. InputError if one is no
    report.
    """
    verdicts, pages = verdicts_of(first, second), costs_of(first, second)
    differ = verdicts["changed"] != ""
    print(markdown_table(verdicts[differ]) if differ.any() else "no verdict differs\n")
    print(markdown_table(pages))
    kinds = ", ".join(f"{count} {kind}" for kind, count in verdicts.loc[differ, "changed"].value_counts().items())
    total = pages[["seconds A", "seconds B"]].sum()
    print(f"{len(verdicts)} verdicts: {kinds or 'all the same'}; {total.iloc[0]:.0f} and {total.iloc[1]:.0f} seconds")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        for name, frame in (("verdicts", verdicts), ("pages", pages)):
            frame.to_csv(out / f"{name}.csv", index=False, float_format=FLOAT_FORMAT, lineterminator="\n")
    return 0


def verdicts_of(first: Path, second: Path) -> pd.DataFrame:
    """One row per verdict that either report has: page, claim, what; mark and effect in A and in B, in words; changed:
    "mark", "effect" (beyond what A's interval holds), "numbers" (within it), "only in A", "only in B", or nothing."""
    rows = []
    for page in dict.fromkeys((*pages_of(first), *pages_of(second))):
        for a, b in pairs(read_verdicts(first / page), read_verdicts(second / page)):
            known = a or b
            marks, effects = ([v and text(v) for v in (a, b)] for text in (lambda v: f"[{v.mark}]", describe))
            rows.append((page, known.claim, subject(known), *marks, *effects, change(a, b)))
    columns = ["page", "claim", "what", "mark A", "mark B", "effect A", "effect B", "changed"]
    return pd.DataFrame(rows, columns=columns)


def pairs(first: Iterable[Verdict], second: Iterable[Verdict]) -> Iterator[tuple[Verdict | None, Verdict | None]]:
    """Verdicts of one page in two reports, matched by claim, evidence and subject, in the order of the first; None
    where the other has none. Several with one subject are matched in their order."""
    left: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in second:
        left.setdefault(_key(verdict), []).append(verdict)
    for verdict in first:
        others = left.get(_key(verdict))
        yield verdict, others.pop(0) if others else None
    for others in left.values():
        yield from ((None, verdict) for verdict in others)


def _key(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.claim, verdict.evidence, subject(verdict)


def change(a: Verdict | None, b: Verdict | None) -> str:
    """What `verdicts_of` says of a pair."""
    if a is None or b is None:
        return "only in B" if a is None else "only in A"
    if a.mark != b.mark:
        return "mark"
    if (a.effect, a.low, a.high) == (b.effect, b.low, b.high):
        return ""
    return "numbers" if a.low <= b.effect <= a.high else "effect"


def costs_of(first: Path, second: Path) -> pd.DataFrame:
    """One row per page of either report: seconds and peak memory (MiB) in A and in B, and what parameters differ."""
    rows = []
    for page in dict.fromkeys((*pages_of(first), *pages_of(second))):
        a, b = (read_manifest(report / page) or {} for report in (first, second))
        row = {"page": page}
        for key, name in (("seconds", "seconds"), ("peak_mib", "MiB")):
            row |= {f"{name} {side}": found.get(key) for side, found in (("A", a), ("B", b))}
        here, there = a.get("parameters", {}), b.get("parameters", {})
        other = [
            f"{k} {here.get(k, '–')} → {there.get(k, '–')}" for k in {**here, **there} if here.get(k) != there.get(k)
        ]
        rows.append(row | {"other parameters": ", ".join(other) if a and b else "only in one report"})
    return pd.DataFrame(rows)
