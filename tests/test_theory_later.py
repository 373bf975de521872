"""5.7 to 5.11 on the ladder: exact instances, adversaries, bends; SCAFFOLD as a run of corrected rounds."""

import numpy as np
import pytest
import torch

from fedauto_core import InputError, theory
from fedauto_core.methods import make_method
from fedauto_core.methods.base import Arrivals, Context
from fedauto_core.theory import IMPROVED, LATER, LATER_PROOFS, Point, Split

CHECKED = theory.later_checks(0, instances=8)
BENT = {step.inequality for step in theory.STEP_BENDS}


@pytest.mark.parametrize("name", LATER)
def test_an_inequality_has_instances_an_adversary_and_bends_and_no_violation(name):
    rows = CHECKED[CHECKED["name"] == name]
    assert len(rows) and set(rows["status"]) <= {"tight", "valid"} and name in BENT
    worst = theory.later_attack(name, seed=0, generations=12)
    assert (0.01 if name == "control rate" else 0.4) < worst.ratio <= 1 and worst.tried > 100


def test_nothing_else_is_checked():
    assert set(CHECKED["name"]) == set(LATER)


@pytest.mark.parametrize("step", LATER_PROOFS)
def test_every_step_is_certified(step):
    assert LATER_PROOFS[step]().holds


def test_what_nobody_can_attack_is_refused():
    with pytest.raises(InputError, match="unknown inequality 'S1 descent'"):
        theory.later_attack("S1 descent", 0)
    with pytest.raises(InputError, match="instances = 0"):
        theory.later_checks(0, 0)
    with pytest.raises(InputError, match=r"mean of the centres = 0\.5"):
        theory.worst_luck((0.0, 1.0), 0.0, 0.1, 1, 0.5)
    with pytest.raises(InputError, match="outcomes of 12 rounds"):
        theory.worst_luck((-1.0, 0.0, 1.0), 0.0, 0.1, 12, 0.5)


def test_a_luckier_delta_allows_no_more_failures():
    chances = [theory.worst_luck((-1.0, 1.0), 0.5, 0.3, 5, delta, claimed=0.5) for delta in (0.9, 0.5, 0.05)]
    assert chances == sorted(chances, reverse=True) and chances[0] > chances[-1]


SPLIT = Split(np.array([[4, 4], [6, 0], [0, 6]]))
STEPS, RATE = 3, 0.05


def scaffold_run(heard, rounds):
    """Models, shifts and arrivals of the project's SCAFFOLD on quadratics without noise."""
    problem = theory.random_quadratics(3, SPLIT, dimension=2, curvature=(0.4, 1.0), noise=0.0)
    method, w = make_method("scaffold"), torch.full((2,), 2.0, dtype=torch.float64)
    target = SPLIT.target
    context = Context(SPLIT.counts.sum(axis=1), SPLIT.alpha, target, STEPS, RATE, True, w)
    state, told = method.init(context), []
    for round in range(rounds):
        ids = np.array(heard(round))
        shifts = method.local_work(state, w, np.arange(3)).linear.numpy()
        rows, local = SPLIT.participants[ids], np.tile(w.numpy(), (len(ids), 1))
        for _ in range(STEPS):
            slopes = np.vstack([problem.gradients(row[None], at) for row, at in zip(rows, local, strict=True)])
            local = local - RATE * (slopes + shifts[ids])
        deltas = torch.from_numpy(local) - w
        arrivals = Arrivals(round, ids, deltas, np.full(len(ids), STEPS), RATE)
        before, (w, state) = w, method.aggregate(state, w, arrivals, None)
        told.append((before.numpy(), ids, shifts, state.weights, w.numpy()))
    return problem, told


def test_rounds_of_scaffold_are_rounds_of_the_theorem():
    problem, told = scaffold_run(lambda round: ([0, 1], [0, 2], [0], [0, 1, 2])[round % 4], 8)
    for w, ids, shifts, weights, after in told:
        beta = np.zeros((1, 3))
        beta[0, ids] = weights
        used = theory.Aggregation(SPLIT.participants, SPLIT.alpha, beta)
        known = theory.constants_of(problem, used)
        (check,) = theory.corrected_checks(problem, used, known, Point(w), RATE, STEPS, shifts)
        assert check.status in ("valid", "tight") and check.measured > 0
        outcome = problem.round(Point(w), used.rows, used.beta, RATE, STEPS, shifts)
        np.testing.assert_allclose(outcome.after[0].mean, after, atol=1e-12)
        assert IMPROVED.step_limit(known.smoothness.value, STEPS) >= RATE


def test_the_bias_of_scaffold_vanishes_where_all_are_heard_again_and_stays_where_one_never_is():
    gap = {}
    for name, heard in (
        ("in turns", lambda round: ([0, 1], [0, 2])[round % 2]),
        ("silent from half-way", lambda round: [0, 2] if round % 2 and round < 300 else [0, 1]),
        ("never heard", lambda round: [0, 1]),
    ):
        problem, told = scaffold_run(heard, 600)
        gap[name] = float(np.linalg.norm(problem.gradients(SPLIT.pooled, told[-1][-1])))
    assert max(gap["in turns"], gap["silent from half-way"]) < 1e-6 < 0.1 < gap["never heard"]
