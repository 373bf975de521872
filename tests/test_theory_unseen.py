"""5.8: no algorithm that sees nothing of a class gets below the floor, and training on what is seen attains it."""

import numpy as np
import pytest

from fedauto_core import theory
from fedauto_core.theory import Point
from fedauto_core.theory.bound import terms


@pytest.mark.parametrize("mass", [0.01, 0.3, 0.9])
def test_nothing_gets_below_and_rest_attains(mass):
    ends = np.random.default_rng(0).normal(size=(500, 3))
    assert not [c for c in theory.unseen_class_checks(mass, 2.0, ends) if c.status == "violated"]
    (at_rest,) = theory.unseen_class_checks(mass, 2.0, np.zeros((1, 3)))
    assert at_rest.status == "tight" and at_rest.measured == pytest.approx(2 * mass / (1 - mass))
    assert terms.unseen_class(mass, 2.0) == pytest.approx(2.0 * terms.missing_class(mass))


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_runs_that_see_nothing_end_on_the_floor_with_the_stated_kappa(rule):
    split, ends = theory.Split(np.array([[2, 2, 0], [9, 0, 0], [0, 9, 0], [0, 0, 5]])), []
    mass = split.target[2]
    for sign in (1, -1):
        centre = np.where(split.label == 2, sign / np.sqrt(mass * (1 - mass)), 0.0)[:, None]
        problem, point = theory.Quadratics(split, np.ones((len(centre), 1, 1)), centre), Point(np.ones(1))
        assert theory.kappa2(problem, np.ones(1)).value == pytest.approx(1)
        used = theory.aggregate(split, np.array([[True, True, False]]), rule)
        for _ in range(300):
            (point,) = problem.round(point, used.rows, used.beta, 0.1, 3).after
        ends.append(np.sum(problem.gradients(split.pooled, point.mean) ** 2))
    assert max(ends) == pytest.approx(terms.unseen_class(mass, 1.0))
