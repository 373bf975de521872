"""Exercises of notebook 20: reading, the descent lemma and the step limit, the step size, a missing class."""

from typing import Any

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, numbers
from fedauto_core.theory.bound.checks import missing_class_check
from fedauto_core.theory.bound.first import FIRST

TERMS = ("bias", "drift", "noise")
SIMPLEX = 1e-9  # by how much the sum of a mixture may miss one


def _closest(rounds: pd.DataFrame) -> int:
    """E of the round that comes closest to its bound."""
    tested = rounds[rounds["status"] != "not applicable"]
    return int(tested.loc[tested["ratio"].idxmax(), "E"])


def _fastest() -> str:
    """The term of the first theorem that a tenth of the step size makes smaller by most; any positive sizes will do."""
    ones, steps = np.ones(1), 5

    def sizes(gamma: float) -> dict[str, Any]:
        drift = FIRST.drift(ones, ones, gamma, 1.0, steps)
        return FIRST.terms(ones, drift, ones, ones, gamma, 1.0, steps)

    whole, tenth = sizes(0.1), sizes(0.01)
    return min(TERMS, key=lambda term: float(tenth[term][0] / whole[term][0]))


def _mixture(answer: Any, target: np.ndarray, missing: np.ndarray) -> str | None:
    mixture = numbers(answer, target.shape)
    if mixture is None:
        return f"This asks for {len(target)} numbers, one for each class."
    if (mixture < 0).any() or abs(mixture.sum() - 1) > SIMPLEX:
        return f"A mixture is not negative and sums to one; yours sums to {mixture.sum():.4g}."
    if mixture[missing].any():
        return "The classes that are missing must have weight zero."
    check = missing_class_check(mixture, target)
    return None if check.status == "tight" else f"It has chi-square {check.bound:.4f}; the floor is lower."


def _wrong_mixtures(target: np.ndarray, missing: np.ndarray) -> list[np.ndarray]:
    even, rest = (~missing) / (~missing).sum(), np.where(missing, 0.0, target)
    heavy = rest**2 / (rest**2).sum()
    return [target, rest, even, heavy]


book = Book(
    Exercise(
        "20.1",
        1,
        5,
        **number_is(
            right=_closest,
            hint="Look for the largest *worst_ratio* in the table, and read the column E of its row.",
            also_wrong=lambda rounds: {*map(float, rounds["E"])} - {_closest(rounds)},
        ),
        pitfalls="The median is read instead of the largest ratio, or the largest ratio is taken for the loosest case.",
        example={"rounds": pd.DataFrame({"E": [1, 1, 5], "ratio": [0.3, 0.7, 0.4], "status": ["valid"] * 3})},
    ),
    Exercise(
        "20.2",
        3,
        10,
        **formula_is(
            lambda fall, gamma, L, s: fall - (gamma * s - L / 2 * (gamma**2 * s)),
            symbols="gamma L s",
            hint="Put the move $-\\gamma \\nabla F$ into both terms of S1 that contain $v$, and mind the signs.",
            wrong=("gamma*s", "gamma*s - L*gamma**2*s", "gamma*s + L*gamma**2*s/2", "s - L*gamma**2*s/2", "gamma"),
        ),
        pitfalls="The square of gamma is forgotten in the last term, or what F rises by is given for what it falls by.",
    ),
    Exercise(
        "20.3",
        3,
        15,
        **formula_is(
            lambda left, gamma, L, E: left + gamma * E / 2 * (1 - 2 * L * gamma * E),
            symbols="gamma L E",
            hint="Two terms hold $\\|H\\|^2$: one from S2, and one from the square of $G$ in S1. Collect both.",
            wrong=(
                "-gamma*E/2",
                "-gamma*E/2*(1 - L*gamma*E)",
                "gamma*E/2*(1 - 2*L*gamma*E)",
                "-gamma*E/2*(1 + 2*L*gamma*E)",
            ),
        ),
        pitfalls="The factor of two in front of the square of H is lost, which gives the limit of one step only.",
    ),
    Exercise(
        "20.4",
        2,
        10,
        **choice_is(
            right=_fastest,
            among=lambda: TERMS,
            hint="Count the powers of $\\gamma$ in each term of the round's inequality, those inside $D_r$ as well.",
        ),
        pitfalls="The powers inside the drift are not counted, or the factor in front of the bracket is forgotten.",
    ),
    Exercise(
        "20.5",
        3,
        10,
        judge=_mixture,
        expects="a mixture: one number for each class, none negative, with the sum one",
        wrong=_wrong_mixtures,
        pitfalls="The weight of the missing classes is shared out evenly, not in the proportions of the rest.",
        example={"target": np.array([0.5, 0.3, 0.2]), "missing": np.array([False, False, True])},
    ),
)
check = book.check
