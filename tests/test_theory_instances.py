"""fedauto_core.theory: problems, their constants and the weights of the two rules."""

from itertools import product

import numpy as np
import pytest
from theory_cases import N_CLIENTS, everything_arrives, quadratics, tiny_quadratics

from fedauto_core import fedauto_weights, theory
from fedauto_core.theory import Point, Split


def test_split_counts_and_rows():
    split = Split(np.array([[2, 1, 0], [0, 3, 0], [0, 0, 2]]))
    assert split.target.tolist() == [0.25, 0.5, 0.25]
    assert split.owner.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert split.label.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    np.testing.assert_allclose(split.participants[0], [1 / 3, 1 / 3, 1 / 3, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(split.compensators(np.array([[True, False, True]]))[0], [0.5, 0.5, 0, 0, 0, 0, 0, 0])
    sizes = split.counts.sum(axis=1) / split.counts.sum()
    np.testing.assert_allclose(sizes @ split.participants, split.pooled[0])


def test_pooled_loss_is_the_mixture_of_the_participants_and_of_the_classes():
    problem, w = quadratics(feature_shift=0.7), np.arange(4.0)
    split = problem.split
    pooled = problem.gradients(split.pooled, w)[0]
    sizes = split.counts.sum(axis=1) / split.counts.sum()
    np.testing.assert_allclose(sizes @ problem.gradients(split.participants, w), pooled)
    np.testing.assert_allclose(split.target @ problem.gradients(split.classes(), w), pooled)


def slow_expected_value(problem, gamma, steps, beta, rounds, w=0.5):
    """E F, E F'^2, E b_r and the drift of participant 1 after `rounds`, by visiting every noise sign of every step."""
    curvature, centre = (1.0, 3.0), (1.0, -1.0)
    results = []
    for signs in product((-1, 1), repeat=2 * steps * rounds):
        signs, now, drift = iter(signs), w, 0.0
        for _ in range(rounds):
            before, local = now, [now, now]
            drift = 0.0
            for _ in range(steps):
                drift += (local[1] - before) ** 2 / steps
                local = [
                    x - gamma * (h * (x - u) + problem.noise * next(signs))
                    for x, h, u in zip(local, curvature, centre, strict=True)
                ]
            now = beta[0] * local[0] + beta[1] * local[1]
        slopes = [h * (before - u) for h, u in zip(curvature, centre, strict=True)]
        slope = sum(slopes) / 2
        value = sum(h * (now - u) ** 2 / 4 for h, u in zip(curvature, centre, strict=True))
        results.append((value, slope**2, (slope - beta[0] * slopes[0] - beta[1] * slopes[1]) ** 2, drift))
    return np.mean(results, axis=0)


@pytest.mark.parametrize(("steps", "rounds"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_quadratic_round_equals_the_enumeration_of_all_noise_signs(steps, rounds):
    problem, beta, gamma = tiny_quadratics(noise=0.8), np.array([[0.7, 0.3]]), 0.15
    point = Point(np.array([0.5]))
    for _ in range(rounds):
        outcome = problem.round(point, problem.split.participants, beta, gamma, steps)
        (point,) = outcome.after
    expected = slow_expected_value(problem, gamma, steps, beta[0], rounds)
    got = [outcome.value_after[0], outcome.gradient2, outcome.bias2[0], outcome.drift[1]]
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_quadratic_constants_by_hand():
    problem = tiny_quadratics(noise=0.8)
    known = theory.constants_of(problem, everything_arrives(problem.split))
    # F = (w-1)^2/4 + 3(w+1)^2/4 is least at w = -1/2, where it is 9/16 + 3/16.
    assert [known.smoothness.value, known.sigma2.value, known.infimum.value] == pytest.approx([3.0, 0.64, 0.75])
    assert {known.smoothness.provenance, known.sigma2.provenance, known.infimum.provenance} == {"exact"}
    # At w = 0: f_1' = -1, f_2' = 3, F' = 1, so kappa^2 = (4 + 4) / 2.
    assert theory.kappa2(problem, np.array([0.0])).value == pytest.approx(4.0)
    assert theory.delta2(problem, everything_arrives(problem.split), np.array([0.0])) == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("regulariser", [0.0, 0.05])
def test_softmax_gradient_is_the_slope_of_the_value(regulariser):
    problem = theory.softmax_regression(0, Split(np.array([[2, 1, 2], [0, 3, 1]])), regulariser)
    rng = np.random.default_rng(0)
    w, direction = rng.standard_normal((2, 65 * 3))
    slope = np.diff(problem.value(np.array([w - 1e-5 * direction, w + 1e-5 * direction])))[0] / 2e-5
    assert problem.gradients(problem.split.pooled, w)[0] @ direction == pytest.approx(slope, rel=1e-7)
    at_zero = problem.value(np.zeros((1, 65 * 3)))[0]
    assert at_zero == pytest.approx(np.log(3))


@pytest.mark.parametrize("regulariser", [0.0, 0.05])
def test_softmax_smoothness_is_attained_for_two_classes_at_zero_and_never_exceeded(regulariser):
    problem = theory.softmax_regression(0, Split(np.array([[5, 5], [5, 5]])), regulariser)
    (bound,) = problem.smoothness(problem.split.pooled)
    gram = problem.features.T @ problem.features / len(problem.features)
    top = np.linalg.eigh(gram)[1][:, -1]
    steepest = np.stack([top, -top], axis=1).ravel() / np.sqrt(2)

    def curvature(w, direction):
        ends = problem.gradients(np.repeat(problem.split.pooled, 2, axis=0), np.array([w - direction, w + direction]))
        return np.linalg.norm(ends[1] - ends[0]) / (2 * np.linalg.norm(direction))

    assert curvature(np.zeros(130), 1e-5 * steepest) == pytest.approx(bound, rel=1e-6)
    rng = np.random.default_rng(1)
    assert all(curvature(rng.standard_normal(130), rng.standard_normal(130)) <= bound for _ in range(50))


def test_digits_are_drawn_without_replacement_and_carry_their_label():
    split = theory.skewed_split(3)
    problem = theory.softmax_regression(3, split)
    assert problem.features.shape == (split.counts.sum(), 65)
    assert np.all(problem.features[:, -1] == 1) and problem.features.min() == 0 and problem.features.max() == 1
    assert len(np.unique(problem.features, axis=0)) == len(problem.features)


# Aggregation


def test_arrival_sets_are_all_subsets():
    sets = theory.arrival_sets(N_CLIENTS)
    assert sets.shape == (256, 8) and len(np.unique(sets, axis=0)) == 256
    assert not sets[0].any() and sets[-1].all()


def test_fedavg_weights_by_hand():
    split = Split(np.array([[2, 0], [3, 0], [0, 5]]))
    beta = theory.aggregate(split, np.array([[True, False], [True, True]]), "FedAvg").beta
    np.testing.assert_allclose(beta, [[0.4, 0.6, 0], [0.2, 0.3, 0.5]])


def test_fedauto_weights_include_the_compensation_participant():
    split = Split(np.array([[2, 4, 2], [6, 0, 0], [0, 5, 0], [0, 0, 7]]))
    weights = theory.aggregate(split, np.array([[True, False, False], [True, True, True]]), "FedAuto")
    # Only client 1 arrives: m trains on the server's 6 samples of classes 1 and 2.
    np.testing.assert_allclose(weights.alpha[4], [0, 4 / 6, 2 / 6])
    expected = fedauto_weights(weights.alpha[[0, 1, 4]], np.array([8, 6, 6]), split.target)
    np.testing.assert_allclose(weights.beta[0], [expected[0], expected[1], 0, 0, expected[2]])
    assert weights.beta[1, 4] == 0 and len(weights.rows) == 5


def test_fedauto_cannot_compensate_a_class_the_server_lacks():
    split = Split(np.array([[4, 0], [3, 0], [0, 5]]))
    weights = theory.aggregate(split, np.array([[True, False]]), "FedAuto")
    assert len(weights.rows) == 3
    check = theory.missing_class_check(weights.beta[0] @ weights.alpha, split.target)
    assert check.status == "tight" and check.bound == pytest.approx((5 / 12) / (7 / 12))
