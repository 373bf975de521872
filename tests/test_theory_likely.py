"""5.10: single realisations of failures and noise, by simulation against networks that look at all that was."""

import numpy as np
import pytest

from fedauto_core import InputError
from fedauto_core.theory.bound.likely import likely_sides

CENTRES = np.array([-1.0, 1.0])  # of F_A and F_B = (w -+ 1)^2/2; F is their mean


def play(rule, rounds, gamma, runs, start=0.0):
    """Values, squared gradients and b_r of many runs in which `rule` picks who gets through: A (0) or B (1)."""
    rng, w = np.random.default_rng(0), np.full(runs, start)
    values, slopes, biases = [w**2 / 2], [], []
    for _ in range(rounds):
        centre = CENTRES[rule(w, values)]
        slopes.append(w**2)
        biases.append(centre**2)
        w = w - gamma * (w - centre + rng.choice([-1.0, 1.0], runs))
        values.append(w**2 / 2)
    return tuple(np.stack(rows, axis=1) for rows in (values, slopes, biases))


RULES = {
    "away": lambda w, values: (w > 0).astype(int),  # towards the side where the model already is
    "fixed": lambda w, values: np.zeros(len(w), int),
    "after a fall": lambda w, values: (values[-1] < values[max(len(values) - 2, 0)]).astype(int),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("delta", [0.5, 0.05])
def test_no_more_runs_fail_than_allowed_at_any_horizon(rule, delta):
    for gamma in (0.05, 0.5, 1.0):
        measured, bound = likely_sides(*play(RULES[rule], 40, gamma, 4000), gamma, 1.0, 1.0, delta)
        assert (measured > bound + 1e-12).any(axis=1).mean() <= delta


def test_without_the_price_of_probability_single_runs_fail():
    """The term in log(1/delta) is needed: with delta close to one runs of a loss that is all noise exceed the sum."""
    rng, gamma, runs = np.random.default_rng(0), 0.01, 2000
    w, values, slopes = np.full(runs, 1.0), [], []
    values.append(w**2 / 2)
    for _ in range(3):
        slopes.append(w**2)
        w = w - gamma * (w + rng.choice([-1.0, 1.0], runs))
        values.append(w**2 / 2)
    values, slopes = np.stack(values, axis=1), np.stack(slopes, axis=1)
    measured, bound = likely_sides(values, slopes, 0 * slopes, gamma, 1.0, 1.0, 1 - 1e-9)
    assert (measured > bound).any(axis=1).mean() > 0.1
    measured, bound = likely_sides(values, slopes, 0 * slopes, gamma, 1.0, 1.0, 0.05)
    assert (measured > bound).any(axis=1).mean() <= 0.05


def test_both_sides_by_hand():
    measured, bound = likely_sides(np.array([2.0, 1.0]), np.array([3.0]), np.array([0.5]), 0.4, 2.0, 0.7, 0.1)
    assert measured.tolist() == pytest.approx([0.3])
    assert bound.tolist() == pytest.approx([1 + 0.2 * 1.4 * 0.5 + 0.16 * 0.49 + 0.8 * 0.49 * np.log(10)])


@pytest.mark.parametrize(
    ("gamma", "noise", "delta", "message"),
    [(0.6, 1.0, 0.1, "step size gamma"), (0.4, -1.0, 0.1, "noise bound B"), (0.4, 1.0, 0.0, "delta")],
)
def test_what_nothing_is_promised_for_is_refused(gamma, noise, delta, message):
    with pytest.raises(InputError, match=message):
        likely_sides(np.zeros(2), np.zeros(1), np.zeros(1), gamma, 2.0, noise, delta)
