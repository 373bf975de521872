"""Exercises of notebook 24: reading the ladder, the step limit by attack, a counter-example, a check with teeth."""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import called, numbers
from fedauto_core.theory.attack.mutation import mutants_of
from fedauto_core.theory.attack.scalars import Scalars, World, sides
from fedauto_core.theory.bound.first import FIRST
from fedauto_core.theory.bound.terms import missing_class

REACHED = 0.999  # largest ratio attained from which an inequality counts as attained
CLAIMED = World(smoothness=0.25)  # L claimed at a quarter of its value
FIELDS = ("curvature", "centre", "share", "beta")
MASSES = (0.13, 0.37, 0.52, 0.81)  # of the missing class


def _attained(ladder: pd.DataFrame) -> int:
    return int((ladder["largest attained"] >= REACHED).sum())


def _instance(answer: Any) -> str | None:
    """One-dimensional quadratics with true L = 1 on which the first theorem fails for E = 1 if L = 1/4 is claimed."""
    if not isinstance(answer, Mapping) or set(answer) != {*FIELDS, "noise"}:
        return f"This asks for a dictionary with the keys {', '.join((*FIELDS, 'noise'))}."
    size = np.size(answer["curvature"])
    columns = [numbers(answer[name], (size,)) for name in FIELDS]
    noise = numbers(answer["noise"], ())
    if size == 0 or noise is None or any(column is None for column in columns):
        return "Four lists of the same length, one number for each participant, and one number for the noise."
    curvature, _, *weights = columns
    if np.abs(curvature).max() > 1:
        return "The true constant is one: no curvature may be larger than that, in either direction."
    if any((column < 0).any() or abs(column.sum() - 1) > 1e-9 for column in weights):
        return "Shares and weights are not negative, and each of the two lists sums to one."
    measured, bound = (
        float(side[0]) for side in sides(Scalars(*(c[None] for c in columns), noise[None]), FIRST, 1, CLAIMED)
    )
    broken = measured > bound + 1e-9 * (abs(measured) + abs(bound))
    return None if broken else f"The inequality still holds: measured {measured:.4g}, bound {bound:.4g}."


def _mutants() -> list[Callable[[float], float]]:
    """The project's own slips in `missing_class`, without those that change no value."""
    made = [FunctionType(mutant.code, missing_class.__globals__) for mutant in mutants_of(missing_class)]
    right = list(map(missing_class, MASSES))
    return [wrong for wrong in made if list(map(wrong, MASSES)) != right]


def _notices(answer: Any) -> str | None:
    if not callable(answer):
        return f"This asks for a function that is given a function, not for {type(answer).__name__}."
    (right, problem), *tried = (called(answer, function) for function in (missing_class, *_mutants()))
    if problem:
        return problem
    if not all(failed or isinstance(said, bool | np.bool_) for said, failed in ((right, None), *tried)):
        return "Your check must return True or False in every case."
    if right:
        return "Your check also calls the right formula wrong."
    caught, of = sum(bool(failed or said) for said, failed in tried), len(tried)  # to end in an error is to notice
    return (
        None if caught == of else f"Your check leaves the right formula alone, but catches {caught} of {of} slips only."
    )


def _whole(curvature: float, centre: float, noise: float = 0.0) -> dict[str, object]:
    return {"curvature": [curvature], "centre": [centre], "share": [1.0], "beta": [1.0], "noise": noise}


book = Book(
    Exercise(
        "24.1",
        1,
        5,
        **number_is(
            right=_attained,
            hint=f"Count the rows of the ladder whose largest ratio is at least {REACHED}.",
            also_wrong=lambda ladder: [float(len(ladder))],
        ),
        pitfalls="The column of the worst ratio on exact instances is counted instead of the largest one attained.",
        example={"ladder": pd.DataFrame({"largest attained": [1.0, 0.9999, 0.72]})},
    ),
    Exercise(
        "24.2",
        2,
        10,
        **number_is(
            right=lambda: FIRST.limit(1),
            hint="Raise the factor in small steps until the measured side is larger than the bound.",
            also_wrong=lambda: [FIRST.limit(2), 2.0],
        ),
        pitfalls="The model flies apart only at twice this step size, which is another question.",
    ),
    Exercise(
        "24.3",
        3,
        15,
        judge=_instance,
        expects="a dictionary with curvature, centre, share and beta (a number for each participant) and noise",
        wrong=lambda: [_whole(0.1, 1.0), _whole(1.0, 0.0), _whole(4.0, 1.0), _whole(-0.2, 1.0), {"curvature": [1.0]}],
        pitfalls="The curvature is smaller than the claimed constant, so that the claim is no lie on this instance.",
    ),
    Exercise(
        "24.4",
        3,
        15,
        judge=_notices,
        expects="a function that is given a function of the mass and returns whether it is wrong",
        wrong=lambda: [
            lambda formula: False,
            lambda formula: True,
            lambda formula: not np.isclose(formula(0.5), 1.0),
            lambda formula: formula(0.2) < 0,
        ],
        pitfalls="One value is tried, at which a wrong formula agrees by accident; nothing but the sign is looked at.",
    ),
)
check = book.check
