"""The reviewer's kit: instances from text, all inequalities on them, lies that show, and clear refusals."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from fedauto_core import InputError, theory
from fedauto_core.teaching.books import n31
from fedauto_core.theory import IMPROVED, kit

SPLIT = kit.split_of("2,2,2; 6,0,0; 0,5,0; 0,1,4")
SETS = theory.arrival_sets(SPLIT.n_clients)


def instance(kind="quadratics", rule="FedAuto", steps=2):
    problem = kit.problem_of(kind, SPLIT, 0)
    used = theory.aggregate(SPLIT, SETS, rule)
    known = theory.constants_of(problem, used)
    return problem, used, known, np.ones(problem.dimension), IMPROVED.step_limit(known.smoothness.value, steps), steps


@pytest.mark.parametrize("kind", kit.KINDS)
def test_no_inequality_is_broken_and_each_row_knows_its_arrival_set(kind):
    problem, used, known, w, gamma, steps = instance(kind)
    rows = kit.one_round(problem, used, known, w, gamma, steps)
    assert not (rows["status"] == "violated").any()
    outcome = problem.round(theory.Point(w), used.rows, used.beta, gamma, steps)
    checks = theory.bound.checks.checks_of_round(outcome, used, known, gamma, steps, IMPROVED)
    told = rows[rows["name"] == IMPROVED.round_check(steps)[0]].set_index("set")
    for number, check in enumerate(checks):
        assert told.loc[number, "slack"] == check.bound - check.measured
    assert {"S1 descent", "I3 drift", "S5 bias", "stale bias", "after the fact"} <= set(rows["name"])
    assert ("control bias" in set(rows["name"])) == (kind == "quadratics")


@pytest.mark.parametrize("kind", kit.KINDS)
def test_runs_are_judged_at_every_horizon(kind):
    problem, used, known, w, gamma, steps = instance(kind)
    trace = theory.Aggregation(used.rows, used.alpha, used.beta[[0, 3, 5, 7, 7]])
    rows = kit.whole_run(problem, trace, known, w, gamma / 8, steps)
    assert not (rows["status"] == "violated").any()
    assert set(rows.groupby("name")["T"].apply(tuple)) == {(1, 2, 3, 4, 5)}
    assert ("I6 convex" in set(rows["name"])) == (kind == "quadratics")


def test_a_lie_shows_and_the_truth_is_found_again():
    problem, used, known, w, gamma, steps = instance()
    lied = kit.one_round(problem, used, kit.claim(known, "A1 smoothness", 0.3), w, gamma, steps)
    assert "S1 descent" in set(lied.loc[lied["status"] == "violated", "name"])
    assert kit.claim(known, "A3 variance", 1.0) == known
    told = kit.falsifiers(known, gamma, steps, ["S1 descent", "S5 bias", IMPROVED.round_check(steps)[0]])
    assert set(told["inequality"]) == {"S1 descent", "S5 bias", "improved round, E = 2"}
    assert told.loc[told["assumption"] == "A1 smoothness", "here"].str.contains("exact").all()


def test_expectations_by_hand():
    assert kit.expected([1.0, 5.0], [0.25]) == 2.0
    values, chances, by_hand = np.arange(8.0) ** 2, (0.1, 0.5, 0.8), 0.0
    for bits in product((0, 1), repeat=3):
        chance = np.prod([p if bit else 1 - p for p, bit in zip(chances, bits, strict=True)])
        by_hand += chance * values[bits[0] + 2 * bits[1] + 4 * bits[2]]
    assert kit.expected(values, chances) == pytest.approx(by_hand)


def test_own_weights_are_shared_out_among_the_arrived():
    used = kit.weighed(SPLIT, np.array([[True, False, True]]), [1, 2, 3, 1])
    np.testing.assert_allclose(used.beta, [[0.25, 0.5, 0, 0.25]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kit.split_of("2,2; 3"), "label counts '2,2; 3'"),
        (lambda: kit.split_of("a"), "label counts 'a'"),
        (lambda: kit.split_of("2,2; 0,0"), "label counts"),
        (lambda: kit.problem_of("cubic", SPLIT, 0), "unknown instance 'cubic'"),
        (lambda: kit.problem_of("quadratics", SPLIT, 0, [1.0]), "curvature of 1 classes"),
        (lambda: kit.problem_of("quadratics", SPLIT, 0, [1.0] * 3), "only one of curvature and centre"),
        (lambda: kit.weighed(SPLIT, SETS, [0, 1, 1, 1]), r"weights \[0, 1, 1, 1\]"),
        (lambda: kit.weighed(SPLIT, SETS, [1, 1]), r"weights \[1, 1\]"),
        (lambda: kit.claim(instance()[2], "A2", 0.5), "unknown assumption 'A2'"),
        (lambda: kit.claim(instance()[2], "A3 variance", -1), "claimed part = -1"),
        (lambda: kit.expected(np.zeros(4), [0.5]), r"chances \[0.5\] of 4 arrival sets"),
        (lambda: kit.expected(np.zeros(2), [1.5]), r"chances \[1.5\] of 2 arrival sets"),
    ],
)
def test_what_is_no_instance_gets_one_clear_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("exercise", n31.book.exercises.values(), ids=lambda exercise: exercise.number)
def test_wrong_answers_of_its_notebook_are_refused(exercise):
    assert all(exercise.verdict(wrong, **exercise.example) for wrong in exercise.wrong(**exercise.example))


def test_its_notebook_and_its_book_have_the_same_exercises():
    cells = json.loads((Path(__file__).parents[1] / "notebooks" / "31_break_it.ipynb").read_text(encoding="utf-8"))[
        "cells"
    ]
    posed = {"".join(cell["source"]).split()[2] for cell in cells if "".join(cell["source"]).startswith("### Exercise")}
    assert posed == set(n31.book.exercises)
