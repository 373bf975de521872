"""Tidy frames of many runs -> one row per run."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def _mean_over_rounds(curve: pd.DataFrame) -> float:
    """Area under the curve, by trapezoids, divided by the rounds it spans."""
    rounds, accuracy = curve["round"].to_numpy(), curve["accuracy"].to_numpy()
    return float(np.trapezoid(accuracy, rounds) / (rounds[-1] - rounds[0])) if len(rounds) > 1 else float(accuracy[0])


def _late_gain(curve: pd.DataFrame, rounds: int) -> float:
    """Slope of the least-squares line through the evaluations of the last quarter of `rounds`, times a quarter."""
    late = curve[curve["round"] >= 0.75 * rounds]
    if len(late) == 1:
        return float("nan")
    return float(rounds / 4 * np.polyfit(late["round"], late["accuracy"], 1)[0])


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
        points), late_gain (what the run still gained over the last quarter of the rounds, by the slope of the
        least-squares line through its evaluations there, points; NaN if there is a single one; `Comparison.settle`
        has a better answer), diverged (round or 0),
        distance (||w - w_0|| at the end; where diverged, of the last sound model),
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
            "late_gain": 100 * grouped[["round", "accuracy"]].apply(_late_gain, rounds=curves["round"].max()),
            "diverged": grouped["diverged"].max(),
            "distance": grouped["distance"].last(),
        }
    )
    if target is not None:
        there = curves[curves["accuracy"] >= target].groupby(keys, sort=False, dropna=False)
        summary["rounds_to_target"] = there["round"].min()
    return summary.reset_index()


def in_every_scenario(frame: pd.DataFrame, labels: Iterable[str], scenarios: Iterable[str]) -> pd.DataFrame:
    """Copy the rows of `labels` (methods that no network can touch, run in one scenario) to all `scenarios`."""
    bounds = frame[frame["label"].isin(list(labels))]
    others = [bounds.assign(scenario=name) for name in scenarios if name not in set(bounds["scenario"])]
    return pd.concat([frame, *others], ignore_index=True)
