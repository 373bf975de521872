"""Exact expectations over minibatch noise for softmax regression: every minibatch sequence of a tiny instance.

Minibatches are single samples drawn with replacement, independently over participants and steps (assumption A3). With
n_j samples and E steps participant j has n_j^E equally likely paths; all combinations are visited, nothing is sampled.
"""

from dataclasses import replace
from itertools import product

import numpy as np

from fedauto_core.errors import require_number

from ..problems.regression import SoftmaxRegression
from ..problems.split import Point
from . import terms
from .aggregation import Aggregation
from .checks import Check, round_terms
from .constants import Constant, Constants
from .first import FIRST

MOST_OUTCOMES = 100_000


def _paths(
    problem: SoftmaxRegression, row: np.ndarray, w: np.ndarray, gamma: float, steps: int
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """All n_j^E paths of a participant: deltas and step-averaged noise [paths, P], drift, largest variance met."""
    samples = np.eye(len(row))[row > 0]
    chosen = np.array(list(product(range(len(samples)), repeat=steps)))
    local = np.tile(w, (len(chosen), 1))
    noise, drift, largest = np.zeros_like(local), 0.0, 0.0
    for step in range(steps):
        drift += np.mean(np.sum((local - w) ** 2, axis=1)) / steps
        full = problem.gradients(np.tile(row, (len(local), 1)), local)
        by_sample = np.stack([problem.gradients(np.tile(one, (len(local), 1)), local) for one in samples])
        variance = np.mean(np.sum((by_sample - full) ** 2, axis=2), axis=0)
        largest = max(largest, float(variance.max()))
        drawn = by_sample[chosen[:, step], np.arange(len(local))]
        noise += (drawn - full) / steps
        local = local - gamma * drawn
    return local - w, noise, drift, largest


def enumerated_checks(
    problem: SoftmaxRegression, aggregation: Aggregation, known: Constants, w: np.ndarray, gamma: float, steps: int
) -> tuple[list[Check], Constant]:
    """S4 (per participant), S3 and the per-round inequality with minibatch noise for one aggregation; the sigma^2 used.

    sigma^2 is the largest minibatch variance over all points that any path visits: exactly what A3 asks for here.
    """
    remedy = "pass aggregation.pick(index)"
    require_number("aggregations to enumerate", len(aggregation), high=1, whole=True, remedy=remedy)
    sizes = np.count_nonzero(aggregation.rows, axis=1)
    outcomes = float(np.prod(sizes.astype(float) ** steps))
    remedy = "use fewer participants, samples or local steps"
    require_number("minibatch outcomes to enumerate", outcomes, high=MOST_OUTCOMES, remedy=remedy)
    beta = aggregation.beta[0]
    moved = noise = np.zeros((1, len(w)))
    drift, variance = np.zeros(len(beta)), 0.0
    for j, row in enumerate(aggregation.rows):
        deltas, mean_noise, drift[j], largest = _paths(problem, row, w, gamma, steps)
        moved = (moved[:, None] + beta[j] * deltas).reshape(-1, len(w))
        noise = (noise[:, None] + beta[j] * mean_noise).reshape(-1, len(w))
        variance = max(variance, largest)
    sigma2 = Constant("sigma^2", variance, "exact", "largest minibatch variance over all visited points")
    known = replace(known, sigma2=sigma2)

    start = problem.round(Point(w), aggregation.rows, aggregation.beta, gamma, steps)
    outcome = replace(start, value_after=np.array([problem.value(w + moved).mean()]), drift=drift)
    sides = round_terms(outcome, aggregation, known, gamma, steps)
    applicable = FIRST.covers(gamma, known.smoothness.value, steps)
    (allowed,) = terms.noise_bound(variance, aggregation.beta, steps)
    measured = float(np.mean(np.sum(noise**2, axis=1)))
    drift_allowed = FIRST.drift(variance, start.participant_gradient2, gamma, known.smoothness.value, steps)
    checks = Check.each(*FIRST.checks["drift"], drift, drift_allowed, applicable)
    checks.append(Check.of("S3 noise", "E|G - H|^2 <= (s^2/E) sum_j beta_j^2", measured, allowed))
    both = sides["measured"], sides["bound"]
    return checks + Check.each(*FIRST.round_check(steps), *both, applicable, outcome.value), sigma2
