"""Exercises of notebook 02: failures and label skew."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import sympy

from fedauto_core.data.datasets import load_dataset
from fedauto_core.data.federation import build_federation
from fedauto_core.data.partition import FederationSpec
from fedauto_core.methods.base import chi2_divergence
from fedauto_core.network import draw_trace, scenario
from fedauto_core.teaching.exercises import Book, Exercise, choice_is, number_is


def _rows(losses: pd.DataFrame) -> dict[str, float]:
    asked = losses.query("failures == 'coupled' and mode == 'server takes part'")
    return dict(zip(asked["loss"], asked["points"], strict=True))


def _factor(losses: pd.DataFrame) -> float:
    """By the interaction, which is what both cost beyond the sum."""
    points = _rows(losses)
    return points["both"] / (points["both"] - points["interaction"])


def _misread(losses: pd.DataFrame) -> list[float]:
    points = _rows(losses)
    return [points["interaction"], points["both"] / max(points["failures"], points["skew"])]


def _worst(suite: pd.DataFrame) -> str:
    return max((row.interaction, row.scenario) for row in suite.itertuples() if row.scenario != "mean")[1]


def _distances(dataset: str, split: FederationSpec, rounds: int) -> np.ndarray:
    """chi2 of plain averaging in every round with a client: round by round, from weights and histograms."""
    federation = build_federation(load_dataset(dataset), replace(split, classes_per_client=5), seed=0)
    trace = draw_trace(scenario("mixed", rounds), rounds=rounds, histograms=federation.alpha[1:], seed=0)
    alpha, n = federation.alpha[1:], federation.counts[1:]
    heard = [arrived for arrived in trace.arrived if arrived.any()]
    mixtures = [n[arrived] / n[arrived].sum() @ alpha[arrived] for arrived in heard]
    return chi2_divergence(np.array(mixtures), federation.target)


def _judge_floor(answer: Any) -> str | None:
    if not isinstance(answer, sympy.Expr) or len(answer.free_symbols) != 1:
        return "This asks for a SymPy expression in one symbol, the share a of the missing class."
    rng, (symbol,) = np.random.default_rng(0), answer.free_symbols
    for _ in range(5):
        target = rng.dirichlet(np.ones(4))
        mixture = np.append(0, target[1:] / target[1:].sum())
        if not np.isclose(float(answer.subs(symbol, target[0])), chi2_divergence(mixture, target)):
            return "With numbers for the shares, another value comes out. Are both parts of the sum there?"
    return None


def _some_floors() -> list[sympy.Expr]:
    a = sympy.Symbol("a", positive=True)
    return [a, a**2 / (1 - a), a / (1 + a), a**2 / (1 - a) ** 2]


NAMES = ["failures", "skew", "both", "interaction", "beyond the worse"]
LOSSES = pd.DataFrame(
    {"failures": "coupled", "mode": "server takes part", "loss": NAMES, "points": [0.5, 2.5, 6.0, 3.0, 3.5]}
)
SUITE = pd.DataFrame({"scenario": ["F1", "F9", "F10", "mean"], "interaction": [1.0, 4.0, 19.0, 30.0]})

book = Book(
    Exercise(
        number="02.1",
        grade=1,
        minutes=5,
        **number_is(
            right=_factor,
            hint="Divide what both cost by the sum of what each costs alone; rows: coupled failures with the server.",
            also_wrong=_misread,
        ),
        pitfalls="Dividing by the larger of the two alone, or mixing rows of blind and coupled failures.",
        example={"losses": LOSSES},
    ),
    Exercise(
        number="02.2",
        grade=1,
        minutes=5,
        **choice_is(
            right=_worst,
            among=lambda suite: [name for name in suite["scenario"] if name != "mean"],
            hint="There is a scenario with a larger interaction. The loss of both together is another column.",
        ),
        pitfalls="Reading the column of the failures alone, which says how much is lost without skew.",
        example={"suite": SUITE},
    ),
    Exercise(
        number="02.3",
        grade=2,
        minutes=15,
        **number_is(
            right=lambda **facts: float(_distances(**facts).mean()),
            hint="Is the trace drawn with the histograms of the same federation? Average distances, not mixtures.",
            also_wrong=lambda **facts: [float(_distances(**facts).max()), 0.0],
        ),
        pitfalls="The distance of the mean mixture instead of the mean distance: over the rounds errors cancel.",
        example={
            "dataset": "digits",
            "split": FederationSpec(6, 60, 40, "classes", classes_per_client=2),
            "rounds": 20,
        },
    ),
    Exercise(
        number="02.4",
        grade=3,
        minutes=15,
        judge=_judge_floor,
        expects="a SymPy expression in the symbol a",
        wrong=_some_floors,
        pitfalls="Only the term of the missing class is counted; the others have to grow, and that has a price, too.",
    ),
)
check = book.check
