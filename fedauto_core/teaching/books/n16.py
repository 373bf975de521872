"""Exercises of notebook 16: what a deployment lost, and what the server can see without being told."""

import math

import numpy as np
import pandas as pd

from fedauto_core.methods.weights import fedauto_weights
from fedauto_core.network.traces import CAUSES, Cause
from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is

UP = CAUSES[Cause.OK]
LOG = pd.DataFrame({"planned": [UP] * 6 + [CAUSES[Cause.LONG]] * 3, "arrived": [1, 0, 1, 0, 1, 1, 0, 0, 0]})
ARMS = ("unchanged client", "with the lines", "neither")


def leads(classes: int) -> str:
    """Who can lead over FedAvg where all histograms are uniform: nobody, if the weights are then n_j / n_A."""
    counts = np.array([300, 500, 200])
    weights = fedauto_weights(np.full((3, classes), 1 / classes), counts, np.full(classes, 1 / classes), 0.1)
    return "neither" if np.allclose(weights, counts / counts.sum()) else "with the lines"


def sampling_error(drawn: int) -> float:
    """E |X / n - 1/2| for X ~ Bin(n, 1/2) in closed form (de Moivre): binom(n - 1, floor(n / 2)) / 2^n."""
    return math.comb(drawn - 1, drawn // 2) / 2**drawn


book = Book(
    Exercise(
        "16.1",
        1,
        5,
        **number_is(
            right=lambda log: int((log["planned"] == UP).sum() - log.loc[log["planned"] == UP, "arrived"].sum()),
            hint="Two conditions on a row: the link was planned to be up, and nothing arrived.",
            also_wrong=lambda log: [int((log["arrived"] == 0).sum()), int((log["planned"] != "ok").sum())],
        ),
        pitfalls="All uploads that are missing are counted, those whose link was down among them.",
        example={"log": LOG},
    ),
    Exercise(
        "16.2",
        2,
        10,
        **choice_is(
            right=leads,
            among=lambda classes: ARMS,
            hint="Compute the weights for histograms that are all alike, and look for classes that can be missing.",
        ),
        pitfalls="True histograms are thought to help by themselves; they help only where they differ.",
        example={"classes": 10},
    ),
    Exercise(
        "16.3",
        2,
        15,
        **number_is(
            right=sampling_error,
            hint="The share of the first class among the samples is X / n. How far from one half is it, in the mean "
            "of the absolute value?",
            also_wrong=lambda drawn: [2 * sampling_error(drawn), 0.5 / math.sqrt(drawn), 0.0],
        ),
        pitfalls="The standard deviation is given, which is larger than the mean absolute deviation.",
        example={"drawn": 50},
    ),
    Exercise(
        "16.4",
        3,
        15,
        **formula_is(
            vanishes=lambda answer, p, C: answer + p * (1 / C - 1) + (1 - p) / C,
            symbols="p C",
            hint="It differs. The bias of a class moves against its gradient, which is the prediction minus the label.",
            wrong=["p", "1/C - p", "p - 1", "p / C"],
        ),
        pitfalls="The sign is turned: a step goes against the gradient.",
    ),
)
check = book.check
