"""Exercises of notebook 23: reading, the step limit, the curvature of a softmax, one step of the proof."""

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, function_is
from fedauto_core.theory.bound.first import FIRST
from fedauto_core.theory.posterior import PARTS

TERMS = ("bias", "drift", "noise")


def _dearest(total: pd.DataFrame) -> str:
    """The part that costs plain averaging most loss, mean over scenarios and seeds."""
    own = total[total["label"] == "fedavg"]
    return str(own[list(PARTS)].mean().idxmax())


def _largest_term(found: pd.DataFrame) -> str:
    """The largest term of the first theorem's bound in the runs with small steps, mean over the measured rounds."""
    own = found[found["trained"] == "small steps"]
    return str(own.groupby("round")[list(TERMS)].mean().mean().idxmax())


def _second_derivative(p: np.ndarray, z: np.ndarray, width: float = 1e-3) -> float:
    """Of t -> log sum_c p_c exp(t z_c) at t = 0, by central differences."""
    left, middle, right = (np.log(p @ np.exp(t * z)) for t in (-width, 0.0, width))
    return float((left - 2 * middle + right) / width**2)


book = Book(
    Exercise(
        "23.1",
        1,
        5,
        **choice_is(
            right=_dearest,
            among=lambda total: PARTS,
            hint="Take the rows of fedavg in the table of what is lost and compare the columns of the parts.",
        ),
        pitfalls="The gradient is taken for a part: it is what is gained, and the parts are what is lost of it.",
        example={
            "total": pd.DataFrame({"label": ["fedavg"] * 2} | {part: [k, k + 0.1] for k, part in enumerate(PARTS)})
        },
    ),
    Exercise(
        "23.2",
        2,
        5,
        **number_is(
            right=lambda rate, smoothness: rate / FIRST.step_limit(smoothness, 1),
            hint="One local step has a limit of its own, and it is not what the formula for more steps gives.",
            also_wrong=lambda rate, smoothness: [2 * rate * smoothness, rate / smoothness],
        ),
        pitfalls="The limit for more than one local step is used, which is half as large even at E = 1.",
        example={"rate": 0.3, "smoothness": 40.0},
    ),
    Exercise(
        "23.3",
        3,
        15,
        **function_is(
            _second_derivative,
            lambda rng: (rng.dirichlet(np.ones(5)), rng.normal(size=5)),
            expects="a function curvature(p, z) that returns one number",
            hint="Differentiate twice: a mean of squares comes out, and something is taken away from it.",
            wrong=(
                lambda p, z: p @ z**2,
                lambda p, z: np.sqrt(p @ z**2 - (p @ z) ** 2),
                lambda p, z: np.var(z),
                lambda p, z: (z.max() - z.min()) ** 2 / 4,
            ),
            tolerance=1e-4,
        ),
        pitfalls="The probabilities are forgotten in the variance, or the square of the mean is not subtracted.",
    ),
    Exercise(
        "23.4",
        3,
        10,
        **formula_is(
            lambda factor, gamma, L, E: factor - gamma * E / 2 * (L * gamma * E - 1),
            symbols="gamma L E",
            hint="The inner product gives one half of the square of $G$, the curvature gives the other part.",
            wrong=("gamma*E/2*(1 - L*gamma*E)", "L/2*gamma**2*E**2", "-gamma*E/2", "gamma*E/2*(2*L*gamma*E - 1)"),
        ),
        pitfalls="The sign turns round when the inequality is solved for the gradient.",
    ),
    Exercise(
        "23.5",
        1,
        5,
        **choice_is(
            right=_largest_term,
            among=lambda found: TERMS,
            hint="Use the rows of the small steps only, in the table of the dominant terms.",
        ),
        pitfalls="The rows of the tuned step sizes are read, where the drift has grown with the square of the step.",
        example={
            "found": pd.DataFrame([{"trained": "small steps", "round": 2, "bias": 3.0, "drift": 0.1, "noise": 1.0}])
        },
    ),
)
check = book.check
