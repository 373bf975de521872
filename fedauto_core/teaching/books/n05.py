"""Exercises of notebook 05: where each rule comes to rest."""

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is
from fedauto_core.teaching.judges import formula_is, function_is

CLIENTS_ONLY, INDEPENDENT, NEAR = "clients only", "independent losses", 0.01


def _off(rest: pd.DataFrame) -> dict[str, list[float]]:
    """Distances from the optimum of every rule without public data, whatever the failures."""
    found: dict[str, list[float]] = {}
    for row in rest.itertuples():
        if row.server == CLIENTS_ONLY:
            found.setdefault(row.method, []).append(abs(row.off))
    return found


def _farthest(rest: pd.DataFrame) -> str:
    rows = [row for row in rest.itertuples() if (row.server, row.process) == (CLIENTS_ONLY, INDEPENDENT)]
    return max(rows, key=lambda row: abs(row.off)).method


def _near(rest: pd.DataFrame) -> int:
    return sum(max(distances) < NEAR for distances in _off(rest).values())


def _near_somewhere(rest: pd.DataFrame) -> list[int]:
    found = [sum(min(distances) < NEAR for distances in _off(rest).values()), len(_off(rest))]
    return [number for number in found if number != _near(rest)]


def _plain_rest(p: np.ndarray, q: np.ndarray, u: np.ndarray) -> float:
    """By the sets of arrivals as the bits of a number: E[sum_k a_k u_k | somebody arrives]."""
    bits = (np.arange(1, 2 ** len(p))[:, None] >> np.arange(len(p))) & 1
    chance = np.where(bits, q, 1 - q).prod(axis=1)
    return float(chance @ ((bits * p) @ u / (bits @ p)) / chance.sum())


def _equal_chances(p: np.ndarray, u: np.ndarray, q: float) -> float:
    return _plain_rest(p, np.full(len(p), q), u) - float(p @ u)


def _draw_round(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Who arrived [N], at least one, shares p [N] and chances q [N]."""
    n = int(rng.integers(2, 10))
    arrived = rng.random(n) < 0.6
    arrived[rng.integers(n)] = True
    return arrived, rng.dirichlet(np.ones(n)), rng.uniform(0.1, 1, n)


def _weights(arrived: np.ndarray, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    inverse = arrived * p / q
    return inverse / inverse.sum()


REST = pd.DataFrame(
    [
        ("a", CLIENTS_ONLY, INDEPENDENT, 0.3),
        ("a", CLIENTS_ONLY, "long outages", 0.2),
        ("b", CLIENTS_ONLY, INDEPENDENT, 0.001),
        ("b", CLIENTS_ONLY, "long outages", -0.2),
        ("c", CLIENTS_ONLY, INDEPENDENT, 0.002),
        ("c", CLIENTS_ONLY, "long outages", -0.003),
        ("c", "public data", INDEPENDENT, 0.9),
    ],
    columns=["method", "server", "process", "off"],
)
book = Book(
    Exercise(
        number="05.1",
        grade=1,
        minutes=5,
        **choice_is(
            right=_farthest,
            among=lambda rest: list(_off(rest)),
            hint="Left panel, the dots of independent losses: distance counts, on either side.",
        ),
        pitfalls="Reading the panel with public data, or the largest value instead of the largest distance.",
        example={"rest": REST},
    ),
    Exercise(
        number="05.2",
        grade=1,
        minutes=5,
        **number_is(
            right=_near,
            hint="A rule counts only if its largest distance over the three kinds of failures is small enough.",
            also_wrong=_near_somewhere,
        ),
        pitfalls="Counting rows instead of rules, or rules that are near under one kind of failures.",
        example={"rest": REST},
    ),
    Exercise(
        number="05.3",
        grade=2,
        minutes=10,
        **number_is(
            right=_equal_chances,
            hint="Call rest_of with the plain weights and equal probabilities, and take the optimum off.",
            also_wrong=lambda p, u, q: [0.0, _plain_rest(p, np.full(len(p), q), u)],
        ),
        pitfalls="Expecting exactly zero: where only a few arrive, small clients weigh more than their share.",
        example={"p": np.array([0.2, 0.3, 0.5]), "u": np.array([0.0, 1.0, 4.0]), "q": 0.5},
    ),
    Exercise(
        number="05.4",
        grade=3,
        minutes=15,
        **formula_is(
            # a client counts whole, or half where the other arrives as well; of the rounds in which anybody arrives
            lambda rest, q1, q2, u1, u2: (
                rest * (1 - (1 - q1) * (1 - q2)) - q1 * (1 - q2 / 2) * u1 - q2 * (1 - q1 / 2) * u2
            ),
            symbols="q1 q2 u1 u2",
            hint="It gives another point. Has it all three sets, and the chance that anybody arrives?",
            wrong=(
                "(q1*u1 + q2*u2)/(q1 + q2)",
                "(u1 + u2)/2",
                "q1*q2*(u1 + u2)/2 + q1*(1 - q2)*u1 + q2*(1 - q1)*u2",
                "p1*u1 + p2*u2",
            ),
        ),
        pitfalls="Forgetting to divide by the probability that somebody arrives.",
    ),
    Exercise(
        number="05.5",
        grade=3,
        minutes=15,
        **function_is(
            right=_weights,
            case=_draw_round,
            expects="a function of arrived [N], p [N] and q [N] that returns weights [N]",
            hint="In some round other weights come out. Three things to check: who did not arrive has none, they sum "
            "to one, and their ratios are those of the inverse probability weights.",
            wrong=[
                lambda arrived, p, q: arrived * p / q,
                lambda arrived, p, q: arrived * p / (arrived @ p),
                lambda arrived, p, q: p / q / (p / q).sum(),
                lambda arrived, p, q: arrived @ (p / q),
            ],
        ),
        pitfalls="Dividing by the sum over all clients, so that the weights sum to one on average only.",
    ),
)
check = book.check
