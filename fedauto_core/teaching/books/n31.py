"""Exercises of notebook 31: an own instance against every inequality."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedauto_core.errors import InputError
from fedauto_core.teaching.exercises import Book, Exercise
from fedauto_core.teaching.judges import function_is
from fedauto_core.theory import kit
from fedauto_core.theory.bound.aggregation import aggregate, arrival_sets
from fedauto_core.theory.bound.checks import round_checks
from fedauto_core.theory.bound.constants import constants_of
from fedauto_core.theory.bound.first import FIRST
from fedauto_core.theory.problems.split import Point

LIE, NEAR = 0.4, 0.999


def _closest(answer: str, table: pd.DataFrame) -> str | None:
    if answer not in list(table["name"]):
        return f"This asks for one of: {', '.join(sorted(table['name']))}."
    ratio = table.set_index("name")["worst_ratio"]
    return None if ratio[answer] == ratio.max() else "Another one comes closer: compare the column of the worst ratio."


def _fallen(**facts: Any) -> set[str]:
    """By the numbers themselves, not by the status."""
    claimed = kit.claim(facts["known"], "A1 smoothness", LIE)
    w = np.ones(facts["problem"].dimension)
    rows = kit.one_round(facts["problem"], facts["used"], claimed, w, facts["gamma"], facts["steps"], facts["seed"])
    rows = rows[rows["status"] != "not applicable"]
    size = rows[["measured", "bound"]].abs().max(axis=1)
    return set(rows.loc[rows["slack"] < -1e-9 * size.clip(lower=1e-9), "name"])


def _judge_lie(answer: Sequence[str], **facts: Any) -> str | None:
    right, given = _fallen(**facts), set(answer)
    if isinstance(answer, str) or given - set(_names(**facts)):
        return f"This asks for a list of names, some of: {', '.join(_names(**facts))}."
    if given - right:
        return "One of those that you name still stands: look at its least slack."
    return None if given == right else "Some fall that you do not name."


def _other_lists(**facts: Any) -> list[object]:
    """Without the first that falls, all, two of another kind: those of them that are not what falls."""
    fallen = sorted(_fallen(**facts))
    given = [fallen[1:], _names(**facts), "S1 descent", ["missing class"]]
    return [names for names in given if isinstance(names, str) or sorted(names) != fallen]


def _names(**facts: Any) -> list[str]:
    w = np.ones(facts["problem"].dimension)
    rows = kit.one_round(facts["problem"], facts["used"], facts["known"], w, facts["gamma"], facts["steps"], 0)
    return sorted(set(rows["name"]))


def _judge_equality(answer: Mapping[str, Any]) -> str | None:
    if not isinstance(answer, Mapping) or set(answer) != set(ROUGH):
        return f"This asks for a dictionary with the keys {', '.join(ROUGH)}."
    try:
        split = kit.split_of(answer["counts"])
        problem = kit.problem_of("quadratics", split, 0, answer["curvature"], answer["centre"], answer["noise"])
    except InputError as error:
        return f"This is no instance: {error}"
    used = aggregate(split, arrival_sets(split.n_clients), "FedAvg")
    known = constants_of(problem, used)
    checks = round_checks(problem, used, known, Point(np.zeros(1)), FIRST.step_limit(known.smoothness.value, 1), 1)
    ratios = [check.ratio for check in checks if not np.isnan(check.ratio)]  # nan: both sides are zero
    if not ratios:
        return "Both sides are zero on your instance: at w = 0 no loss has a slope."
    if max(ratios) >= NEAR:
        return None
    return f"Your instance reaches {max(ratios):.3f} of its bound. What does its roughest class lose?"


def _draw_values(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A value for each arrival set [2^N], and the chance of each client [N]."""
    clients = int(rng.integers(1, 6))
    return rng.normal(size=2**clients), rng.random(clients)


def _example() -> dict[str, Any]:
    split = kit.split_of("2,2; 4,0; 0,5")
    problem = kit.problem_of("quadratics", split, 0)
    used = aggregate(split, arrival_sets(2), "FedAvg")
    known = constants_of(problem, used)
    return {"problem": problem, "used": used, "known": known, "gamma": 0.2, "steps": 2, "seed": 0}


TABLE = pd.DataFrame({"name": ["S1 descent", "I3 drift", "S5 bias"], "worst_ratio": [0.9, 0.7, 0.2]})
ROUGH = {"counts": "2,2; 3,0; 0,4", "curvature": [1.0, 0.2], "centre": [1.0, -2.0], "noise": 0.5}

book = Book(
    Exercise(
        "31.1", 1, 4, _closest, "the name of an inequality", lambda table: ["I3 drift", "S5 bias", "S3 noise", 0.9],
        "The largest measured side is taken for the largest ratio.", {"table": TABLE},
    ),
    Exercise(
        "31.2", 2, 8, _judge_lie, "a list of names of inequalities",
        _other_lists,
        "Whatever has L in it is named, though many have room for a lie.", _example(),
    ),
    Exercise(
        "31.3", 3, 10, _judge_equality, "a dictionary with counts, curvature, centre and noise",
        lambda: [ROUGH, ROUGH | {"curvature": [1.0, 1.0], "centre": [0.0, 0.0]},
                 ROUGH | {"curvature": [1.0, -0.5]}, ROUGH | {"curvature": [1.0]}, {"counts": "1,1; 1,0; 0,1"}],
        "One class is made rough and the others smooth: then the descent lemma is loose along most directions.",
    ),
    Exercise(
        "31.4", 3, 10,
        **function_is(
            kit.expected, _draw_values, expects="a function of (values, chances) that returns one number",
            hint="For some number of clients with random chances another number comes out.",
            wrong=[lambda values, chances: float(np.mean(values)),
                   lambda values, chances: kit.expected(values, 1 - np.asarray(chances)),
                   lambda values, chances: kit.expected(values, np.asarray(chances)[::-1])],
        ),
        pitfalls="The bits are read from the wrong end, which only unequal chances show.",
    ),
)  # fmt: skip
check = book.check
