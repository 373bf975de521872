"""Instances of real images: slopes against differences, LoRA inside its ball, least squares, an estimated network."""

import numpy as np
import pytest
import torch

from fedauto_core import InputError, theory
from fedauto_core.theory import FIRST, IMPROVED, Point, Split, curvature_by_differences

SPLIT = Split(np.array([[2, 1, 2], [4, 0, 1], [0, 3, 1]]))


def slope_along(problem, w, direction, size=1e-5):
    ends = problem.value(np.array([w - size * direction, w + size * direction]))
    return (ends[1] - ends[0]) / (2 * size)


@pytest.fixture(scope="module")
def lora():
    return theory.LowRankRegression(theory.softmax_regression(0, SPLIT), rank=2, scale=2.0, radius=1.5)


@pytest.fixture(scope="module")
def net():
    return theory.smooth_net(0, SPLIT, hidden=3, probes=2)


def test_gradients_are_the_slopes_of_the_values(lora, net):
    rng = np.random.default_rng(0)
    for problem, w in ((lora, lora.start(0) + 0.05), (net, net.probes[0])):
        direction = rng.standard_normal(problem.dimension)
        slope = problem.gradients(problem.split.pooled, w)[0] @ direction
        assert slope == pytest.approx(slope_along(problem, w, direction), rel=1e-6)
        rows = problem.split.participants  # F is the mean of the participants' losses, so are the slopes
        shares = SPLIT.counts.sum(axis=1) / SPLIT.counts.sum()
        mean = shares @ problem.gradients(rows, np.tile(w, (3, 1)))
        np.testing.assert_allclose(mean, problem.gradients(problem.split.pooled, w)[0], atol=1e-12)


def test_lora_is_softmax_regression_of_the_product(lora):
    a, b = (factor[0] for factor in lora.factors((lora.start(0) + 0.02)[None]))
    whole = (2.0 * a @ b).ravel()
    assert lora.value((lora.start(0) + 0.02)[None]) == pytest.approx(lora.base.value(whole[None]))
    assert np.all(lora.factors(lora.start(0)[None])[1] == 0)


def test_lora_is_as_smooth_as_claimed_inside_its_ball_and_silent_outside(lora):
    (bound,) = lora.smoothness(SPLIT.pooled)
    rng, largest = np.random.default_rng(0), 0.0
    for _ in range(40):
        pairs = (f / np.linalg.norm(f, ord=2, axis=(1, 2))[:, None, None]
                 for f in lora.factors(rng.standard_normal((2, lora.dimension))))  # fmt: skip
        points = 1.5 * (1 - 1e-9) * np.hstack([f.reshape(2, -1) for f in pairs])  # both on the edge of the ball
        points[1] = 0.999 * points[0] + 0.001 * points[1]
        slopes = lora.gradients(np.repeat(SPLIT.pooled, 2, axis=0), points)
        largest = max(largest, np.linalg.norm(slopes[1] - slopes[0]) / np.linalg.norm(points[1] - points[0]))
    assert 0.01 * bound < largest <= bound
    with pytest.raises(InputError, match=r"a factor of norm [\d.]+ outside the ball of radius 1.5"):
        lora.value(3 * np.ones((1, lora.dimension)))
    with pytest.raises(InputError, match=r"a factor of norm 4.243 outside the ball of radius 1.5"):
        lora.gradients(SPLIT.pooled, 3 * np.ones(lora.dimension) / np.sqrt(lora.base.features.shape[1]))


@pytest.mark.parametrize("rule", ["FedAvg", "FedAuto"])
def test_both_theorems_hold_along_a_run_of_lora(lora, rule):
    arrived = np.random.default_rng(1).random((30, 2)) < 0.5
    used = theory.aggregate(SPLIT, arrived, rule)
    known = theory.constants_of(lora, used)
    assert known.smoothness.provenance == "certified bound"
    for steps, part, theorem in ((1, 1.0, FIRST), (3, 1.0, FIRST), (3, 1.9, IMPROVED)):
        gamma = part * FIRST.step_limit(known.smoothness.value, steps)
        terms, _ = theory.trajectory(lora, used, known, Point(lora.start(0)), gamma, steps, theorem)
        assert np.all(terms["measured"] <= terms["bound"]) and terms["value"].iloc[-1] < terms["value"].iloc[0]


def test_a_round_that_leaves_the_ball_is_refused():
    small = theory.LowRankRegression(theory.softmax_regression(0, SPLIT), rank=2, radius=1.0)
    used = theory.aggregate(SPLIT, theory.arrival_sets(2), "FedAvg")
    start = small.start(0)
    size = np.linalg.norm(small.factors(start[None])[0][0], 2)
    with pytest.raises(InputError, match=r"outside the ball of radius 1\.0"):
        small.round(Point(start / size * (1 - 1e-12) + 1e-3 * (start == 0)), used.rows, used.beta, 0.5, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: theory.smooth_net(0, SPLIT, probes=0), "probes = 0"),
        (lambda: theory.LowRankRegression(theory.softmax_regression(0, SPLIT), rank=0), "rank = 0"),
        (lambda: theory.LowRankRegression(theory.softmax_regression(0, SPLIT), radius=-1.0), "radius = -1.0"),
        (lambda: theory.softmax_regression(0, SPLIT).round(Point(np.zeros(195), np.eye(195)), SPLIT.pooled,
                                                            np.ones((1, 1)), 0.1, 1), "a random model"),
    ],
)  # fmt: skip
def test_what_cannot_be_an_instance_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_curvature_by_differences_is_that_of_the_hessian():
    hessian = np.diag([1.0, -3.0, 0.5])
    assert curvature_by_differences(lambda w: hessian @ w, np.ones(3)) == pytest.approx(3, rel=1e-3)


@pytest.mark.parametrize("dataset", ["digits", "fashion_mnist"])
def test_least_squares_is_the_mean_squared_residual(dataset):
    problem = theory.least_squares(0, SPLIT, components=3, dataset=dataset)
    w = np.array([0.3, -0.2, 0.5, 0.1])
    x = problem.hessian[:, -1]  # the constant column times x
    y = np.where(SPLIT.label >= 1.5, 1.0, -1.0)
    assert problem.value(w[None])[0] == pytest.approx(np.mean((x @ w - y) ** 2) / 2)
    assert np.cov(x[:, :3].T, bias=True) == pytest.approx(np.eye(3), abs=1e-9)
    best = np.linalg.lstsq(x, y, rcond=None)[0]
    assert problem.infimum() == pytest.approx(np.mean((x @ best - y) ** 2) / 2)
    with pytest.raises(InputError, match="principal components = 40"):
        theory.least_squares(0, SPLIT, components=40, dataset=dataset)


def test_fashion_mnist_holds_both_theorems_and_its_infimum():
    split = theory.skewed_split(0, n_clients=4)
    problem = theory.softmax_regression(0, split, 0.01, "fashion_mnist")
    assert problem.dimension == 785 * 10 and abs(problem.features[:, :-1].mean()) < 0.5
    used = theory.aggregate(split, theory.arrival_sets(4), "FedAuto")
    known = theory.constants_of(problem, used)
    for steps in (1, 5):
        gamma = FIRST.step_limit(known.smoothness.value, steps)
        checks = theory.round_checks(problem, used, known, Point(np.zeros(7850)), gamma, steps)
        assert {check.status for check in checks} == {"valid"}
    with pytest.raises(InputError, match="unknown image data set 'mnist'"):
        theory.softmax_regression(0, split, dataset="mnist")


def test_the_constants_of_a_network_are_called_estimates(net):
    used = theory.aggregate(SPLIT, theory.arrival_sets(2), "FedAvg")
    known = theory.constants_of(net, used)
    assert known.smoothness.provenance == "estimate" and known.infimum.value == 0
    pooled = torch.as_tensor(SPLIT.pooled[0])
    hessians = [
        torch.autograd.functional.hessian(lambda w: net._loss(w, pooled), torch.as_tensor(p)) for p in net.probes
    ]
    exact = max(float(torch.linalg.eigvalsh(h).abs().max()) for h in hessians)
    assert net.smoothness(SPLIT.pooled)[0] == pytest.approx(exact, rel=1e-3)
    assert known.smoothness.value >= exact * (1 - 1e-3)
