"""Constants along real runs: recording changes nothing, and the estimates are what direct computation gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedauto_core import InputError
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, simulate
from fedauto_core.methods import make_method
from fedauto_core.models import LoRA, adapt, build_model, layers
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream
from fedauto_core.theory import (
    Head,
    certificate,
    curvature_by_differences,
    estimate_after_the_fact,
    estimates,
    nets,
    recorded,
    round_bound,
)

DIGITS = load_dataset("digits")
NETWORK = build_model("softmax", tuple(DIGITS.x_train.shape[1:]), DIGITS.n_classes)
FEDERATION = build_federation(DIGITS, FederationSpec(5, 60, 40, "classes", classes_per_client=2), 0)
START = NETWORK.init(stream(0, "initial model"))


def runs(name, failures, visits, rounds=4):
    trace = draw_trace(scenario(failures, rounds), rounds=rounds, histograms=FEDERATION.alpha[1:], seed=0)
    plain = Run(name, make_method(name), FEDERATION, trace, START, 0, 0.1, True)
    both = [plain, replace(plain, method=recorded(plain.method, visits))]
    return simulate(Averaging(NETWORK), both, Schedule(rounds, 3, 10, evaluate_every=1)).curves


def gradient_of(images, w):
    point = w.clone().requires_grad_()
    logits = NETWORK.forward(NETWORK.unflatten(point[None]), DIGITS.x_train[images][None])[0]
    loss = functional.cross_entropy(logits, DIGITS.y_train[images])
    return loss.item(), torch.autograd.grad(loss, point)[0].numpy().astype(float)


@pytest.mark.parametrize("name", ["fedavg", "fedauto"])
def test_recording_changes_nothing(name):
    visits = []
    curves = runs(name, "F2", visits)
    first, second = (curves[curves["run"] == run].drop(columns="run").reset_index(drop=True) for run in (0, 1))
    assert first.equals(second)
    assert [visit.round for visit in visits] == [0, 1, 2, 3] and torch.equal(visits[0].w, START)


def test_estimates_by_direct_computation():
    visits = []
    runs("fedauto", "F10", visits)
    visit, rng = visits[2], np.random.default_rng(0)
    found = estimates(NETWORK, FEDERATION, visit, 10, rng, images=10**6)
    everyone = np.concatenate(FEDERATION.shards)
    value, pooled = gradient_of(everyone, visit.w)
    assert found["F"] == pytest.approx(value, rel=1e-5)
    assert found["gradient2"] == pytest.approx(pooled @ pooled, rel=1e-4)
    labels, own = DIGITS.y_train.numpy(), [gradient_of(FEDERATION.shards[j], visit.w)[1] for j in visit.ids]
    assert len(visit.weights) == len(visit.ids) + 1  # half of the clients are silenced: a participant m
    heard = np.unique(np.concatenate([labels[FEDERATION.shards[j]] for j in visit.ids if j > 0]))
    public = FEDERATION.shards[0]
    own.append(gradient_of(public[~np.isin(labels[public], heard)], visit.w)[1])
    wrong = pooled - visit.weights @ np.array(own)
    assert found["b"] == pytest.approx(wrong @ wrong, rel=1e-3)
    assert found["sigma2"] > 0 and found["L"] > 0
    assert found["b"] <= (np.sqrt(found["kappa2"] * found["chi2"]) + np.sqrt(found["delta2"])) ** 2 * (1 + 1e-6)  # I4


def test_without_failures_plain_averaging_has_no_bias():
    visits = []
    runs("fedavg", "F0", visits, rounds=1)
    found = estimates(NETWORK, FEDERATION, visits[0], 10, np.random.default_rng(0))
    assert found["b"] == pytest.approx(0, abs=1e-9) and found["chi2"] == pytest.approx(0, abs=1e-12)
    terms = round_bound(found, 0.1, 3)
    assert terms["bias"] == pytest.approx(0, abs=1e-8) and terms["step over limit"] == pytest.approx(0.6 * found["L"])
    assert terms["improved error"] < terms["drift"] and found["L"] >= found["L of F"] > 0


def test_beyond_its_limit_a_theorem_is_not_applicable():
    visits = []
    runs("fedavg", "F0", visits, rounds=1)
    found = estimates(NETWORK, FEDERATION, visits[0], 10, np.random.default_rng(0))
    limit = 1 / (2 * found["L"] * 3)
    for part, first, improved in ((0.9, "estimate", "estimate"), (1.5, "not applicable", "estimate")):
        terms = round_bound(found, part * limit, 3)
        assert (terms["first"], terms["improved"]) == (first, improved)
    assert round_bound(found, 2.5 * limit, 3)["improved"] == "not applicable"


def test_a_rule_without_weights_is_refused():
    visits = []
    runs("fedavg", "F2", visits)
    with pytest.raises(InputError, match="a method without weights"):
        estimates(NETWORK, FEDERATION, replace(visits[0], weights=None), 10, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["fedavg", "mifa"])
def test_the_estimate_after_the_fact_of_a_head_is_its_certificate_with_another_curvature(name):
    visits = []
    runs(name, "F2", visits)
    for visit in visits:
        told = estimate_after_the_fact(NETWORK, FEDERATION, visit, 3, np.random.default_rng(0), images=10**6)
        exact = certificate(Head.of(FEDERATION), visit, 3)
        for part in ("round", "measured", "progress", "error"):
            assert told[part] == pytest.approx(exact[part], rel=1e-3, abs=1e-6)
        move = (visit.after - visit.w).double().numpy()
        assert told["bound"] - told["measured"] == pytest.approx(
            (told["L"] - told["L met"]) / 2 * move @ move, abs=1e-6
        )
        assert told["L met"] * (1 - 1e-3) < told["L"] <= Head.of(FEDERATION).smoothness() * 1.001
        assert told["status"] == "estimate"


def test_a_curvature_that_is_too_small_is_seen_and_a_network_is_never_certified(monkeypatch):
    network = build_model("mlp", tuple(DIGITS.x_train.shape[1:]), DIGITS.n_classes)
    visits, start = [], network.init(stream(0, "initial model"))
    trace = draw_trace(scenario("F2", 3), rounds=3, histograms=FEDERATION.alpha[1:], seed=0)
    run = Run("fedavg", recorded(make_method("fedavg"), visits), FEDERATION, trace, start, 0, 0.3, True)
    simulate(Averaging(network), [run], Schedule(3, 3, 10, evaluate_every=3))
    rng = np.random.default_rng(0)
    for visit in visits:
        told = estimate_after_the_fact(network, FEDERATION, visit, 3, rng)
        assert (told["status"] == "estimate") == (told["measured"] <= told["bound"])
        assert told["status"] in ("estimate", "not met")
    assert told["L met"] > 0
    monkeypatch.setattr(nets, "network_curvature", lambda *rest: 0.5 * told["L met"])
    assert estimate_after_the_fact(network, FEDERATION, visit, 3, rng)["status"] == "not met"
    with pytest.raises(InputError, match="a round after which the model is where it was"):
        estimate_after_the_fact(network, FEDERATION, replace(visit, after=visit.w), 3, rng)
    with pytest.raises(InputError, match="places of the segment = 1"):
        estimate_after_the_fact(network, FEDERATION, visit, 3, rng, looks=1)


@pytest.mark.parametrize("targets", [("layer3.qkv", "layer3.out"), ("layer*.qkv", "layer*.out"), ("layer1.up",)])
def test_the_curvature_of_an_adapted_transformer_is_that_of_its_gradients(targets):
    """Its layers have gradients by hand, through which second derivatives would lose terms."""
    vit = build_model("vit", (1, 8, 8), 4)
    adapted = adapt(vit, vit.init(np.random.default_rng(0)).double(), LoRA(2, 4.0, targets))
    rng = np.random.default_rng(1)
    w = adapted.model.init(rng).double()
    w += 0.1 * torch.from_numpy(rng.standard_normal(w.shape))
    x = adapted.trunk(torch.from_numpy(rng.standard_normal((6, 1, 8, 8))))
    y = torch.from_numpy(rng.integers(0, 4, 6))

    def loss(point):
        return functional.cross_entropy(adapted.model.forward(adapted.model.unflatten(point[None]), x[None])[0], y)

    def gradient(place):
        point = torch.from_numpy(place).requires_grad_()
        return torch.autograd.grad(loss(point), point)[0].numpy()

    by_hand = layers._LowRankDense, layers._SelfAttention
    found = nets.network_curvature(loss, w)
    assert found == pytest.approx(curvature_by_differences(gradient, w.numpy()), rel=1e-3)
    assert (layers._LowRankDense, layers._SelfAttention) == by_hand
