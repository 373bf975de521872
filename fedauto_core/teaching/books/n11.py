"""Exercises of notebook 11: what LoRA sends, what averaging its factors loses, and whom a small upload helps."""

import math

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, function_is

LINKS = pd.DataFrame(
    {
        "standard": ["wired", "wifi", "lte", "wired", "wifi", "lte"],
        "LoRA": [0.005, 0.0, 0.01, 0.005, 0.1, 0.02],
        "all parameters": [0.005, 0.1, 0.4, 0.005, 0.2, 0.9],
    }
)


def residual(beta: np.ndarray, da: np.ndarray, db: np.ndarray) -> np.ndarray:
    """The weighted covariance of the factors' updates, for weights that sum to one."""
    a, b = (x - np.einsum("k,kij->ij", beta, x) for x in (da, db))
    return np.einsum("k,kir,krj->ij", beta, a, b)


def draw_updates(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights [K] that sum to one, Delta A [K, n, r] and Delta B [K, r, m]."""
    k, n, r, m = rng.integers(2, 6, 4)
    return rng.dirichlet(np.ones(k)), rng.normal(size=(k, n, r)), rng.normal(size=(k, r, m))


def at_par(parameters: int, head: int, per_rank: int) -> int:
    """The least rank at which head and factors are as many numbers as all parameters."""
    return math.ceil((parameters - head) / per_rank)


def profits_most(links: pd.DataFrame) -> str:
    """The standard whose mean outage falls most when the small payload is sent."""
    return (links["all parameters"] - links["LoRA"]).groupby(links["standard"]).mean().idxmax()


book = Book(
    Exercise(
        "11.1",
        1,
        5,
        **number_is(
            right=lambda parameters, sent: parameters / sent,
            hint="Divide what goes up for all parameters by what goes up for the way called factor.",
            also_wrong=lambda parameters, sent: [sent / parameters, parameters - sent],
        ),
        pitfalls="The ratio is turned round.",
        example={"parameters": 5000, "sent": 400},
    ),
    Exercise(
        "11.2",
        1,
        5,
        **choice_is(
            right=profits_most,
            among=lambda links: set(links["standard"]),
            hint="Compare the two columns of outages, in the mean over the clients of a standard.",
        ),
        pitfalls="The standard with the largest outage is named, instead of the one with the largest difference.",
        example={"links": LINKS},
    ),
    Exercise(
        "11.3",
        2,
        10,
        **number_is(
            right=at_par,
            hint="The head is sent whatever the rank; the factors grow in proportion to it. Round up.",
            tolerance=1e-9,
            also_wrong=lambda parameters, head, per_rank: [
                at_par(parameters, head, per_rank) - 1,
                (parameters - head) / per_rank,
                parameters // per_rank,
            ],
        ),
        pitfalls="The head is forgotten, or the real number is given where a whole rank is asked for.",
        example={"parameters": 5000, "head": 170, "per_rank": 96},
    ),
    Exercise(
        "11.4",
        3,
        20,
        **function_is(
            right=residual,
            case=draw_updates,
            expects="a function of (beta, da, db) that returns a matrix of the shape of one product",
            hint="On some updates it differs. What is taken from what: mean of products, product of means?",
            wrong=[
                lambda beta, da, db: -residual(beta, da, db),
                lambda beta, da, db: np.einsum("k,kir,krj->ij", beta, da, db),
                lambda beta, da, db: residual(np.full(len(beta), 1 / len(beta)), da, db),
            ],
        ),
        pitfalls="The plain mean is taken for the weighted one, or the sign is turned.",
    ),
    Exercise(
        "11.5",
        3,
        10,
        **formula_is(
            vanishes=lambda answer, s: answer * s - (s - s**2),
            symbols="s",
            hint="It differs. How does the sum of the products grow with s, and how the product of the sums?",
            wrong=["0", "s", "s**2", "1 - s**2"],
        ),
        pitfalls="The product of the two sums is taken to grow like s itself.",
    ),
)
check = book.check
