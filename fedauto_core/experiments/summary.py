"""Tidy frames of many runs -> one row per run."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def _mean_over_rounds(curve: pd.DataFrame) -> float:
    """Area under the curve, by trapezoids, divided by the rounds it spans."""
    rounds, accuracy = curve["round"].to_numpy(), curve["accuracy"].to_numpy()
    return float(np.trapezoid(accuracy, rounds) / (rounds[-1] - rounds[0])) if len(rounds) > 1 else float(accuracy[0])


def summarise(curves: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """One row per run.

    Parameters
    ----------
    curves : of a `Result`
    target : accuracy that is to be reached, for rounds_to_target

    Returns
    -------
    DataFrame : points and worst_class (accuracy and recall of the worst class in percentage points, means over the last
        10 % of the rounds), loss, area (mean accuracy over the rounds between the first and the last evaluation,
        points), diverged (round or 0), distance (||w - w_0|| at the end; where diverged, of the last sound model),
        rounds_to_target (first evaluation with accuracy >= target; NaN if never)
    """
    measured = ("round", "accuracy", "worst_class", "loss", "distance", "diverged")
    keys = [c for c in curves.columns if c not in measured]
    last = curves["round"] > 0.9 * curves["round"].max()
    grouped, at_end = (frame.groupby(keys, sort=False, dropna=False) for frame in (curves, curves[last]))
    summary = pd.DataFrame(
        {
            "points": 100 * at_end["accuracy"].mean(),
            "worst_class": 100 * at_end["worst_class"].mean(),
            "loss": at_end["loss"].mean(),
            "area": 100 * grouped[["round", "accuracy"]].apply(_mean_over_rounds),
            "diverged": grouped["diverged"].max(),
            "distance": grouped["distance"].last(),
        }
    )
    if target is not None:
        there = curves[curves["accuracy"] >= target].groupby(keys, sort=False, dropna=False)
        summary["rounds_to_target"] = there["round"].min()
    return summary.reset_index()


def late_gain(curves: pd.DataFrame) -> pd.DataFrame:
    """What each label still gains over the last quarter of the rounds, in points: the slope of the least-squares line
    through the mean over seeds of its evaluations there, times a quarter of the rounds. Returns the columns scenario,
    label, gain; NaN where there is a single evaluation."""
    rounds = curves["round"].max()
    late = curves[curves["round"] >= 0.75 * rounds].groupby(["scenario", "label", "round"], sort=False)["accuracy"]
    means = 100 * late.mean().reset_index("round").set_index("round", append=True)["accuracy"]
    slopes = means.groupby(["scenario", "label"], sort=False).apply(_slope)
    return (rounds / 4 * slopes).rename("gain").reset_index()


def _slope(by_round: pd.Series) -> float:
    if len(by_round) == 1:
        return float("nan")
    return float(np.polyfit(by_round.index.get_level_values("round"), by_round, 1)[0])


def at_equal(curves: pd.DataFrame, spent: pd.DataFrame, label: str) -> pd.DataFrame:
    """`label` and each other one where both have spent the same, in every run.

    Parameters
    ----------
    curves : of a `Result`
    spent : columns scenario, label, seed, round, spent: what a run has used up to and with that round, never falling

    Returns
    -------
    DataFrame : columns scenario, rival, seed, budget (what the one that spends less used in the whole run), own and
        points (accuracy of `label` and of the rival in points when they had used that, between two evaluations on the
        straight line; NaN before the first evaluation)
    """
    keys = ["scenario", "label", "seed"]
    runs = curves.merge(spent, on=[*keys, "round"]).sort_values("round")
    paths = {key: (run["spent"].to_numpy(), 100 * run["accuracy"].to_numpy()) for key, run in runs.groupby(keys)}
    rows = []
    for (scenario, rival, seed), theirs in paths.items():
        if rival != label:
            mine = paths[scenario, label, seed]
            budget = min(mine[0][-1], theirs[0][-1])
            own, points = (float(np.interp(budget, *path, left=np.nan)) for path in (mine, theirs))
            rows.append({"scenario": scenario, "rival": rival, "seed": seed, "budget": budget}
                        | {"own": own, "points": points})  # fmt: skip
    return pd.DataFrame(rows)


def in_every_scenario(frame: pd.DataFrame, labels: Iterable[str], scenarios: Iterable[str]) -> pd.DataFrame:
    """Copy the rows of `labels` (methods that no network can touch, run in one scenario) to all `scenarios`."""
    bounds = frame[frame["label"].isin(list(labels))]
    others = [bounds.assign(scenario=name) for name in scenarios if name not in set(bounds["scenario"])]
    return pd.concat([frame, *others], ignore_index=True)
