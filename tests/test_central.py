"""The central optimum: flat where it is exact, a plain loop where it is a long run, and kept by what determines it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import local_sgd

from fedauto_core import InputError
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import central
from fedauto_core.engine.central import central_optimum, long_run, softmax_optimum
from fedauto_core.models import build_model
from fedauto_core.seeding import stream

SPEC = FederationSpec(5, 60, 40, "classes", classes_per_client=2)
HEAD, NETWORK = (build_model(name, (1, 8, 8), 10) for name in ("softmax", "mlp"))
SETTINGS = {"lr": 0.1, "epochs": 3, "batch": 32, "seed": 1}


@pytest.fixture(scope="module")
def federation():
    return build_federation(load_dataset("digits"), SPEC, 0)


def noisy(n=400, features=5, classes=3):
    """Samples that no hyperplane separates."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, features))
    return x, (x[:, :classes] + rng.gumbel(size=(n, classes))).argmax(axis=1)


def loss_and_gradient(theta, x, y, classes):
    theta = torch.from_numpy(theta).requires_grad_()
    weight, bias = theta[: x.shape[1] * classes].view(-1, classes), theta[x.shape[1] * classes :]
    loss = F.cross_entropy(torch.from_numpy(x) @ weight + bias, torch.from_numpy(y))
    return loss.item(), torch.autograd.grad(loss, theta)[0].numpy()


def test_softmax_regression_is_solved_exactly():
    """Its gradient vanishes, and by convexity no other point is better: F(v) >= F(w) + <grad F(w), v - w>."""
    x, y = noisy()
    theta = softmax_optimum(x, y, 3)
    loss, gradient = loss_and_gradient(theta, x, y, 3)
    assert np.linalg.norm(gradient) <= 5e-6 and loss > 0.5
    rng = np.random.default_rng(1)
    others = [theta + 0.1 * rng.normal(size=theta.shape) for _ in range(20)]
    assert all(loss_and_gradient(other, x, y, 3)[0] > loss for other in others)
    w = np.zeros_like(theta)
    for _ in range(2000):  # the plain way
        w -= 1.0 * loss_and_gradient(w, x, y, 3)[1]
    assert loss_and_gradient(w, x, y, 3)[0] == pytest.approx(loss, abs=1e-6)
    shift = (w - theta).reshape(-1, 3)  # the same for all classes: it changes no probability
    np.testing.assert_allclose(shift, np.broadcast_to(shift.mean(axis=1, keepdims=True), shift.shape), atol=1e-3)


def test_a_solver_that_gives_up_is_an_error(monkeypatch):
    monkeypatch.setattr(central, "FLAT", 0.0)
    with pytest.raises(ArithmeticError, match="no optimum of softmax regression found: gradient"):
        softmax_optimum(*noisy(), 3)


def test_the_optimum_of_a_head_is_that_of_everybodys_samples(federation, tmp_path):
    start = HEAD.init(stream(0, "initial model"))
    theta = central_optimum(HEAD, federation, start, cache=tmp_path)
    pooled = np.concatenate(federation.shards)
    x = federation.dataset.x_train[pooled].flatten(1).double().numpy()
    y = federation.dataset.y_train[pooled].numpy()
    assert theta.dtype == start.dtype and theta.shape == start.shape
    assert np.linalg.norm(loss_and_gradient(theta.double().numpy(), x, y, 10)[1]) <= 1e-5
    assert torch.equal(central_optimum(HEAD, federation, 0 * start, lr=3.0, cache=tmp_path), theta)
    run = central_optimum(HEAD, federation, start, exact=False, **SETTINGS, cache=tmp_path)
    assert torch.equal(run, long_run(HEAD, federation, start, **SETTINGS))


def test_a_long_run_is_plain_sgd_with_falling_steps(federation):
    w0 = NETWORK.init(stream(0, "initial model"))
    w, data, rng = w0, federation.dataset, stream(1, "pretraining")
    for epoch in range(3):
        order = rng.permutation(np.concatenate(federation.shards))[:320].reshape(10, 32)  # of 340
        lr = 0.1 * (1 + np.cos(np.pi * epoch / 3)) / 2
        w = local_sgd(NETWORK, w, data.x_train, data.y_train, torch.from_numpy(order), lr)
    torch.testing.assert_close(long_run(NETWORK, federation, w0, **SETTINGS), w, atol=1e-5, rtol=0)


def test_it_is_kept_by_all_that_determines_it(federation, tmp_path, monkeypatch):
    w0 = NETWORK.init(stream(0, "initial model"))
    runs = []
    real = long_run
    monkeypatch.setattr(central, "long_run", lambda *a, **k: runs.append(k) or real(*a, **k))
    first, again = (central_optimum(NETWORK, federation, w0, **SETTINGS, cache=tmp_path) for _ in range(2))
    assert torch.equal(first, again) and len(runs) == 1
    dataset = replace(federation.dataset, x_train=federation.dataset.x_train + 0.1)
    changes = [
        (replace(federation, shards=federation.shards[:-1]), w0, SETTINGS),
        (replace(federation, dataset=dataset), w0, SETTINGS),
        (federation, w0 + 0.01, SETTINGS),
        *((federation, w0, SETTINGS | change) for change in ({"lr": 0.2}, {"epochs": 2}, {"batch": 16}, {"seed": 2})),
    ]
    for other, start, settings in changes:
        assert not torch.equal(central_optimum(NETWORK, other, start, **settings, cache=tmp_path), first)
    assert len(runs) == 1 + len(changes)
    monkeypatch.setenv("FEDAUTO_FRESH", "1")
    assert torch.equal(central_optimum(NETWORK, federation, w0, **SETTINGS, cache=tmp_path), first)
    assert len(runs) == 2 + len(changes)


@pytest.mark.parametrize(
    ("name", "value", "message"), [("lr", 0.0, "lr = 0.0"), ("batch", 341, "batch = 341"), ("epochs", 0, "rounds = 0")]
)
def test_bad_settings_are_refused(federation, name, value, message):
    with pytest.raises(InputError, match=message):
        long_run(NETWORK, federation, NETWORK.init(stream(0, "initial model")), **SETTINGS | {name: value})
