"""Exercises of notebook 15: who gains, what a memory is worth, and where SCAFFOLD settles with a silent client."""

import math

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, function_is

GAINS = pd.DataFrame(
    {
        "scenario": ["F0", "F0", "F10", "F10", "F10", "F10"],
        "X": ["scaffold", "fedprox", "scaffold", "fedprox", "scaffold", "fedprox"],
        "arm": ["FedAuto", "FedAuto", "weights only", "weights only", "FedAuto", "FedAuto"],
        "mean": [0.0, 0.1, -0.2, 5.0, 7.0, 6.5],
    }
)
STALE = pd.DataFrame(
    {
        "label": ["fedauto_memory 0.5", "fedauto_memory 0.5", "fedauto_memory 1"],
        "stale": [0.1, 0.3, 0.45],
        "age": [0.2, 0.5, 8.0],
    }
)


def gains_most(gains: pd.DataFrame) -> str:
    """The X to which FedAuto whole adds most in the last scenario."""
    here = gains[(gains["scenario"] == gains["scenario"].iloc[-1]) & (gains["arm"] == "FedAuto")]
    return here.sort_values("mean")["X"].iloc[-1]


def forgotten(samples: int, decay: float) -> int:
    """The first age at which a stored update is worth fewer than one sample."""
    return math.floor(math.log(samples) / -math.log(decay)) + 1


def settles(minima: np.ndarray, v: float) -> float:
    """Where c = 0: sum over the heard of (w - a_k), and v - a_N of who is silent, are zero together."""
    return float((minima.sum() - v) / (len(minima) - 1))


book = Book(
    Exercise(
        "15.1",
        1,
        5,
        **choice_is(
            right=gains_most,
            among=lambda gains: set(gains["X"]),
            hint="Look at the last scenario alone, and at the arm with the compensating participant.",
        ),
        pitfalls="The arm with the weights alone is read, or another scenario.",
        example={"gains": GAINS},
    ),
    Exercise(
        "15.2",
        1,
        5,
        **number_is(
            right=lambda stale: float(stale["stale"].max()),
            hint="It is a share between zero and one, in the table of the memory.",
            also_wrong=lambda stale: [stale["age"].max(), stale["stale"].mean()],
        ),
        pitfalls="The mean age is read instead of the weight.",
        example={"stale": STALE},
    ),
    Exercise(
        "15.3",
        2,
        10,
        **number_is(
            right=forgotten,
            hint="Its worth shrinks like a power. Is it worth less than one at your age, and more just before?",
            also_wrong=lambda samples, decay: [
                forgotten(samples, decay) - 1,
                math.log(samples) / -math.log(decay),
                samples * decay,
            ],
        ),
        pitfalls="The real number is given where the first whole age is asked for.",
        example={"samples": 500, "decay": 0.9},
    ),
    Exercise(
        "15.4",
        3,
        15,
        **formula_is(
            vanishes=lambda w, a_1, a_2, a_3, v: (w - a_1) + (w - a_2) + (v - a_3),
            symbols="a_1 a_2 a_3 v",
            hint="It differs. What is the gradient of the silent client that the server remembers, and at which point "
            "was it taken?",
            wrong=["(a_1 + a_2) / 2", "(a_1 + a_2 + a_3) / 3", "(a_1 + a_2 - a_3 + v) / 2", "v"],
        ),
        pitfalls="The silent client is left out, as if its control variate were zero.",
    ),
    Exercise(
        "15.5",
        3,
        30,
        **function_is(
            right=settles,
            case=lambda rng: (rng.normal(size=rng.integers(2, 7)), float(rng.normal())),
            expects="a function of (minima, v) that returns the point at which SCAFFOLD settles",
            hint="On some instances it ends elsewhere. Is c the mean over all clients, the silent one included? "
            "Are there rounds enough?",
            wrong=[
                lambda minima, v: minima.mean(),
                lambda minima, v: minima[:-1].mean(),
                lambda minima, v: (minima[:-1].sum() + v) / len(minima),
            ],
        ),
        pitfalls="The mean of the control variates is taken over the heard clients alone.",
    ),
)
check = book.check
