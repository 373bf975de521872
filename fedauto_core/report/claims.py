"""Differences -> verdicts. A verdict is computed, never typed: effect size, interval, number of seeds, mark.

The marks are explained in `report.verdicts`, a method against many rivals in `report.contests`. Differences are paired
over seeds. Intervals are Student-t: with the handful of seeds that fits a notebook a percentile bootstrap of the mean
covers far less than it says (about 83 % instead of 95 % at five seeds), a t interval does not.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from fedauto_core.errors import require

from .verdicts import Verdict

LEVEL = 0.95
ABOVE = 1e-4  # what a solver may find above an attained bound


@dataclass(frozen=True)
class Interval:
    """Mean of paired differences with its two-sided interval, p-value against zero and sample size."""

    mean: float
    low: float
    high: float
    p_value: float
    n: int


def interval(differences: Iterable[float], level: float = LEVEL) -> Interval:
    """Student-t interval of the mean at `level`. One value has no interval, and neither have two equal ones: a rounded
    accuracy is equal twice by luck. More values without spread are an interval of one point."""
    values = np.asarray(list(differences), dtype=float)
    require(
        len(values) > 0 and bool(np.all(np.isfinite(values))),
        f"differences {values.tolist()}",
        allowed="at least one finite number",
        remedy="check that every run of the comparison finished",
    )
    mean, n = float(values.mean()), len(values)
    error = float(values.std(ddof=1) / np.sqrt(n)) if n > 1 else 0.0
    if error == 0.0 and n <= 2:
        return Interval(mean, -np.inf, np.inf, 1.0, n)
    if error == 0.0:
        return Interval(mean, mean, mean, 0.0 if mean else 1.0, n)
    reach = error * special.stdtrit(n - 1, 0.5 + level / 2)
    return Interval(mean, mean - reach, mean + reach, float(2 * special.stdtr(n - 1, -abs(mean) / error)), n)


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


def holm_levels(p_values: np.ndarray, pages: int = 1) -> np.ndarray:
    """Level of the interval that says what Holm's procedure says: it excludes zero where, and only where, the adjusted
    p-value is at most a = (1 - LEVEL) / pages. The k-th smallest of m p-values is held against a / (m - k + 1), equal
    ones against what the first of them is, and all from the first that fails on against what that one was held against.
    pages: families that share the level."""
    ordered = np.sort(p_values)
    steps = (1 - LEVEL) / pages / (len(p_values) - np.arange(len(p_values)))
    rejected = int(np.logical_and.accumulate(ordered <= steps).sum())
    return 1 - steps[np.minimum(np.searchsorted(ordered, p_values), rejected)]


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


def difference(
    runs: pd.DataFrame,
    claim: str,
    statement: str,
    unit: str,
    evidence: str,
    *,
    metric: str,
    better: Mapping[str, object],
    worse: Mapping[str, object],
) -> Verdict:
    """`difference_verdict` on two sides of the runs, as `paired` takes them."""
    return difference_verdict(claim, statement, interval(paired(runs, metric, better, worse)), unit, evidence)


def mean_lead(
    runs: pd.DataFrame,
    claim: str,
    statement: str,
    unit: str,
    evidence: str,
    *,
    metric: str,
    better: Mapping[str, object],
    worse: Mapping[str, object],
    scenarios: Sequence[str],
    margin: float,
) -> Verdict:
    """`difference` in the mean over `scenarios`, seed by seed; [=] if the whole interval lies within `margin`."""
    leads = [paired(runs[runs["scenario"] == name], metric, better, worse) for name in scenarios]
    found = interval(np.mean(leads, axis=0))
    level = -margin <= found.low and found.high <= margin
    word = "=" if level else mark(found.low, found.high)
    return Verdict(claim, statement, word, found.mean, found.low, found.high, found.n, unit, evidence)


def mean_of_column(
    table: pd.DataFrame, claim: str, statement: str, unit: str, evidence: str, *, column: str
) -> Verdict:
    """`difference_verdict` on a column with one difference per seed."""
    return difference_verdict(claim, statement, interval(table[column]), unit, evidence)


def factorial(
    runs: pd.DataFrame,
    claim: str,
    case: str,
    unit: str,
    evidence: str,
    *,
    part: str,
    metric: str,
    where: Mapping[str, Collection[object]],
) -> Verdict:
    """C1 on one `part` of `interaction`, of the runs that `where` selects (column -> values), the mean of those that
    share seed and cell."""
    chosen = runs[np.logical_and.reduce([runs[column].isin(values) for column, values in where.items()], axis=0)]
    effects = interaction(chosen.groupby(["failures", "skewed", "seed"], as_index=False)[metric].mean(), metric)
    costs = ", ".join(f"{name} {effects[name].mean:.1f}" for name in ("failures", "skew", "both"))
    return difference_verdict(claim, f"{case}, {part}. Points lost: {costs}", effects[part], unit, evidence)


def untouched(
    changes: pd.DataFrame,
    claim: str,
    where: str,
    unit: str,
    evidence: str,
    *,
    method: str,
    told: Sequence[str],
    seeds: int,
) -> Verdict:
    """C5: nothing changes for `method` (its column of `changes`) when what it is not told is false, but something does
    for each that is `told`, in every row: only then would a change have been seen."""
    own, control = float(changes[method].max()), float(changes[list(told)].min(axis=None))
    statement = (
        f"{where}: false success probabilities change the test loss of `{method}` by {own:g}, that of whoever is told "
        f"them by {control:.2g} or more"
    )
    mark = "¬Re" if own else "Re" if control else "~"
    return Verdict(claim, statement, mark, own, own, own, seeds, unit, evidence, spread="exact comparison")


def rung(ladder: pd.DataFrame, claim: str, unit: str, evidence: str, *, inequality: str, applies: str) -> Verdict:
    """C6 on one inequality, from its row of the ladder (notebook 24): refuted by a violation, by an instance that
    attains more than the bound, or by a counter-example that bends nothing; undecided if it was never tried. applies:
    to what, for the statement."""
    row = ladder.set_index("inequality").loc[inequality]
    refuted = (
        row["violated"] > 0 or row["largest attained"] > 1 + ABOVE or "nothing" in row["assumptions needed"].split(", ")
    )
    statement = (
        f"{inequality}: {row['violated']} violations in {row['tried']} checks, largest ratio attained "
        f"{row['largest attained']:.2f}; needed: {row['assumptions needed']} ({row['counter-examples']} "
        f"counter-examples); mutants caught: {row['mutants caught']}; applies to: {applies}"
    )
    worst = float(row["worst ratio"])
    mark = "¬Re" if refuted else "Re" if row["tried"] else "~"
    return Verdict(claim, statement, mark, worst, worst, worst, 1, unit, evidence, "worst on exact instances")


def bounded(
    worst: pd.DataFrame,
    counts: pd.DataFrame,
    claim: str,
    statement: str,
    unit: str,
    evidence: str,
    *,
    ratio: str,
    spread: str,
    seeds: int,
) -> Verdict:
    """C6 on many checks: effect and range are those of the column `ratio` of `worst`; refuted if `counts` has anything
    `refuting`, undecided if it has anything `open`. spread: what the range is over."""
    low, high = float(worst[ratio].min()), float(worst[ratio].max())
    mark = "¬Re" if counts["refuting"].sum() else "~" if counts["open"].sum() else "Re"
    return Verdict(claim, statement, mark, high, low, high, seeds, unit, evidence, spread)
