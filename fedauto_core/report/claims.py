"""Frames -> verdicts. A verdict is computed, never typed: effect size, interval, number of seeds, mark.

Marks: [Re] reproduced, [¬Re] not reproduced, [~] inconclusive at this sample size. Differences are paired over
seeds. Intervals are Student-t: with the handful of seeds that fits a notebook a percentile bootstrap of the mean
covers far less than it says (about 83 % instead of 95 % at five seeds), a t interval does not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy import stats

from fedauto_core.errors import require

from .verdicts import Verdict

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences with its two-sided interval, p-value against zero and sample size."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int


def interval(differences: Iterable[float]) -> Interval:
    """Student-t interval of the mean. One value, or values without spread, give an honest degenerate interval."""
    values = np.asarray(list(differences), dtype=float)
    require(
        len(values) > 0 and bool(np.all(np.isfinite(values))),
        f"differences {values.tolist()}",
        allowed="at least one finite number",
        remedy="check that every run of the comparison finished",
    )
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, -np.inf, np.inf, 1.0, 1)
    error = float(values.std(ddof=1) / np.sqrt(n))
    if error == 0.0:
        return Interval(mean, mean, mean, 0.0 if mean else 1.0, n)
    reach = error * stats.t.ppf(0.5 + LEVEL / 2, n - 1)
    return Interval(mean, mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n)


def mark(low: float, high: float) -> str:
    """[Re] when the whole interval of the claimed effect is positive, [¬Re] when it is negative, else [~]."""
    return "Re" if low > 0 else "¬Re" if high < 0 else "~"


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p-values of a family (Holm 1979)."""
    order = np.argsort(p_values)
    scaled = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def paired(summary: pd.DataFrame, metric: str, better: Mapping[str, object], worse: Mapping[str, object]) -> np.ndarray:
    """metric(better) - metric(worse), one value per seed; both selections must hold the same seeds once each."""
    sides = []
    for selection in (better, worse):
        rows = summary[(summary[list(selection)] == list(selection.values())).all(axis=1)]
        sides.append(rows.set_index("seed")[metric].sort_index())
    require(
        len(sides[0]) > 0 and sides[0].index.is_unique and sides[0].index.equals(sides[1].index),
        f"runs of {dict(better)} and {dict(worse)} do not pair: {list(sides[0].index)}, {list(sides[1].index)}",
        allowed="the same seeds, once each, on both sides",
        remedy="select exactly one run per seed on each side",
    )
    return (sides[0] - sides[1]).to_numpy()


STANDINGS = ("won", "won, uncorrected", "level", "lost, uncorrected", "lost")


def beats_all(
    summary: pd.DataFrame, method: str, rivals: Iterable[str], metric: str, *, one_family: bool = False
) -> pd.DataFrame:
    """`method` against each rival in each scenario: difference, interval, Holm-adjusted p-value, standing, mark.

    The family of Holm's correction is the rivals of one scenario, or all comparisons (`one_family`). standing: "won" or
    "lost" if the difference survives it; "won, uncorrected" or "lost, uncorrected" if only its own 95 % interval
    excludes zero; else "level".
    mark: "beats every rival" is an intersection of claims, so each may hold at its own level ([Re] for both kinds of
    "won"); "some rival wins" is a union, so a loss counts only if it survives the correction ([¬Re] for "lost").
    """
    rows = []
    for scenario in summary["scenario"].unique():
        here = summary[summary["scenario"] == scenario]
        for rival in rivals:
            difference = interval(paired(here, metric, {"label": method}, {"label": rival}))
            rows.append({"scenario": scenario, "rival": rival} | asdict(difference))
    frame = pd.DataFrame(rows)
    families = np.zeros(len(frame)) if one_family else frame["scenario"]
    frame["p_holm"] = frame.groupby(families)["p_value"].transform(lambda p: holm(p.to_numpy()))
    signs = {"Re": "won", "¬Re": "lost", "~": "level"}
    alone = pd.Series(map(mark, frame["low"], frame["high"])).map(signs)
    survives = (alone == "level") | (frame["p_holm"] <= 1 - LEVEL)
    frame["standing"] = alone.where(survives, alone + ", uncorrected")
    frame["mark"] = frame["standing"].map(dict(zip(STANDINGS, ("Re", "Re", "~", "~", "¬Re"), strict=True)))
    return frame


def tally(comparisons: pd.DataFrame) -> pd.DataFrame:
    """How many comparisons of `beats_all` have each standing, one row per scenario."""
    counts = pd.crosstab(comparisons["scenario"], comparisons["standing"]).reindex(columns=STANDINGS, fill_value=0)
    return counts.loc[comparisons["scenario"].unique()].rename_axis(columns=None).reset_index()


def beats_all_verdict(claim: str, comparisons: pd.DataFrame, where: str, unit: str, evidence: str) -> Verdict:
    """[Re] if every comparison is [Re]; [¬Re] if any is [¬Re]; else [~]. The effect is the least favourable one.

    where: data, model and scenario, for the statement.
    """
    marks = set(comparisons["mark"])
    overall = "¬Re" if "¬Re" in marks else "Re" if marks == {"Re"} else "~"
    least = comparisons.loc[comparisons["mean"].idxmin()]
    number = {standing: int((comparisons["standing"] == standing).sum()) for standing in STANDINGS}
    statement = (
        f"{where}: of {len(comparisons)} rivals {number['won'] + number['won, uncorrected']} beaten "
        f"({number['won']} after Holm's correction), {number['lost']} ahead ({number['lost, uncorrected']} more before "
        f"correction only), {number['level']} level; closest rival: {least['rival']}"
    )
    effect = (float(least[key]) for key in ("mean", "low", "high"))
    return Verdict(claim, statement, overall, *effect, int(least["n"]), unit, evidence)


def interaction(summary: pd.DataFrame, metric: str) -> Mapping[str, Interval]:
    """C1 as a 2 x 2 factorial in the boolean columns `failures` and `skewed`: each loss against (no failures, iid).

    interaction = loss(both) - loss(failures alone) - loss(skew alone): positive if the two make each other worse.
    beyond the worse = loss(both) - the larger of the two alone: positive if either alone does less.
    """
    ideal = {"failures": False, "skewed": False}
    losses = {
        name: paired(summary, metric, ideal, {"failures": failures, "skewed": skewed})
        for name, failures, skewed in (("failures", True, False), ("skew", False, True), ("both", True, True))
    }
    losses["interaction"] = losses["both"] - losses["failures"] - losses["skew"]
    losses["beyond the worse"] = losses["both"] - np.maximum(losses["failures"], losses["skew"])
    return {name: interval(values) for name, values in losses.items()}


def difference_verdict(claim: str, statement: str, effect: Interval, unit: str, evidence: str) -> Verdict:
    """Verdict of a claim of the form "this difference is positive"."""
    found = (mark(effect.low, effect.high), effect.mean, effect.low, effect.high, effect.n)
    return Verdict(claim, statement, *found, unit, evidence)
