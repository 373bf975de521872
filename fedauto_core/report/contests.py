"""A method against each of its rivals: standings, marks, and one correction for the whole claim.

Rivals are judged in three families (`CONTESTS`) and all together. A comparison is one rival in one scenario, the
differences are paired over seeds, and Holm's correction runs over *all* comparisons of a claim on a page, at a level
shared with the other pages that judge it: a claim that is corrected scenario by scenario, or page by page, has as many
chances to fall by luck as there are scenarios and pages. Rivals of a family whose runs end the same in a scenario, and
are settled there or are not, count once: plain averaging, else the first by name.

A standing is "equivalent" if the whole 95 % interval lies within the margin, on whichever side of zero: two one-sided
tests at 2.5 % each, stricter than the usual 5 %, which reads the 90 % interval. Else it is "won" or "lost" if the
difference survives the correction, "won, uncorrected" or "lost, uncorrected" if only its own 95 % interval excludes
zero, and "level" if that holds zero. "Ahead of every rival" is an intersection of claims, so each part may hold at its
own level ([Re] for both kinds of "won", [=] for "equivalent"); "some rival is ahead" is a union, so a loss counts only
if it survives ([¬Re] for "lost"). What longer runs might still change is [~] at best.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pandas as pd

from .claims import LEVEL, holm, holm_levels, interval, mark, paired
from .verdicts import Verdict, combine_marks

CONTESTS = ("aggregation", "optimiser", "public data")
STANDINGS = ("won", "won, uncorrected", "equivalent", "level", "lost, uncorrected", "lost")
STANDING_MARKS = dict(zip(STANDINGS, ("Re", "Re", "=", "~", "~", "¬Re"), strict=True))
MARGIN = 1.0  # points: a smaller difference is none
SETTLED = 0.5  # points that nobody may still gain over the last quarter of the rounds
HARMLESS = 1.0  # points: failures that cost plain averaging less decide nothing
PLAIN = "fedavg"  # plain averaging
NEAR = 0.2  # points: rules that differ by less in the mean run are one idea


def against(
    summary: pd.DataFrame,
    method: str,
    rivals: Mapping[str, str],
    metric: str,
    *,
    margin: float = MARGIN,
    base: str | None = None,
    harmless: Iterable[str] = (),
    settled: pd.DataFrame | None = None,
    pages: int = 1,
) -> pd.DataFrame:
    """`method` against each rival in each scenario of `summary` (one row per label, scenario and seed).

    Parameters
    ----------
    rivals : label -> contest
    metric : column in whose unit `margin` and all differences are
    base : the scenario without failures, for the difference in differences
    harmless : scenarios that leave the family of the claim: reported, not corrected for, not judged
    settled : of `settled_comparisons`; None: everything counts as settled
    pages : pages that judge the claim; each takes an equal part of the level (Bonferroni), within which it corrects

    Returns
    -------
    DataFrame : one row per scenario and rival: contest, mean, low, high (95 % interval), p_value, n, half_width;
        settled; repeats (the rival of the same family, settled or not as it is, that has the same differences there
        and stands for both, else ""; never with two seeds or fewer, which agree by luck); harmless (the scenario);
        counts (whether it belongs to the claim); p_holm (over all that count, else NaN; that of the other one in a row
        that repeats it); standing, mark; level, decides_low, decides_high (the interval that decides: the corrected
        one of a loss, else that of 95 %); margin; extra, extra_low, extra_high: what failures cost `method` more than
        the rival (negative: less), NaN in `base` or without one
    """
    rows, differences = [], []
    without = summary[summary["scenario"] == base]
    for scenario in summary["scenario"].unique():
        here = summary[summary["scenario"] == scenario]
        for rival, contest in rivals.items():
            sides = {"label": method}, {"label": rival}
            differences.append(paired(here, metric, *sides))
            found = asdict(interval(differences[-1]))
            found |= dict.fromkeys(("extra", "extra_low", "extra_high"), np.nan)
            if base is not None and scenario != base:
                extra = interval(paired(without, metric, *sides) - differences[-1])
                found |= {"extra": extra.mean, "extra_low": extra.low, "extra_high": extra.high}
            rows.append({"scenario": scenario, "rival": rival, "contest": contest} | found)
    frame = pd.DataFrame(rows).assign(margin=margin)
    frame["half_width"] = (frame["high"] - frame["low"]) / 2
    frame["settled"] = True
    if settled is not None:
        frame["settled"] = frame[["scenario", "rival"]].merge(settled, how="left")["settled"].to_numpy()
    # To four decimals: what is read from a CSV file may differ in the last bit. 0 makes one zero of both.
    same = [(np.round(values, 4) + 0.0).tobytes() for values in differences]
    alike = frame.groupby(["scenario", "contest", "settled", same], dropna=False)["rival"]
    first = alike.transform(lambda names: min(names, key=lambda name: (name != PLAIN, name)))
    frame["repeats"] = first.where((first != frame["rival"]) & (frame["n"] > 2), "")
    frame["harmless"] = frame["scenario"].isin(list(harmless))
    frame["counts"] = ~frame["harmless"] & (frame["repeats"] == "")
    return _judged(frame, differences, pages)


def _judged(frame: pd.DataFrame, differences: list[np.ndarray], pages: int) -> pd.DataFrame:
    """`frame` with corrected p-values, standings, marks and the intervals that decide them."""
    judged, p_values = frame["counts"], frame.loc[frame["counts"], "p_value"].to_numpy()
    frame[["p_holm", "level"]] = np.nan
    frame.loc[judged, "p_holm"] = np.minimum(pages * holm(p_values), 1.0)
    frame.loc[judged, "level"] = holm_levels(p_values, pages)
    stands = frame["repeats"].where(frame["repeats"] != "", frame["rival"])  # for both
    frame[["p_holm", "level"]] = frame.groupby(["scenario", stands])[["p_holm", "level"]].transform("first")
    frame["standing"] = [_standing(row) for _, row in frame.iterrows()]
    frame["mark"] = frame["standing"].map(STANDING_MARKS).where(frame["settled"], "~")
    frame["level"] = frame["level"].where(frame["standing"].str.startswith("lost"), LEVEL).fillna(LEVEL)
    ends = [interval(values, level) for values, level in zip(differences, frame["level"], strict=True)]
    return frame.assign(decides_low=[end.low for end in ends], decides_high=[end.high for end in ends])


def _standing(row: pd.Series) -> str:
    if -row["margin"] <= row["low"] and row["high"] <= row["margin"]:
        return "equivalent"
    alone = {"Re": "won", "¬Re": "lost", "~": "level"}[mark(row["low"], row["high"])]
    return alone if alone == "level" or row["p_holm"] <= 1 - LEVEL else f"{alone}, uncorrected"


def settled_comparisons(
    summary: pd.DataFrame, method: str, rivals: Iterable[str], ideal: str | None = None, most: float = SETTLED
) -> pd.DataFrame:
    """Whether each comparison is settled: neither the `ideal` network (if it was run) nor either side still gains more
    than `most` points over the last quarter of the rounds, mean over seeds.

    summary: with the column late_gain of `experiments.summary` or `Comparison.settle`. A gain that is not known settles
    nothing. Returns the columns scenario, rival, settled.
    """
    gains = summary.groupby(["scenario", "label"])["late_gain"].agg(lambda gain: gain.mean(skipna=False))
    sides = [method] if ideal is None else [method, ideal]
    rows = [
        {"scenario": s, "rival": rival, "settled": all(gains[s, label] <= most for label in (*sides, rival))}
        for s in summary["scenario"].unique()
        for rival in rivals
    ]
    return pd.DataFrame(rows)


def harmless_scenarios(
    summary: pd.DataFrame, metric: str, plain: str = PLAIN, ideal: str = "fedavg_ideal", least: float = HARMLESS
) -> list[str]:
    """The scenarios in which `plain` averaging loses less than `least` against the `ideal` network, mean over seeds."""
    by_label = summary.groupby(["scenario", "label"], sort=False)[metric].mean().unstack("label")
    lost = by_label[ideal] - by_label[plain]
    return [scenario for scenario in summary["scenario"].unique() if lost[scenario] < least]


def same_ideas(summary: pd.DataFrame, rivals: Iterable[str], metric: str, near: float = NEAR) -> pd.DataFrame:
    """Rivals that do what an earlier one does: one row per such rival, with the one it follows.

    apart: mean over all runs, paired by scenario and seed, of the absolute difference; identical: no run differs. A
    rival follows the nearest of the earlier ones that follow nobody, if that is closer than `near`.
    """
    runs = summary.pivot(index=["scenario", "seed"], columns="label", values=metric)
    first, rows = [], []
    for rival in rivals if len(runs) else ():
        apart = runs[first].sub(runs[rival], axis=0).abs().mean()
        if len(apart) and apart.min() < near:
            rows.append({"rival": rival, "follows": apart.idxmin(), "apart": apart.min()})
        else:
            first.append(rival)
    frame = pd.DataFrame(rows, columns=["rival", "follows", "apart"])
    return frame.assign(identical=frame["apart"] == 0)


class Field(NamedTuple):
    """What can decide anything: the scenarios that are harmless, the rivals that do what another one does
    (`same_ideas`), and the others with their contests."""

    harmless: list[str]
    same: pd.DataFrame
    ideas: dict[str, str]


def field(summary: pd.DataFrame, rivals: Mapping[str, str]) -> Field:
    """The field of the `rivals` (label -> contest) in the runs `summary`, of accuracy in points."""
    same = same_ideas(summary[~summary["scenario"].isin(("F0", "none"))], rivals, "points")
    ideas = {rival: contest for rival, contest in rivals.items() if rival not in set(same["rival"])}
    return Field(harmless_scenarios(summary, "points"), same, ideas)


def late_gains(summary: pd.DataFrame, labels: Iterable[str], harmless: Iterable[str]) -> pd.DataFrame:
    """What `labels` still gained over the last quarter of the rounds, in each scenario that is not harmless: mean by
    the slope, mean by planned runs, and ±, the half-width of the latter's 95 % interval over seeds; points."""
    runs = summary[summary["label"].isin(list(labels)) & ~summary["scenario"].isin(list(harmless))]
    by_side = runs.groupby(["scenario", "label"], sort=False)
    found = by_side[["late_slope", "late_gain"]].mean().set_axis(["by slope", "by planned runs"], axis=1)
    found["±"] = by_side["late_gain"].agg(lambda gains: interval(gains.to_numpy()).high - gains.mean())
    return found.reset_index()


def leads(curves: pd.DataFrame, method: str, rivals: Iterable[str]) -> pd.DataFrame:
    """`method` minus each rival at every evaluation, in points, paired by seed: scenario, rival, seed, round, lead."""
    runs = curves.pivot(index=["scenario", "seed", "round"], columns="label", values="accuracy")
    frames = [(100 * (runs[method] - runs[rival])).rename("lead").reset_index().assign(rival=rival) for rival in rivals]
    return pd.concat(frames, ignore_index=True)[["scenario", "rival", "seed", "round", "lead"]]


def tally(comparisons: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons of `against` have each standing, one row per scenario."""
    counts = pd.crosstab(comparisons["scenario"], comparisons["standing"]).reindex(columns=STANDINGS, fill_value=0)
    return counts.loc[comparisons["scenario"].unique()].rename_axis(columns=None).reset_index()


def families(comparisons: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Name and comparisons of each family that has any in the claim, then of all rivals together."""
    counting = comparisons[comparisons["counts"]]
    for contest in CONTESTS:
        if (counting["contest"] == contest).any():
            yield contest, counting[counting["contest"] == contest]
    if len(counting):
        yield "all rivals", counting


def deciding(comparisons: pd.DataFrame) -> pd.Series:
    """The comparison that the mark of all of them hangs on: of those with that mark, the least favourable one."""
    overall = combine_marks(comparisons["mark"])
    return comparisons.loc[comparisons.loc[comparisons["mark"] == overall, "mean"].idxmin()]


def by_family(comparisons: pd.DataFrame) -> pd.DataFrame:
    """One row per scenario and family, all rivals last: the mark, the comparison that decides it, and its interval.

    A harmless scenario has the mark "harmless here".
    """
    rows = []
    for scenario, here in comparisons.groupby("scenario", sort=False):
        for name, some in families(here.assign(counts=here["repeats"] == "")):
            decided = {"scenario": scenario, "family": name, "rivals": len(some)} | _decided(some)
            rows.append(decided | {"mark": "harmless here"} if here["harmless"].all() else decided)
    return pd.DataFrame(rows)


def over_all(comparisons: pd.DataFrame) -> pd.DataFrame:
    """One row per family, all rivals last, over all that counts: the mark, and the comparison that decides it."""
    rows = [
        {"family": name, "scenario": deciding(some)["scenario"]} | _decided(some)
        for name, some in families(comparisons)
    ]
    return pd.DataFrame(rows)


def _decided(comparisons: pd.DataFrame) -> dict[str, object]:
    row = deciding(comparisons)
    ends = {"low": row["decides_low"], "high": row["decides_high"], "interval %": 100 * row["level"]}
    found = f"[{row['mark']}]" + ("" if row["settled"] else " early")
    return {"mark": found, "decided by": row["rival"], "difference": row["mean"]} | ends


def power(comparisons: pd.DataFrame) -> str:
    """In words: the half-width of the 95 % intervals reached, and in how many comparisons it is within the margin."""
    widths, margin = comparisons["half_width"], comparisons["margin"].iloc[0]
    within = int((widths <= margin).sum())
    return (
        f"half-width of the 95 % intervals: median {widths.median():.1f}, largest {widths.max():.1f} points; "
        f"{within} of {len(widths)} reach {margin:g}"
    )


def beats_all_verdict(claim: str, comparisons: pd.DataFrame, where: str, unit: str, evidence: str) -> Verdict:
    """The verdict "ahead of every rival" on comparisons of `against` that belong to the claim.

    [Re] if every comparison is; [=] if some are equivalent and nobody is ahead of the method; [¬Re] if any rival is
    ahead after the correction over all the claim; else [~]. Effect and interval are those of the comparison that
    decides, at the level that decides. where: data, model and rivals, for the statement.
    """
    row, margin = deciding(comparisons), comparisons["margin"].iloc[0]
    number = comparisons["standing"].value_counts().reindex(STANDINGS, fill_value=0)
    early = int((~comparisons["settled"]).sum())
    statement = (
        f"{where}: {len(comparisons)} comparisons with {comparisons['rival'].nunique()} rivals in "
        f"{', '.join(comparisons['scenario'].unique())}: ahead in {number['won'] + number['won, uncorrected']} "
        f"({number['won']} after one correction over the claim), equivalent within {margin:g} in "
        f"{number['equivalent']}, behind in {number['lost']} ({number['lost, uncorrected']} more before the correction "
        f"only), level in {number['level']}" + (f"; {early} early" if early else "") + f"; {power(comparisons)}; "
        f"decided by {row['rival']} in {row['scenario']}" + ("" if row["settled"] else " (early)")
    )
    spread = f"{100 * row['level']:.5g} % t interval" + (", corrected" if row["level"] > LEVEL else "")
    spread += "" if row["settled"] else ", early"
    effect = (float(row[key]) for key in ("mean", "decides_low", "decides_high"))
    return Verdict(claim, statement, row["mark"], *effect, int(row["n"]), unit, evidence, spread)


def beats_all(
    runs: pd.DataFrame,
    claim: str,
    where: str,
    unit: str,
    evidence: str,
    *,
    method: str,
    rivals: Mapping[str, str],
    family: str,
    metric: str = "points",
    margin: float = MARGIN,
    plain: str = PLAIN,
    ideal: str = "fedavg_ideal",
    pages: int = 1,
    labels: Sequence[str] = ("label",),
) -> Verdict:
    """`beats_all_verdict` of `method` on a family of `rivals` (`families`), from one row per run.

    What is harmless and what is settled is read from the runs. labels: columns whose values together name a side; the
    others: of `against`.
    """
    sides = runs.assign(label=runs[list(labels)].agg(", ".join, axis=1))
    comparisons = against(
        sides,
        method,
        rivals,
        metric,
        margin=margin,
        harmless=harmless_scenarios(sides, metric, plain, ideal),
        settled=settled_comparisons(sides, method, rivals, ideal),
        pages=pages,
    )
    return beats_all_verdict(claim, dict(families(comparisons))[family], where, unit, evidence)
