"""Decaying steps, and fine-tuning after the average as a half-round of the server's: sums of covered rounds."""

import numpy as np
import pytest

from fedauto_core import theory
from fedauto_core.theory import THEOREMS, Point

SPLIT = theory.skewed_split(0, n_clients=4)
ARRIVED = np.random.default_rng(0).random((12, 4)) < 0.5


def both_sides(theorem, rule, gammas, steps, half):
    """Sum over the rounds of both sides; half: local steps of the server after each average, 0 for none."""
    problem = theory.random_quadratics(1, SPLIT, noise=0.4)
    used = theory.aggregate(SPLIT, ARRIVED, rule)
    alone = theory.aggregate(SPLIT, np.zeros((1, 4), bool), "FedAvg")
    known, point = theory.constants_of(problem, used), Point(np.ones(problem.dimension))
    start, measured, bound = float(problem.value(point.mean[None])[0]), 0.0, 0.0
    for part, now in zip(gammas, map(used.pick, range(len(used))), strict=True):
        for who, count in ((now, steps), (alone.pick(0), half)):
            if count:
                gamma = part * theorem.step_limit(known.smoothness.value, count)
                outcome = problem.round(point, who.rows, who.beta, gamma, count)
                terms = theory.round_terms(outcome, who, known, gamma, count, theorem)
                measured += terms["measured"][0]
                bound += sum(v[0] for k, v in terms.items() if k not in ("measured", "progress", "bound"))
                (point,) = outcome.after
                end = float(outcome.value_after[0])
    return measured, start - end + bound


@pytest.mark.parametrize("theorem", THEOREMS, ids=lambda theorem: theorem.name)
@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
@pytest.mark.parametrize("half", [0, 3])
def test_decaying_steps_and_half_rounds_telescope(theorem, rule, half):
    falling = 0.5 * (1 + np.cos(np.pi * np.arange(12) / 12))
    measured, bound = both_sides(theorem, rule, falling, 5, half)
    assert 0 < measured <= bound
    constant, _ = both_sides(theorem, rule, np.ones(12), 5, half)
    assert measured != pytest.approx(constant)
