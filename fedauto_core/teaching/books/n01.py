"""Exercises of notebook 01: what pre-training and client data each buy."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from fedauto_core.teaching.exercises import Book, Exercise, number_is


def _points(table: pd.DataFrame) -> pd.DataFrame:
    """Start x method, in points."""
    return table.pivot(index="start", columns="label", values="points")


def _clients_add(table: pd.DataFrame) -> float:
    return float(_points(table).loc["pre-trained", "fedauto"] - _points(table).loc["pre-trained", "server_only"])


def _interaction(table: pd.DataFrame) -> float:
    """What clients add to the one start, minus what they add to the other: the same as both minus each alone."""
    points = _points(table)
    added = points["fedauto"] - points["server_only"]
    return float(added["pre-trained"] - added["random"])


def _saved(curves: pd.DataFrame, saved: pd.DataFrame, rounds: int, part: float = 0.9) -> float:
    """Seed by seed and start by start, evaluation by evaluation."""
    goals = dict(zip(saved["seed"], part * saved["goal"], strict=True))
    reached = {}
    for (seed, start), run in curves[curves["label"] == "fedauto"].groupby(["seed", "start"]):
        there = (row.round for row in run.sort_values("round").itertuples() if row.accuracy >= goals[seed])
        reached[seed, start] = next(there, rounds)
    return float(np.mean([100 * (reached[s, "random"] - reached[s, "pre-trained"]) / rounds for s in goals]))


def _first(accuracy: Sequence[float], every: int, goal: float) -> int:
    for k, value in enumerate(accuracy, 1):
        if value >= goal:
            return every * k
    return every * len(accuracy)


def _judge_rounds(answer: Callable[..., int]) -> str | None:
    rng = np.random.default_rng(0)
    cases = [(rng.random(12), int(rng.integers(1, 6)), float(rng.uniform(0.3, 0.95))) for _ in range(20)]
    hints = [
        (([0.1, 0.5, 0.7], 2, 0.5), "An evaluation that is just as good as the goal reaches it."),
        (([0.1, 0.2], 5, 0.9), "Where no evaluation reaches the goal, the last round is asked for."),
        (([0.9, 0.1], 4, 0.5), "The first evaluation is that of round `every`, not of round 0."),
        *((case, "On a random curve, which rises and falls, another round comes out.") for case in cases),
    ]
    return next((hint for case, hint in hints if answer(np.array(case[0]), *case[1:]) != _first(*case)), None)


TABLE = pd.DataFrame(
    {
        "start": ["random"] * 3 + ["pre-trained"] * 3,
        "label": ["server_only", "fedauto", "fedavg"] * 2,
        "points": [73.0, 77.0, 72.0, 76.0, 79.5, 76.5],
    }
)
CURVES = pd.DataFrame(
    [
        {"seed": 0, "label": "fedauto", "start": start, "round": t, "accuracy": accuracy}
        for start, curve in {"random": [0.3, 0.5, 0.68, 0.7, 0.75], "pre-trained": [0.5, 0.69, 0.7, 0.74, 0.8]}.items()
        for t, accuracy in zip((2, 4, 6, 8, 10), curve, strict=True)
    ]
)
SAVED = pd.DataFrame({"seed": [0], "goal": [0.75]})

book = Book(
    Exercise(
        number="01.1",
        grade=1,
        minutes=5,
        **number_is(
            right=_clients_add,
            hint="Take the mean of the points with clients (FedAuto) and without, both with the pre-trained start.",
            also_wrong=lambda table: [
                _points(table).loc["random", "fedauto"] - _points(table).loc["random", "server_only"],
                _points(table).loc["pre-trained", "fedavg"] - _points(table).loc["pre-trained", "server_only"],
            ],
        ),
        pitfalls="Comparing different starts, or plain averaging instead of FedAuto.",
        example={"table": TABLE},
    ),
    Exercise(
        number="01.2",
        grade=1,
        minutes=10,
        **number_is(
            right=_interaction,
            hint="Compare what both add with the sum of what each adds: all three start from the same bare run.",
            also_wrong=lambda table: [
                _points(table).loc["pre-trained", "fedauto"] - _points(table).loc["random", "server_only"]
            ],
        ),
        pitfalls="The sign: an interaction below zero means that both together bring less than the sum.",
        example={"table": TABLE},
    ),
    Exercise(
        number="01.3",
        grade=2,
        minutes=10,
        **number_is(
            right=_saved,
            hint="The goal is lower for both starts; find for each the first round that reaches it, seed by seed.",
            also_wrong=lambda **facts: [_saved(**facts, part=1.0), _saved(**facts) / 100],
        ),
        pitfalls="Lowering the goal for one start alone, or averaging curves over seeds before looking for the round.",
        example={"curves": CURVES, "saved": SAVED, "rounds": 10},
    ),
    Exercise(
        number="01.4",
        grade=3,
        minutes=10,
        judge=_judge_rounds,
        expects="a function of (accuracy, every, goal) that returns a round",
        wrong=lambda: [
            lambda accuracy, every, goal: every * int(np.searchsorted(accuracy, goal) + 1),
            lambda accuracy, every, goal: every * int(np.argmax(np.asarray(accuracy) >= goal) + 1),
            lambda accuracy, every, goal: _first(accuracy, every, goal) - every,
        ],
        pitfalls="A search that needs a rising curve, or a maximum over a comparison that is nowhere true.",
    ),
)
check = book.check
