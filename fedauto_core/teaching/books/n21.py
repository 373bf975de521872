"""Exercises of notebook 21: reading, a failure law of one's own, the step limits, plain averaging's floor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import called, function_is, numbers
from fedauto_core.theory.bound.aggregation import arrival_sets
from fedauto_core.theory.bound.improved import THEOREMS

PARTS = ("start", "error", "noise")
WHICH = ("both", "first", "improved", "neither")
CLOSE = 1e-9


def _arrived(ratios: pd.DataFrame) -> int:
    """How many arrive in the set that brings FedAvg closest to its bound on the quadratics."""
    own = ratios[(ratios["instance"] == "quadratics") & (ratios["rule"] == "FedAvg")]
    return int(own.loc[own["ratio"].idxmax(), "arrived"])


def _law(answer: Any) -> str | None:
    """Any joint law in which each arrives with probability one half, but not independently of the others."""
    if not callable(answer):
        return f"This asks for a function of the arrival sets, not for {type(answer).__name__}."
    for clients in (2, 3, 5):
        sets = arrival_sets(clients)
        returned, problem = called(answer, sets)
        if problem:
            return problem
        p = numbers(returned, (len(sets),))
        if p is None:
            return f"For {clients} clients the law must return {len(sets)} probabilities, one for each arrival set."
        if (p < 0).any() or abs(p.sum() - 1) > CLOSE:
            return f"Probabilities are not negative and sum to one; for {clients} clients yours sum to {p.sum():.4g}."
        if np.abs(p @ sets - 0.5).max() > CLOSE:
            return f"Each client must arrive in half of all cases; here they do with {np.round(p @ sets, 3).tolist()}."
        if np.allclose(p, p.mean()):
            return "All sets are equally likely: that is the law of independent clients."
    return None


def _laws_refused() -> list[Callable[[np.ndarray], np.ndarray]]:
    return [
        lambda sets: np.full(len(sets), 1 / len(sets)),
        lambda sets: sets.all(axis=1).astype(float),
        lambda sets: sets.mean(axis=1),
        lambda sets: (sets.sum(axis=1) == 1) / sets.shape[1],
    ]


def _at_one_and_a_half() -> str:
    """Which theorem covers E > 1 local steps at one and a half times the first one's limit."""
    names = [t.name for t in THEOREMS if t.covers(1.5 * THEOREMS[0].step_limit(1.0, 5), 1.0, 5)]
    return names[0] if len(names) == 1 else "both" if names else "neither"


def _where_it_ends(counts: np.ndarray, centres: np.ndarray, arrives: np.ndarray) -> float:
    """Rounds of plain averaging on (x - u_j)^2/2 until nothing moves any more."""
    x = 0.0
    for _ in range(400):
        x += np.average(0.1 * (centres[arrives] - x), weights=counts[arrives])
    return x


def _silence(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    arrives = rng.random(5) < 0.5
    arrives[0] = True
    return rng.integers(1, 20, 5), rng.normal(size=5), arrives


def _largest_part(runs: pd.DataFrame) -> str:
    """The largest part of the improved bound at the end of FedAvg's run against the adversary."""
    own = runs[(runs["failures"] == "adversary") & (runs["rule"] == "FedAvg") & (runs["theorem"] == "improved")]
    return str(own.loc[own["round"].idxmax(), list(PARTS)].astype(float).idxmax())


ENDS = {"failures": "adversary", "rule": "FedAvg", "theorem": "improved"}

book = Book(
    Exercise(
        "21.1",
        1,
        5,
        **number_is(
            right=_arrived,
            hint="Find the quadratics under FedAvg in the picture of the worst sets, and count the dark fields.",
        ),
        pitfalls="FedAuto's row is read, or the clients that are absent are counted.",
        example={
            "ratios": pd.DataFrame(
                {"instance": "quadratics", "rule": "FedAvg", "arrived": [0, 3, 5], "ratio": [0.2, 0.8, 0.5]}
            )
        },
    ),
    Exercise(
        "21.2",
        3,
        15,
        judge=_law,
        expects="a function of the arrival sets, bool [2^N, N], that returns the probability of each",
        wrong=_laws_refused,
        pitfalls="All sets are made equally likely, which is independence. The marginals are not checked.",
    ),
    Exercise(
        "21.3",
        2,
        5,
        **choice_is(
            right=_at_one_and_a_half,
            among=lambda: WHICH,
            hint="Compare the step size with the limit of each theorem for more than one local step.",
        ),
        pitfalls="The limit of one local step is used, where both theorems agree.",
    ),
    Exercise(
        "21.4",
        3,
        10,
        **function_is(
            _where_it_ends,
            _silence,
            expects="a function limit(counts, centres, arrives) that returns one number",
            hint="At the end the averaged gradient is zero. Whose gradients are averaged, and with which weights?",
            wrong=(
                lambda counts, centres, arrives: np.average(centres, weights=counts),
                lambda counts, centres, arrives: centres[arrives].mean(),
                lambda counts, centres, arrives: (counts * centres)[arrives].sum() / counts.sum(),
            ),
        ),
        pitfalls="The weights are divided by all samples instead of those that arrived.",
    ),
    Exercise(
        "21.5",
        1,
        5,
        **choice_is(
            right=_largest_part,
            among=lambda runs: PARTS,
            hint="Take the last round of that run and compare its columns start, error and noise.",
        ),
        pitfalls="The first round is read, where everything still stems from the start.",
        example={"runs": pd.DataFrame([ENDS | {"round": 2, "start": 1.0, "error": 3.0, "noise": 2.0}])},
    ),
)
check = book.check
