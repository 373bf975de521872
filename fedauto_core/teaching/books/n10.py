"""Exercises of notebook 10: pairing, equivalence, Holm's correction, and how many seeds it takes."""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from fedauto_core.errors import is_number
from fedauto_core.report.claims import LEVEL, holm
from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import function_is

COMPARISONS = pd.DataFrame(
    [
        ("F0", "fedavg", 0.6, -math.inf, math.inf, math.inf, 2),
        ("F0", "scaffold", -0.7, -1.1, -0.3, 0.4, 5),
        ("F8", "fedavg", 3.9, 2.7, 5.1, 1.2, 5),
        ("F8", "scaffold", 0.5, -2.4, 3.4, 2.9, 5),
    ],
    columns=["scenario", "rival", "mean", "low", "high", "half_width", "n"],
)
SUMMARY = pd.DataFrame(
    {
        "scenario": ["F0"] * 6,
        "label": ["fedauto"] * 3 + ["fedavg"] * 3,
        "seed": [0, 1, 2] * 2,
        "points": [80.0, 85.0, 83.0, 79.0, 83.5, 82.0],
    }
)


def closest(comparisons: pd.DataFrame) -> str:
    """The rival over which FedAuto's lead, averaged over the scenarios, is smallest."""
    return comparisons.pivot_table("mean", "rival", "scenario").mean(axis=1).idxmin()


def reach(comparisons: pd.DataFrame) -> float:
    """The least margin that holds all intervals of the first scenario: the finite end that is farthest from zero, or
    infinity where there is none."""
    ends = comparisons.loc[comparisons["scenario"] == comparisons["scenario"].iloc[0], ["low", "high"]].to_numpy()
    return float(max(np.abs(ends[np.isfinite(ends)]), default=math.inf))


def narrowing(runs: pd.DataFrame) -> float:
    """Standard error of a paired difference over that of an unpaired one, from variances and covariance."""
    (own, both), (_, other) = np.cov(*(rows["points"] for _, rows in runs.sort_values("seed").groupby("label")))
    return math.sqrt((own + other - 2 * both) / (own + other))


def spread(comparisons: pd.DataFrame) -> float:
    """Standard deviation of the differences in the closest comparison that has an interval."""
    row = comparisons.loc[comparisons["mean"].abs().where(np.isfinite(comparisons["half_width"])).idxmin()]
    return row["half_width"] * math.sqrt(row["n"]) / stats.t.ppf(0.5 + LEVEL / 2, row["n"] - 1)


def judge_seeds(answer: Any, comparisons: pd.DataFrame, margin: float) -> str | None:
    """The least n whose interval reaches `margin` does so, and n - 1 does not."""
    if not is_number(answer) or answer != int(answer) or answer < 2:
        return "This asks for a whole number of seeds, at least two."
    deviation = spread(comparisons)
    half_width = [
        deviation * stats.t.ppf(0.5 + LEVEL / 2, n - 1) / math.sqrt(n) if n > 1 else math.inf
        for n in (int(answer) - 1, int(answer))
    ]
    if half_width[1] > margin:
        return "With so few seeds the half-width is still above the margin. Did you use the t quantile of n - 1?"
    return None if half_width[0] > margin else "It is narrow enough; with one seed fewer it would be, too."


book = Book(
    Exercise(
        "10.1",
        1,
        5,
        **choice_is(
            right=closest,
            among=lambda comparisons: set(comparisons["rival"]),
            hint="A rival has one number for each scenario. Take their mean before you compare rivals.",
        ),
        pitfalls="The smallest single difference is taken, instead of the smallest mean over scenarios.",
        example={"comparisons": COMPARISONS},
    ),
    Exercise(
        "10.2",
        2,
        10,
        **number_is(
            right=reach,
            hint="The whole interval of every rival must lie between minus the margin and plus the margin.",
            also_wrong=lambda comparisons: [
                comparisons.loc[comparisons["scenario"] == comparisons["scenario"].iloc[0], "mean"].abs().max(),
                comparisons.loc[comparisons["scenario"] == comparisons["scenario"].iloc[0], "high"].max(),
            ],
        ),
        pitfalls="The mean is held against the margin, or only one end of the interval.",
        example={"comparisons": COMPARISONS},
    ),
    Exercise(
        "10.3",
        2,
        15,
        **number_is(
            right=narrowing,
            hint="Paired: the spread of the differences. Unpaired: the variances of the two sides add up. "
            "Divide the first standard error by the second.",
            also_wrong=lambda runs: [1 / narrowing(runs), narrowing(runs) ** 2],
        ),
        pitfalls="The ratio is turned round, or variances are divided instead of standard errors.",
        example={"runs": SUMMARY},
    ),
    Exercise(
        "10.4",
        3,
        20,
        **function_is(
            right=holm,
            case=lambda rng: (rng.uniform(size=rng.integers(2, 9)) ** 3,),
            expects="a function of (p_values) that returns the adjusted ones in the same order",
            hint="On some p-values it differs. Adjust three on paper, of which two are nearly the same and one is "
            "close to one: at which of them does your function part from the rules of the statement?",
            wrong=[
                lambda p: np.minimum(len(p) * p, 1),
                lambda p: p,
                lambda p: np.minimum((len(p) - np.argsort(np.argsort(p))) * p, 1),
                lambda p: np.sort(holm(p)),
            ],
        ),
        pitfalls="The running maximum is forgotten, or the values come back sorted.",
    ),
    Exercise(
        "10.5",
        3,
        15,
        judge=judge_seeds,
        expects="a whole number of seeds",
        wrong=lambda comparisons, margin: [1, 2, math.ceil((1.96 * spread(comparisons) / margin) ** 2), 10**4, 12.5],
        pitfalls="The normal quantile 1.96 is taken, which is too small at few seeds.",
        example={"comparisons": COMPARISONS, "margin": 1.0},
    ),
)
check = book.check
