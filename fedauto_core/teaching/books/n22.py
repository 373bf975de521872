"""Exercises of notebook 22: the gain, the noise factor, the triangle inequality, instances with equality."""

from typing import Any

import numpy as np
import pandas as pd
import sympy as sp

from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import formula_is, numbers
from fedauto_core.theory.bound.aggregation import Aggregation
from fedauto_core.theory.bound.checks import round_checks
from fedauto_core.theory.bound.constants import constants_of
from fedauto_core.theory.bound.improved import IMPROVED
from fedauto_core.theory.bound.terms import noise_factor
from fedauto_core.theory.problems.quadratics import Quadratics
from fedauto_core.theory.problems.split import Point, Split

MANY, STEPS = 100_000, 5  # local steps: for a limit, and of the instance with an absent client


def _gains_most(gains: pd.DataFrame) -> int:
    """E at which the terms shrink most in the median, at the first theorem's largest step size."""
    own = gains[gains["step"] == gains["step"].max()]
    return int(own.groupby("E")["times smaller"].median().idxmax())


def _absent(answer: Any) -> str | None:
    """Centres of server and client, who is absent, for which the improved round inequality is an equality at w = 0."""
    centres = numbers(answer, (2,))
    if centres is None:
        return "This asks for two finite numbers, the centres of the server and of the client."
    problem = Quadratics(Split(np.array([[1], [1]])), np.ones((2, 1, 1)), centres[:, None])
    alone = Aggregation(problem.split.participants, problem.split.alpha, np.array([[1.0, 0.0]]))
    known = constants_of(problem, alone)
    gamma = IMPROVED.step_limit(known.smoothness.value, STEPS)
    (found,) = round_checks(problem, alone, known, Point(np.zeros(1)), gamma, STEPS, IMPROVED)
    if found.status == "tight":
        return None
    return f"Here measured is {found.measured:.4g} and the bound {found.bound:.4g}: they must be equal, and not zero."


def _slack(b: sp.Expr, D: sp.Expr, L: sp.Expr) -> sp.Expr:
    """What the first theorem's error has more than the improved one's."""
    return 2 * b + 2 * L**2 * D - (sp.sqrt(b) + L * sp.sqrt(D)) ** 2


book = Book(
    Exercise(
        "22.1",
        1,
        5,
        **number_is(
            right=_gains_most,
            hint="Take the rows with the largest step of the table *gain*, and compare their medians.",
            also_wrong=lambda gains: {*map(float, gains["E"])} - {_gains_most(gains)},
        ),
        pitfalls="The row of the largest maximum is taken, or another step size.",
        example={"gains": pd.DataFrame({"E": [2, 2, 3], "step": 0.5, "times smaller": [2.0, 2.2, 2.9]})},
    ),
    Exercise(
        "22.2",
        2,
        10,
        **number_is(
            right=lambda: noise_factor(1 / MANY, 1.0, MANY),
            hint="Let E grow tenfold each time and stop when the second decimal stands still.",
            also_wrong=lambda: [noise_factor(1.0, 1.0, 1), noise_factor(0.5 / MANY, 1.0, MANY), 1.0, 2.0],
        ),
        pitfalls="The step size is kept while E grows, which breaks the limit, and the factor explodes.",
    ),
    Exercise(
        "22.3",
        3,
        10,
        **formula_is(
            lambda root, b, D, L: root**2 - _slack(b, D, L),
            symbols="b D L",
            hint="Multiply the square out and collect: what is left has three terms, like a binomial.",
            wrong=("sqrt(b) + L*sqrt(D)", "b - L**2*D", "2*b + 2*L**2*D - (sqrt(b) + L*sqrt(D))**2", "L*sqrt(D)"),
        ),
        pitfalls="The slack itself is given instead of its root; where bias and drift agree, nothing is gained.",
    ),
    Exercise(
        "22.4",
        3,
        15,
        **formula_is(
            lambda moved, gamma, L, e: moved - ((1 + gamma * L) ** e - 1),
            symbols="gamma L e",
            hint="One step multiplies the model by a constant. Which one, on a parabola that opens downwards?",
            wrong=("gamma*L*e", "1 - (1 - gamma*L)**e", "(1 + gamma*L)**e", "((1 + gamma*L)**e - 1)/L"),
        ),
        pitfalls="The sign of the curvature is lost, so that the model is pulled to zero instead of pushed away.",
    ),
    Exercise(
        "22.5",
        3,
        10,
        judge=_absent,
        expects="two numbers, the centres of the server and of the absent client",
        wrong=lambda: [(1.0, 0.0), (1.0, 1.0), (0.0, 0.0), (1.0, -1.0)],
        pitfalls="The one who arrives has a slope, so that it moves and drifts, and something is lost on the way.",
    ),
)
check = book.check
