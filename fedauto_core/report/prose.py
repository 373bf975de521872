"""Comparisons -> sentences: who is ahead, by how much, where, and whether the failures are the reason."""

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from .contests import deciding, families


def named(rivals: Sequence[str], most: int = 8) -> str:
    """The names in code type, in the order given; of more than `most` the first ones, and how many others."""
    shown = rivals if len(rivals) <= most else rivals[: most // 2]
    others = f" and {len(rivals) - len(shown)} others" if len(shown) < len(rivals) else ""
    return ", ".join(f"`{rival}`" for rival in shown) + others


def difference(row: pd.Series) -> str:
    """Whom a comparison is with, and how far behind or ahead it is: points with the interval that decides."""
    if math.isinf(row["decides_low"]):
        return f"`{row['rival']}` ({row['mean']:+.1f} points, no interval)"
    low, high = sorted((abs(row["decides_low"]), abs(row["decides_high"])))
    one_side = row["decides_low"] * row["decides_high"] > 0
    ends = f"{low:.1f} to {high:.1f}" if one_side else f"{row['decides_low']:+.1f} to {row['decides_high']:+.1f}"
    if one_side:
        return f"`{row['rival']}` ({abs(row['mean']):.1f} points {'behind' if row['mean'] > 0 else 'ahead'}, {ends})"
    return f"`{row['rival']}` ({row['mean']:+.1f} points, {ends})"


def reason(row: pd.Series, method: str) -> str:
    """What the failures have to do with a comparison: the difference in differences, read with its interval; nothing
    where there is none."""
    if math.isnan(row["extra"]):
        return ""
    ends = f"{row['extra']:+.1f} [{row['extra_low']:+.1f}, {row['extra_high']:+.1f}] points"
    if row["extra_low"] > 0:
        return f"; the failures cost `{method}` more than it ({ends})"
    if row["extra_high"] < 0:
        return f"; the failures cost `{method}` less than it ({ends})"
    return f"; no difference is seen in what the failures cost the two ({ends})"


def outcome(comparisons: pd.DataFrame, method: str, noun: str = "rivals") -> str:
    """One item per scenario of `contests.against`: against whom `method` is ahead, equivalent, behind, undecided; noun:
    what they are."""
    return "\n".join(_scenario(name, rows, method, noun) for name, rows in comparisons.groupby("scenario", sort=False))


def _scenario(name: str, rows: pd.DataFrame, method: str, noun: str) -> str:
    by_mark = {mark: rows[rows["mark"] == mark].sort_values("mean") for mark in ("Re", "=", "¬Re", "~")}
    ahead, equal, behind, undecided = by_mark.values()
    alone = undecided["settled"] & (undecided["standing"] == "lost, uncorrected")
    uncorrected, undecided = undecided[alone], undecided[~alone]
    once = rows[rows["repeats"] == ""]
    where = " (harmless here, no part of the claim)" if rows["harmless"].all() else ""
    unlike = f" ({len(once)} that end differently)" if len(once) < len(rows) else ""
    parts = [f"* **{name}**{where}: `{method}` is ahead of {len(ahead)} of {len(rows)} {noun}{unlike}"]
    if len(ahead):
        least, most = (f"{end:.1f}" for end in (ahead["mean"].min(), ahead["mean"].max()))
        parts[0] += f", by {least if least == most else f'{least} to {most}'} points"
    if len(equal):
        parts.append(f"equivalent to {named(list(equal['rival']))}")
    if len(behind):
        parts.append("behind " + ", ".join(difference(row) for _, row in behind.iterrows()))
    if len(uncorrected):
        parts.append("behind, uncorrected, " + ", ".join(difference(row) for _, row in uncorrected.iterrows()))
    if len(undecided):
        early = int((~undecided["settled"]).sum())
        parts.append(f"undecided against {named(list(undecided['rival']))}" + (f" ({early} early)" if early else ""))
    return "; ".join(parts) + "."


def reasons(comparisons: pd.DataFrame, method: str) -> str:
    """One item per family: the comparison that decides it, and what the failures have to do with it."""
    lines = []
    for name, rows in families(comparisons):
        row = deciding(rows)
        early = "" if row["settled"] else ", which longer runs might still change"
        where = f"decided in {row['scenario']} by {difference(row)}{early}"
        lines.append(f"* **{name}** [{row['mark']}]: {where}{reason(row, method)}.")
    return "\n".join(lines)


def hardest(comparisons: pd.DataFrame, groups: Mapping[str, Iterable[str]]) -> str:
    """Which group holds the rival that is hardest to beat, by its least favourable difference, and where."""
    found = {name: comparisons[comparisons["rival"].isin(list(rivals))] for name, rivals in groups.items()}
    least = {name: rows.loc[rows["mean"].idxmin()] for name, rows in found.items() if len(rows)}
    order = sorted(least, key=lambda name: least[name]["mean"])
    said = [f"{name}: {difference(least[name])} in {least[name]['scenario']}" for name in order]
    return "from the hardest to the easiest: " + "; ".join(said) if said else "none of them was run"
