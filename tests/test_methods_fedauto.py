"""FedAuto's declared variants: weights by hand and against a general solver, and rounds against a slow twin."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import kl_div

from fedauto_core import InputError, fedauto_weights
from fedauto_core.methods import Arrivals, Context, make_method, weights
from fedauto_core.methods.base import chi2_divergence
from fedauto_core.methods.fedauto import compensation, underweighted
from fedauto_core.methods.weights import DIVERGENCES

each_divergence = pytest.mark.parametrize("divergence", DIVERGENCES)


def divergence_of(m, target, divergence):
    classes = [c for c in range(len(target)) if target[c] > 0]
    if divergence == "l2":
        return len(classes) * sum((m[c] - target[c]) ** 2 for c in range(len(target)))
    if divergence == "kl":
        return sum(2 * kl_div(m[c], target[c]) for c in classes)
    return sum((m[c] - target[c]) ** 2 / target[c] for c in classes)


def objective(beta, alpha, counts, target, lam, divergence):
    return divergence_of(beta @ alpha, target, divergence) + lam * np.sum(beta**2 * np.sum(counts) / counts)


def general_solver(*problem):
    k = len(problem[0])
    result = minimize(
        lambda beta: objective(np.abs(beta), *problem),
        np.full(k, 1 / k),
        method="SLSQP",
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda beta: beta.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    return result.x / result.x.sum()


def random_problem(seed, k=8):
    """Histograms with holes, counts, and a target that may lack a class; alpha [K, 5]."""
    rng = np.random.default_rng(seed)
    alpha, target = rng.dirichlet(np.full(5, 0.3), k), rng.dirichlet(np.ones(5))
    alpha[alpha < 0.05], target[target < 0.05] = 0, 0
    alpha, target = alpha / alpha.sum(axis=1, keepdims=True), target / target.sum()
    return alpha, rng.integers(10, 500, k), target


@each_divergence
def test_weights_agree_with_a_general_solver(divergence):
    for seed in range(20):
        problem = (*random_problem(seed), 0.1, divergence)
        beta, other = fedauto_weights(*problem[:4], divergence=divergence), general_solver(*problem)
        assert objective(beta, *problem) <= objective(other, *problem) + 1e-12
        np.testing.assert_allclose(beta, other, atol=1e-3)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.floats(-6, 6), st.sampled_from(DIVERGENCES))
def test_weights_are_a_minimiser_on_the_simplex(seed, k, exponent, divergence):
    alpha, counts, target = random_problem(seed, k)
    lam = 10**exponent
    beta = fedauto_weights(alpha, counts, target, lam, divergence=divergence)
    assert beta.min() >= 0 and abs(beta.sum() - 1) < 1e-12
    best = objective(beta, alpha, counts, target, lam, divergence)
    for other in np.random.default_rng(seed).dirichlet(np.ones(k), 30):
        near = 0.999 * beta + 0.001 * other
        for point in (other, near):
            assert best <= objective(point, alpha, counts, target, lam, divergence) * (1 + 1e-9) + 1e-12


@each_divergence
def test_a_large_lambda_gives_the_data_weights(divergence):
    alpha, counts, target = random_problem(0)
    beta = fedauto_weights(alpha, counts, target, 1e9, divergence=divergence)
    np.testing.assert_allclose(beta, counts / counts.sum(), atol=1e-7)


def test_where_the_target_can_be_matched_a_small_lambda_matches_it_with_the_same_weights():
    rng = np.random.default_rng(0)
    alpha, counts = rng.dirichlet(np.ones(5), 12), rng.integers(10, 500, 12)
    target = rng.dirichlet(np.ones(12)) @ alpha
    betas = [fedauto_weights(alpha, counts, target, 1e-6, divergence=name) for name in DIVERGENCES]
    for beta in betas:
        np.testing.assert_allclose(beta @ alpha, target, atol=1e-5)
        np.testing.assert_allclose(beta, betas[0], atol=1e-4)


def test_kl_by_hand():
    """Two one-class participants of 30 and 10 samples, target 1/2, lam = 1.25 log 1.5: the slope
    2 log(b / (1 - b)) + lam (8 b / 3 - 8 (1 - b)) vanishes at b = 0.6."""
    beta = fedauto_weights(np.eye(2), [30, 10], [0.5, 0.5], 1.25 * np.log(1.5), divergence="kl")
    np.testing.assert_allclose(beta, [0.6, 0.4], atol=1e-9)


def test_l2_by_hand():
    """Equal counts, target (3/4, 1/4), lam = 1: minimise 2 * 2 (b - 3/4)^2 + 2 (b^2 + (1 - b)^2), b = 5/8."""
    beta = fedauto_weights(np.eye(2), [10, 10], [0.75, 0.25], 1.0, divergence="l2")
    np.testing.assert_allclose(beta, [0.625, 0.375])


def test_one_lambda_means_the_same_for_all_divergences():
    """l2 is chi2 for a uniform target; kl is chi2 to second order, so the difference falls with the cube of m - t."""
    alpha, counts, _ = random_problem(1)
    uniform = np.full(5, 0.2)
    chi2, l2 = (fedauto_weights(alpha, counts, uniform, 0.1, divergence=name) for name in ("chi2", "l2"))
    np.testing.assert_allclose(chi2, l2, atol=1e-12)
    target = np.array([0.1, 0.3, 0.6])
    for size in (1e-2, 1e-3):
        near = target + size * np.array([0.3, -0.8, 0.5])
        assert divergence_of(near, target, "kl") == pytest.approx(chi2_divergence(near, target), rel=3 * size)


@each_divergence
def test_a_class_that_nobody_who_arrived_holds_leaves_the_weights_finite(divergence):
    beta = fedauto_weights(np.eye(3)[:2], [10, 10], np.full(3, 1 / 3), divergence=divergence)
    np.testing.assert_allclose(beta, [0.5, 0.5])


def test_kl_where_whole_newton_steps_would_empty_rare_classes():
    """One-class participants and a tiny lambda: the mixture is proportional to the target on the classes held."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        alpha, counts = np.eye(10)[rng.integers(0, 10, 40)], rng.integers(1, 2000, 40)
        target = rng.dirichlet(np.full(10, 0.3))
        beta = fedauto_weights(alpha, counts, target, 1e-5, divergence="kl")
        expected = target * alpha.any(axis=0)
        np.testing.assert_allclose(beta @ alpha, expected / expected.sum(), atol=1e-2)


@each_divergence
def test_a_class_outside_the_target_is_avoided(divergence):
    beta = fedauto_weights([[0.5, 0.5], [1.0, 0.0]], [90, 10], [1.0, 0.0], 1e-6, divergence=divergence)
    np.testing.assert_allclose(beta, [0, 1], atol=1e-3)


@each_divergence
def test_a_solution_that_is_not_optimal_is_an_error(divergence, monkeypatch):
    monkeypatch.setattr(weights, "minimise", lambda rows: np.full(rows.shape[1], 1 / rows.shape[1]))
    with pytest.raises(ArithmeticError, match="KKT residual"):
        fedauto_weights(*random_problem(0), divergence=divergence)


def test_compensated_classes_by_hand():
    """Two clients of 32 and 8 samples: shares .9, .1, 0, 0; half the target: .2, .125, .125, .05."""
    alpha, server = np.array([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0]]), np.array([5, 6, 7, 0])
    target = np.array([0.4, 0.25, 0.25, 0.1])
    assert compensation(alpha, target, server).tolist() == [0, 0, 7, 0]
    assert underweighted(alpha, target, server, np.array([32, 8])).tolist() == [0, 6, 7, 0]
    assert underweighted(alpha, target, server, np.array([30, 10])).tolist() == [0, 0, 7, 0]  # .125 is not below half
    nobody = alpha[:0], np.array([0.5, 0.5, 0, 0]), server
    assert compensation(*nobody).tolist() == underweighted(*nobody, np.array([])).tolist() == [5, 6, 0, 0]


def test_noise_in_the_histograms_hides_a_missing_class_but_not_an_underweighted_one():
    noisy, target, server = np.array([[0.999, 0.001]]), np.array([0.5, 0.5]), np.array([3, 4])
    assert compensation(noisy, target, server).tolist() == [0, 0]
    assert underweighted(noisy, target, server, np.array([10])).tolist() == [0, 4]


# A world without training: participant 0 holds all four classes, clients two each; class 3 is the server's alone.
ALPHA = np.array([[0.25, 0.25, 0.25, 0.25], [0.9, 0.1, 0, 0], [0.8, 0.2, 0, 0], [0, 0, 1.0, 0]])
COUNTS, P, STEPS = np.array([20, 40, 30, 30]), 6, 5
U = torch.from_numpy(np.random.default_rng(1).normal(size=(4, P))).float()  # of the participants
V = torch.from_numpy(np.random.default_rng(2).normal(size=(4, P))).float()  # of the server's classes


class PublicData:
    """Pulls a model towards the mean of V over the classes it trains on."""

    counts_per_class = np.full(4, 5)

    def train(self, w, steps, classes=None):
        return (V[list(range(4)) if classes is None else classes].mean(dim=0) - w) * steps / 20


def begin(method, with_server=True):
    target = COUNTS @ ALPHA / COUNTS.sum()
    return method.init(Context(COUNTS, ALPHA, target, STEPS, 0.1, with_server, torch.zeros(P)))


def play(method, w, ids):
    ids = np.array(ids, dtype=np.int64)
    arrivals = Arrivals(0, ids, (U[ids] - w) / 4, np.full(len(ids), STEPS), 0.1)
    return method.aggregate(begin(method), w, arrivals, PublicData())


def slow_round(method, w, ids):
    """The same round from its description: models instead of deltas, loops, and the general solver."""
    heard = range(4) if method.target == "all" else range(1, 4)
    target = sum(COUNTS[j] * ALPHA[j] for j in heard) / sum(COUNTS[j] for j in heard)
    clients = [j for j in ids if j > 0]
    seen = sum(COUNTS[j] * ALPHA[j] for j in clients) / sum(COUNTS[j] for j in clients) if clients else np.zeros(4)
    lack = {
        "none": [],
        "missing": [c for c in range(4) if target[c] > 0 and seen[c] == 0],
        "underweighted": [c for c in range(4) if seen[c] < target[c] / 2],
    }[method.compensation]
    models = [w + (U[j] - w) / 4 for j in ids]
    alpha, counts = [ALPHA[j] for j in ids], [COUNTS[j] for j in ids]
    if lack:
        models.append(w + PublicData().train(w, STEPS, lack))
        alpha.append(np.isin(range(4), lack) / len(lack))
        counts.append(5 * len(lack))
    beta = general_solver(np.array(alpha), np.array(counts), target, method.lam, method.divergence)
    return sum(float(b) * model for b, model in zip(beta, models, strict=True))


@pytest.mark.parametrize("ids", [[0, 1], [1, 2], [3], [0, 1, 2, 3]], ids=str)
@pytest.mark.parametrize("target", ["all", "clients"])
@pytest.mark.parametrize("kind", ["missing", "none", "underweighted"])
@each_divergence
def test_a_round_equals_its_slow_twin(divergence, kind, target, ids):
    method = make_method("fedauto", divergence=divergence, compensation=kind, target=target)
    w = torch.full((P,), 0.3)
    torch.testing.assert_close(play(method, w, ids)[0], slow_round(method, w, ids), atol=1e-4, rtol=0)


def test_the_variants_differ():
    w, base = torch.zeros(P), make_method("fedauto")
    changes = (
        {"compensation": "none"},
        {"compensation": "underweighted"},
        {"adaptive": False},
        {"divergence": "l2"},
        {"divergence": "kl"},
        {"target": "clients"},
    )
    ends = [play(replace(base, **change), w, [0, 1, 3])[0] for change in ({}, *changes)]
    distances = torch.cdist(torch.stack(ends), torch.stack(ends)) + torch.eye(len(ends))
    assert distances.min() > 1e-4


@pytest.mark.parametrize("ids", [[0, 1], [2], []], ids=str)
@pytest.mark.parametrize("kind", ["missing", "none"])
def test_finetuning_after_it_is_fedauto_and_then_training(kind, ids):
    w, method = torch.full((P,), 0.3), make_method("fedauto", compensation=kind)
    half, state = play(method, w, ids)
    after, same = play(make_method("server_finetuning", average=method, server_steps=4), w, ids)
    torch.testing.assert_close(after, half + PublicData().train(half, 4), atol=1e-6, rtol=0)
    assert same.log == state.log


def test_the_clients_target_leaves_the_servers_own_class_alone():
    """Class 3 is not missing from the clients' point of view; the logged chi2 is against all data for every variant."""
    logs = {
        name: play(make_method("fedauto", target=name), torch.zeros(P), [1, 2, 3])[1].log for name in ("all", "clients")
    }
    assert logs["all"]["compensated_classes"] == 1 and logs["clients"]["compensated_classes"] == 0
    missing = begin(make_method("fedauto")).context.target[3]
    assert logs["clients"]["chi2"] >= missing / (1 - missing) > logs["all"]["chi2"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compensation", True),
        ("compensation", "all"),
        ("adaptive", "no"),
        ("divergence", "tv"),
        ("target", "server"),
        ("lam", 0.0),
    ],
)
def test_bad_variants_name_the_field(field, value):
    with pytest.raises(InputError, match=f"fedauto: {field} = {value!r}"):
        make_method("fedauto", **{field: value})


def test_an_unknown_divergence_is_refused_by_the_weights():
    with pytest.raises(InputError, match=r"unknown divergence 'tv'.*chi2, kl, l2"):
        fedauto_weights(np.eye(2), [1, 1], [0.5, 0.5], divergence="tv")


def test_the_method_card_says_how_the_public_data_are_used():
    assert make_method("fedauto").public_data == "as a participant; as participant m for missing classes"
    assert make_method("fedauto", compensation="none").public_data == "as a participant"
