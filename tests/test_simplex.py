"""The weights of many by Newton's method on the dual: against nnls, on extremes and borders, and its fallback."""

import numpy as np
import pytest

from fedauto_core import fedauto_weights
from fedauto_core.methods import simplex, weights
from fedauto_core.methods.simplex import minimise_low_rank
from fedauto_core.methods.weights import DIVERGENCES, KKT_TOLERANCE, kkt_residual

each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


def unreachable(*_):
    raise AssertionError("not this solver")


@pytest.fixture
def newton(monkeypatch):
    """`fedauto_weights` by Newton's method for any number of participants, and by nothing else."""

    def solve(*problem, **options):
        with monkeypatch.context() as patch:
            patch.setattr(weights, "FEW", 0)
            patch.setattr(weights, "minimise", unreachable)
            return fedauto_weights(*problem, **options)

    return solve


@pytest.fixture
def by_nnls(monkeypatch):
    """`fedauto_weights` by nnls for any number of participants, and by nothing else."""

    def solve(*problem, **options):
        with monkeypatch.context() as patch:
            patch.setattr(weights, "FEW", 10**9)
            patch.setattr(weights, "minimise_low_rank", unreachable)
            return fedauto_weights(*problem, **options)

    return solve


def extreme(seed):
    """Arrived of nearly one class each, 1 to 10^6 samples, lambda 1e-6 to 100; the target: everybody's, uniform, or as
    if others were absent."""
    rng = np.random.default_rng(seed)
    k, c = rng.integers(1, 60), rng.integers(2, 30)
    alpha, counts = rng.dirichlet(np.full(c, 0.05), 2 * k), np.round(10 ** rng.uniform(0, 6, 2 * k))
    target = (counts @ alpha / counts.sum(), np.full(c, 1 / c), counts[:k] @ alpha[:k] / counts[:k].sum())[seed % 3]
    return alpha[:k], counts[:k], target, 10 ** rng.uniform(-6, 2)


def half_hessian(alpha, counts, target, lam, divergence):
    """Gram matrix of the weights on the simplex, entry by entry as the definition says, for chi2 and l2."""
    held = target > 0
    scale = np.where(held, target, 1.0) if divergence == "chi2" else np.full(len(target), 1 / held.sum())
    kept = held | (divergence == "l2")
    offsets = ((alpha - target) / np.sqrt(scale))[:, kept]
    return offsets @ offsets.T + lam * np.diag(counts.sum() / counts)


@each_divergence
def test_300_random_extremes_have_the_weights_of_nnls(divergence, newton, by_nnls):
    for seed in range(300):
        problem = extreme(seed)
        ours, theirs = (solve(*problem, divergence=divergence) for solve in (newton, by_nnls))
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0, err_msg=f"seed {seed}")
        assert ours.min() >= 0 and abs(ours.sum() - 1) < 1e-12
        if divergence != "kl":
            gram = half_hessian(*problem, divergence)
            assert max(kkt_residual(beta, gram) for beta in (ours, theirs)) <= KKT_TOLERANCE


@each_divergence
def test_one_participant_has_all_the_weight(divergence, newton):
    assert newton(np.array([[0.9, 0.1]]), [7], [0.2, 0.8], 1e-6, divergence=divergence).tolist() == [1.0]


@each_divergence
@pytest.mark.parametrize("target", [[0.25, 0.25, 0.5], [0.5, 0.2, 0.3], [0.1, 0.9, 0.0]], ids=str)
def test_identical_histograms_get_the_data_weights(divergence, target, newton):
    counts = np.array([1, 10, 1000, 10**6])
    beta = newton(np.tile([0.25, 0.25, 0.5], (4, 1)), counts, target, 0.1, divergence=divergence)
    np.testing.assert_allclose(beta, counts / counts.sum(), rtol=1e-9)


@each_divergence
def test_twins_share_the_weight_of_one_with_their_samples(divergence, newton):
    """Two equal histograms of n samples each weigh together what one of 2 n does, half each."""
    alpha, counts, target, lam = extreme(3)
    whole = newton(alpha, 2 * counts, target, lam, divergence=divergence)
    twins = newton(np.vstack([alpha, alpha]), np.tile(counts, 2), target, lam, divergence=divergence)
    np.testing.assert_allclose(twins, np.tile(whole / 2, 2), atol=1e-9)


@each_divergence
def test_classes_that_nobody_who_arrived_holds(divergence, newton, by_nnls):
    """One-class participants of three out of six classes: fewer points than classes, and a singular Gram matrix."""
    alpha, counts = np.eye(6)[[0, 0, 1, 2, 2]], np.array([5, 5, 20, 1, 9])
    for lam in (1e-6, 1e-2, 10.0):
        problem = alpha, counts, np.full(6, 1 / 6), lam
        ours, theirs = (solve(*problem, divergence=divergence) for solve in (newton, by_nnls))
        np.testing.assert_allclose(ours, theirs, atol=1e-9)


@each_divergence
def test_participants_of_no_class_of_the_target_get_the_data_weights(divergence, newton):
    beta = newton(np.array([[0.0, 1.0], [0.0, 1.0]]), [30, 10], [1.0, 0.0], divergence=divergence)
    np.testing.assert_allclose(beta, [0.75, 0.25], rtol=1e-12)


def small_numbers(seed):
    """Participants with few small counts of few classes."""
    rng = np.random.default_rng(seed)
    k, c = rng.integers(3, 12), rng.integers(2, 5)
    alpha = rng.integers(0, 4, (k, c)) + np.eye(c)[rng.integers(0, c, k)]
    counts, target = 10 * rng.integers(1, 5, k), rng.integers(1, 5, c)
    return alpha / alpha.sum(axis=1, keepdims=True), counts, target / target.sum()


@pytest.mark.parametrize("seed", [1, 4, 19, 23])
def test_on_the_border_between_two_pieces(seed, newton, by_nnls):
    """At the lambda at which the first weight reaches zero, rounding decides who is active: still no circle."""
    problem = small_numbers(seed)
    low, high = 1e-5, 1e3
    assert np.all(by_nnls(*problem, high) > 0) and not np.all(by_nnls(*problem, low) > 0)
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if np.all(by_nnls(*problem, middle) > 0) else (middle, high)
    for lam in (low, high):
        np.testing.assert_allclose(newton(*problem, lam), by_nnls(*problem, lam), atol=1e-9)


def test_many_need_no_matrix_of_all_pairs(newton):
    """20,000 participants (3.2 GB a Gram matrix) whose mixture is the target have the data weights, for any lambda."""
    rng = np.random.default_rng(0)
    alpha, counts = rng.dirichlet(np.full(10, 0.3), 20_000), rng.integers(10, 500, 20_000)
    beta = newton(alpha, counts, counts @ alpha / counts.sum(), 1e-3)
    np.testing.assert_allclose(beta, counts / counts.sum(), rtol=1e-8)


def test_few_are_solved_by_nnls_and_more_by_newton(by_nnls, newton):
    for k, solver in ((weights.FEW, by_nnls), (weights.FEW + 1, newton)):
        rng = np.random.default_rng(k)
        problem = rng.dirichlet(np.ones(5), k), rng.integers(10, 500, k), np.full(5, 0.2)
        assert np.array_equal(fedauto_weights(*problem), solver(*problem))


def test_newtons_method_that_does_not_converge_leaves_it_to_nnls(monkeypatch, by_nnls):
    problem = extreme(0)
    monkeypatch.setattr(weights, "FEW", 0)
    monkeypatch.setattr(simplex, "STAGES", 0)
    assert np.array_equal(fedauto_weights(*problem), by_nnls(*problem))


def test_a_newton_solution_that_misses_the_optimality_conditions_is_left_to_nnls(monkeypatch, by_nnls):
    problem = extreme(0)
    monkeypatch.setattr(weights, "FEW", 0)
    monkeypatch.setattr(weights, "minimise_low_rank", lambda points, *_: np.full(len(points), 1 / len(points)))
    assert np.array_equal(fedauto_weights(*problem), by_nnls(*problem))


def test_a_share_too_small_for_float64_is_left_to_nnls(monkeypatch, by_nnls):
    """A class of share 1e-18, a hundredth of everybody's samples: its squared distance drowns the variances."""
    alpha = np.array([[0.99, 0, 0.01], [0, 0.99, 0.01], [0.5, 0.49, 0.01]])
    target = np.array([0.5, 0.5, 1e-18])
    assert minimise_low_rank(alpha / np.sqrt(target), np.sqrt(target), np.full(3, 0.3)) is None
    monkeypatch.setattr(weights, "FEW", 0)
    assert np.array_equal(fedauto_weights(alpha, [1, 1, 1], target), by_nnls(alpha, [1, 1, 1], target))


@each_divergence
def test_newtons_method_serves_where_nnls_gives_up(divergence, monkeypatch):
    """On rare extremes nnls runs out of its iterations."""

    def out_of_iterations(rows):
        raise RuntimeError("Maximum number of iterations reached.")

    problem = extreme(1)
    expected = fedauto_weights(*problem, divergence=divergence)
    monkeypatch.setattr(weights, "minimise", out_of_iterations)
    np.testing.assert_allclose(fedauto_weights(*problem, divergence=divergence), expected, atol=1e-9)


def test_where_both_solvers_give_up_the_error_is_the_promised_one(monkeypatch):
    def fails(error):
        def solver(*_, **__):
            raise error

        return solver

    monkeypatch.setattr(weights, "minimise", fails(RuntimeError("Maximum number of iterations reached.")))
    monkeypatch.setattr(simplex, "cho_factor", fails(np.linalg.LinAlgError("not positive definite")))
    with pytest.raises(ArithmeticError, match="weights not found: Maximum number of iterations"):
        fedauto_weights(*extreme(1))
