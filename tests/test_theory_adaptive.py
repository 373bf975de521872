"""Networks that look at the noise: fixed traces agree with `trajectory`, hindsight is covered, foresight is not."""

from itertools import product

import numpy as np
import pytest

from fedauto_core import InputError, theory
from fedauto_core.theory import FIRST, THEOREMS, Point, Split

SPLIT = Split(np.array([[1, 1], [3, 2], [0, 3]]))
EVERY = np.arange(4)


def game(seed, rule, theorem, steps, allowed, foresight=False):
    problem = theory.random_quadratics(seed, SPLIT, dimension=1, curvature=(0.3, 1.0), noise=1.0)
    used = theory.aggregate(SPLIT, theory.arrival_sets(2), rule)
    known = theory.constants_of(problem, used)
    gamma = FIRST.step_limit(known.smoothness.value, steps)
    return theory.worst_policy(problem, used, known, 1.0, gamma, steps, theorem, allowed, foresight), problem, gamma


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
@pytest.mark.parametrize(("steps", "sets"), [(1, (1, 2, 0)), (2, (3, 1))])
def test_a_fixed_trace_has_the_sides_of_a_trajectory(theorem, steps, sets):
    """The first theorem is linear in second moments, so both ways of taking expectations agree; the improved one's
    error is concave in them, so the tree's is at most the other's."""
    found, problem, gamma = game(0, "FedAvg", theorem, steps, [[number] for number in sets])
    used = theory.aggregate(SPLIT, theory.arrival_sets(2)[list(sets)], "FedAvg")
    known = theory.constants_of(problem, theory.aggregate(SPLIT, theory.arrival_sets(2), "FedAvg"))
    terms, _ = theory.trajectory(problem, used, known, Point(np.ones(1)), gamma, steps, theorem)
    assert found.measured == pytest.approx(terms["measured"].sum(), rel=1e-9)
    if theorem is FIRST or steps == 1:
        assert found.bound == pytest.approx(terms["bound"].sum(), rel=1e-9)
    else:
        assert found.bound <= terms["bound"].sum() + 1e-12


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
@pytest.mark.parametrize("seed", range(3))
def test_hindsight_gains_on_every_fixed_trace_and_breaks_nothing(seed, rule, theorem):
    policy, *_ = game(seed, rule, theorem, 1, [EVERY] * 2)
    room = [
        c.bound - c.measured for c in (game(seed, rule, theorem, 1, [[i], [j]])[0] for i, j in product(EVERY, EVERY))
    ]
    assert policy.status == "valid" and policy.bound - policy.measured <= min(room) + 1e-12


def test_foresight_breaks_the_inequality_and_is_not_called_a_violation():
    found, *_ = game(0, "FedAvg", FIRST, 1, [EVERY] * 3, foresight=True)
    assert found.measured > found.bound and found.status == "not applicable"


def test_some_network_does_use_what_it_sees():
    room = [(seed, game(seed, "FedAvg", FIRST, 1, [EVERY] * 3)[0]) for seed in range(3)]
    gains = []
    for seed, policy in room:
        fixed = (game(seed, "FedAvg", FIRST, 1, [[i] for i in sets])[0] for sets in product(EVERY, repeat=3))
        gains.append(min(c.bound - c.measured for c in fixed) - (policy.bound - policy.measured))
    assert max(gains) > 1e-3


def test_a_tree_that_is_too_large_and_several_dimensions_are_refused():
    with pytest.raises(InputError, match="outcomes of 3 participants, 1 steps and 6 rounds = 10737"):
        game(0, "FedAvg", FIRST, 1, [EVERY] * 6)
    problem = theory.random_quadratics(0, SPLIT, dimension=2)
    used = theory.aggregate(SPLIT, theory.arrival_sets(2), "FedAvg")
    known = theory.constants_of(problem, used)
    with pytest.raises(InputError, match="dimension of the problem = 2"):
        theory.worst_policy(problem, used, known, 1.0, 0.1, 1, FIRST, [EVERY])


@pytest.mark.parametrize(
    ("steps", "allowed", "message"),
    [(1, [], "allowed aggregations"), (1, [[7]], r"allowed aggregations \[\[7\]\]"), (0, [EVERY], "E = 0")],
)
def test_games_that_cannot_be_played_are_refused(steps, allowed, message):
    with pytest.raises(InputError, match=message):
        game(0, "FedAvg", FIRST, steps, allowed)


def test_given_arrivals_that_looked_at_past_noise_the_sum_is_false_and_on_average_it_holds():
    """Both theorems side by side, the second by enumeration of the noise of both rounds."""
    (bend,) = (one for one in theory.STEP_BENDS if "past noise" in one.how)
    given, mean = bend.broken(), bend.stated()
    gamma, w, sides = 0.25, 0.5, {}
    for first in (-1, 1):
        for second in (-1, 1):
            middle = w - gamma * (w + first)
            end = middle - gamma * (middle + second)
            measured = gamma / 2 * (w**2 + middle**2)
            sides[first, second] = measured, w**2 / 2 - end**2 / 2 + gamma**2  # twice L gamma^2 sigma^2 / 2
    given_b = np.mean([sides[-1, second] for second in (-1, 1)], axis=0)
    assert [given.measured, given.bound] == pytest.approx(given_b) and given.ratio > 1.7
    assert [mean.measured, mean.bound] == pytest.approx(np.mean([*sides.values()], axis=0)) and mean.ratio < 1
