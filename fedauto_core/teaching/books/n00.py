"""Exercises of notebook 00: the paper in one page."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from fedauto_core.methods.registry import METHODS, make_method
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.teaching.exercises import Book, Exercise, number_is
from fedauto_core.teaching.judges import function_is


def _means(means: pd.DataFrame) -> dict[str, float]:
    return {row.label: row.points for row in means.itertuples() if row.scenario == "F10"}


def _given_back(means: pd.DataFrame) -> float:
    points = _means(means)
    return 1 - (points["fedavg_ideal"] - points["fedauto"]) / (points["fedavg_ideal"] - points["fedavg"])


def _misread(means: pd.DataFrame) -> list[float]:
    points = _means(means)
    return [points["fedauto"] / points["fedavg_ideal"], points["fedauto"] - points["fedavg"]]


def _oracles() -> int:
    return sum(make_method(name).needs_network_knowledge for name in METHODS)


def _classes_gone(federation: object, rounds: int) -> int:
    """Class by class: gone if none of its holders arrives in any round."""
    scenario = Scenario("F10", "adversary", (("budget", 0.3),))
    trace = draw_trace(scenario, rounds=rounds, histograms=federation.alpha[1:], seed=0)
    holders = [np.flatnonzero(held) for held in federation.class_counts[1:].T]
    return sum(not trace.arrived[:, clients].any() for clients in holders)


def _draw_counts(rng: np.random.Generator) -> tuple[np.ndarray]:
    """Samples per class [K, C] of participants, the first of whom has many more than the others."""
    shape = tuple(rng.integers(1, 9, 2))
    counts = rng.integers(0, 30, shape) + np.eye(*shape, dtype=int)
    counts[:, 0] += 1
    counts[0] += 20
    return (counts,)


FEW_COUNTS = np.vstack([np.full((1, 10), 2), np.kron(np.eye(5, dtype=int), np.full((2, 2), 5))])  # the server first
FEW = SimpleNamespace(class_counts=FEW_COUNTS, alpha=FEW_COUNTS / FEW_COUNTS.sum(axis=1, keepdims=True))
TABLE = pd.DataFrame(
    {
        "scenario": ["F10"] * 3 + ["F4b"],
        "label": ["fedauto", "fedavg", "fedavg_ideal", "fedavg"],
        "points": [75.0, 60.0, 90.0, 85.0],
    }
)

book = Book(
    Exercise(
        number="00.1",
        grade=1,
        minutes=5,
        **number_is(
            right=_given_back,
            hint="It is a share: points above plain averaging, over the points that failures took from it.",
            also_wrong=_misread,
        ),
        pitfalls="Dividing two accuracies instead of two differences, or taking the rows of F4b.",
        example={"means": TABLE},
    ),
    Exercise(
        number="00.2",
        grade=1,
        minutes=5,
        **number_is(
            right=_oracles,
            hint="Count the rows of the card whose network knowledge is not no.",
            also_wrong=lambda: [len(METHODS), len(METHODS) - _oracles()],
        ),
        pitfalls="Counting methods that estimate rates from arrivals: these know nothing beforehand.",
    ),
    Exercise(
        number="00.3",
        grade=2,
        minutes=10,
        **number_is(
            right=_classes_gone,
            hint="Sum the samples per class over the clients that still arrive, not the server, and count the zeros.",
            also_wrong=lambda federation, rounds: [10, 7],
        ),
        pitfalls="Counting the server among the clients, so that no class is ever gone.",
        example={"federation": FEW, "rounds": 3},
    ),
    Exercise(
        number="00.4",
        grade=3,
        minutes=10,
        **function_is(
            right=lambda counts: counts.sum(axis=0) / counts.sum(),
            case=_draw_counts,
            expects="a function of counts [K, C] that returns shares [C]",
            hint="On random counts other shares come out. Does a participant with many samples weigh more than the "
            "rest?",
            wrong=[
                lambda counts: (counts / counts.sum(axis=1, keepdims=True)).mean(axis=0),
                lambda counts: counts.sum(axis=0),
                lambda counts: counts / counts.sum(),
            ],
        ),
        pitfalls="Averaging the histograms with equal weights, which is right only for equal sample counts.",
    ),
)
check = book.check
