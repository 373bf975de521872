"""Rules with the server's data or the clients' label histograms: identities, hand-computed cases, bad input."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedauto_core import InputError
from fedauto_core.data import FederationSpec, build_federation, load_dataset, share_public
from fedauto_core.engine import Averaging, Run, Schedule, local_updates
from fedauto_core.engine.lane import Lane
from fedauto_core.methods import METHODS, Arrivals, Context, make_method
from fedauto_core.methods.adam import Adam
from fedauto_core.methods.fedcote_like import selection_probabilities
from fedauto_core.methods.feddisco import disco_weights
from fedauto_core.methods.feddu import jensen_shannon, skew_ratio
from fedauto_core.methods.label_matching import matching_weights
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

P = 6


def toy(counts, alpha, **changes):
    """Context over histograms alpha [N+1, C] with a model of P zeros."""
    counts, alpha = np.array(counts), np.array(alpha, dtype=float)
    return Context(counts, alpha, counts @ alpha / counts.sum(), 2, 0.1, True, torch.zeros(P), **changes)


def arrived(ids, deltas=None, round=0):
    deltas = torch.eye(P)[: len(ids)] if deltas is None else deltas
    return Arrivals(round, np.array(ids, dtype=int), deltas, np.full(len(ids), 2), 0.1)


def outcome(method, context, arrivals, server=None):
    return method.aggregate(method.init(context), context.w0, arrivals, server)


class ToyServer:
    """Four public samples of two classes, one of which every model gets wrong; training moves by one everywhere."""

    labels = torch.tensor([0, 0, 1, 1])

    def logits(self, w):
        return torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])

    def train(self, w, steps, classes=None):
        assert steps == 2
        return torch.ones(P)


@pytest.fixture(scope="module")
def digits():
    """A lane of 6 clients with two classes each, and one round of updates [7, P'] from a model trained a little."""
    federation = build_federation(load_dataset("digits"), FederationSpec(6, 60, 40, "classes", classes_per_client=2), 3)
    model = build_model("mlp", (1, 8, 8), 10)
    trace = draw_trace(Scenario("none", "none", ()), rounds=1, histograms=federation.alpha[1:], seed=3)
    run = Run("", make_method("fedavg"), federation, trace, model.init(stream(3, "initial model")), 3, 0.1, True)
    lane = Lane(Averaging(model), run, Schedule(rounds=1, steps=5, batch=16))
    batches = lane.batches(np.arange(7), stream(3, "minibatches", 0).random((7, 5, 16)))
    data = federation.dataset
    return lane, local_updates(model, run.w0.expand(7, -1), data.x_train, data.y_train, batches, 0.1)


def public_loss(server, w):
    return float(functional.cross_entropy(server.logits(w), server.labels))


@pytest.mark.parametrize(
    "method",
    [
        make_method("fedlaw", server_steps=0),
        make_method("feddisco", a=0.0, b=0.0),
        make_method("label_matching", rho=1e9),
    ],
    ids=repr,
)
def test_a_limit_of_it_is_fedavg(digits, method):
    """With any arrivals, the server's among them or not."""
    lane, deltas = digits
    for ids in ([0, 1, 4], [2, 3], [5]):
        arrivals = arrived(ids, deltas[ids])
        w, state = outcome(method, lane.state.context, arrivals, lane.server)
        expected = outcome(make_method("fedavg"), lane.state.context, arrivals)[0]
        torch.testing.assert_close(w, expected, atol=1e-6, rtol=0)
        assert state.log["sum_beta"] == pytest.approx(1)


def test_fedlaw_turns_away_from_a_useless_client(digits):
    """Client 1 uploads long noise: the learned weights lose less on the public data than the data weights do."""
    lane, deltas = digits
    ids = [1, 2, 3, 4]
    noisy = deltas[ids].clone()
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(noisy.shape[1], dtype=np.float32))
    noisy[0] = 10 * noisy.norm(dim=1).mean() * functional.normalize(noise, dim=0)
    lane.server.start_round(0)
    w, state = outcome(make_method("fedlaw"), lane.state.context, arrived(ids, noisy), lane.server)
    assert lane.server.samples == 10 * 16  # its whole cost
    average = outcome(make_method("fedavg"), lane.state.context, arrived(ids, noisy))[0]
    assert public_loss(lane.server, w) < public_loss(lane.server, average) - 0.03
    # Four equal clients: the weights sum to gamma, and the noise's is the smallest.
    step = torch.linalg.lstsq(noisy.T, (w - lane.run.w0)[:, None]).solution[:, 0]
    assert step.sum().item() == pytest.approx(state.log["gamma"], abs=1e-4)
    assert step.argmin() == 0 and step[0] < 0.8 * step[1:].min()


def test_fedlaw_scales_the_update_not_the_model(digits):
    """One arrival: w + gamma Delta, nothing else."""
    lane, deltas = digits
    w, state = outcome(make_method("fedlaw"), lane.state.context, arrived([2], deltas[[2]]), lane.server)
    assert state.log["gamma"] != pytest.approx(1, abs=0.01)
    torch.testing.assert_close(w, lane.run.w0 + state.log["gamma"] * deltas[2], atol=1e-6, rtol=0)


def test_fedlaw_moves_along_the_slopes_of_autograd():
    """In double, on the quadratic loss <w, H w> / 2 - <b, w>: autograd goes through softmax and exp by itself."""
    rng = np.random.default_rng(4)
    root, b, start = (torch.from_numpy(rng.standard_normal(shape)) for shape in ((P, P), P, P))
    deltas, hessian = torch.from_numpy(rng.standard_normal((3, P))), root @ root.T

    class Quadratic:
        def gradient(self, w):
            return hessian @ w - b

    context = replace(toy([10, 30, 20, 40], np.full((4, 2), 0.5)), w0=start)
    w, state = outcome(make_method("fedlaw"), context, arrived([1, 2, 3], deltas), Quadratic())
    z, x = torch.tensor([30.0, 20.0, 40.0], dtype=w.dtype).log().requires_grad_(), w.new_zeros(()).requires_grad_()
    adams = [Adam(one, 0.1, betas=(0.5, 0.999)) for one in (z, x)]
    for _ in range(10):
        model = start + x.exp() * z.softmax(dim=0) @ deltas
        loss = model @ hessian @ model / 2 - b @ model
        for adam, slope in zip(adams, torch.autograd.grad(loss, [z, x]), strict=True):
            adam.step(slope)
    learned = (x.exp() * z.softmax(dim=0)).detach()
    assert (learned - learned.new_tensor([3, 2, 4]) / 9).abs().min() > 0.1
    torch.testing.assert_close(torch.from_numpy(state.weights), learned, atol=1e-10, rtol=0)
    torch.testing.assert_close(w, start + learned @ deltas, atol=1e-10, rtol=0)


def test_feddf_moves_the_average_towards_the_ensemble(digits):
    lane, deltas = digits
    ids = [1, 2, 3, 4]
    teachers = lane.server.logits(lane.run.w0 + deltas[ids]).mean(dim=0).softmax(dim=-1)

    def mistrust(w):
        return float(functional.kl_div(lane.server.logits(w).log_softmax(dim=-1), teachers, reduction="batchmean"))

    w, state = outcome(make_method("feddf"), lane.state.context, arrived(ids, deltas[ids]), lane.server)
    average = outcome(make_method("fedavg"), lane.state.context, arrived(ids, deltas[ids]))[0]
    assert mistrust(w) < 0.5 * mistrust(average)
    assert state.log["distilled"] == pytest.approx(float((w - average).norm()))


def test_feddf_does_not_look_at_labels(digits):
    lane, deltas = digits
    ids = [1, 2, 3]
    results = []
    for shift in (0, 1):
        server = Lane(lane.averaging, lane.run, Schedule(rounds=1, batch=16)).server
        server.labels = (server.labels + shift) % 10
        results.append(outcome(make_method("feddf"), lane.state.context, arrived(ids, deltas[ids]), server)[0])
    assert torch.equal(*results)


def test_feddf_leaves_a_single_teacher_alone(digits):
    lane, deltas = digits
    w, _ = outcome(make_method("feddf"), lane.state.context, arrived([3], deltas[[3]]), lane.server)
    torch.testing.assert_close(w, lane.run.w0 + deltas[3], atol=1e-6, rtol=0)


def test_jensen_shannon_by_hand():
    one, other, even = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([0.5, 0.5])
    assert jensen_shannon(one, other) == pytest.approx(1)
    assert jensen_shannon(one, even) == pytest.approx(0.311278, abs=1e-6)
    assert jensen_shannon(even, even) == 0


@pytest.mark.parametrize(
    ("ids", "server", "round", "expected"),
    [
        ([1], [1.0, 0.0], 0, 0.25 * 10 / (10 + 30)),  # both as skewed as each other: n_0 / (n_0 + n_S)
        ([0, 1], [1.0, 0.0], 3, 0.99**3 * 0.25 * 10 / (10 + 30)),  # the server's own arrival changes nothing
        ([1], [0.5, 0.5], 0, 0.25),  # the server's labels are the global ones
        ([1, 2], [1.0, 0.0], 0, 0.0),  # the arrived labels are the global ones
        ([1, 2], [0.5, 0.5], 0, 0.0),  # both are: 0/0
        ([], [1.0, 0.0], 1, 0.99 * 0.25),  # nobody arrived
    ],
)
def test_feddu_scale_on_two_classes(ids, server, round, expected):
    """Accuracy 3/4; clients of 30 samples with one class each, 10 at the server."""
    context = toy([10, 30, 30], [server, [1, 0], [0, 1]])
    arrivals = arrived(ids, round=round)
    w, state = outcome(make_method("feddu"), context, arrivals, ToyServer())
    assert state.log["server_scale"] == pytest.approx(expected)
    half = outcome(make_method("fedavg"), context, arrivals)[0]
    torch.testing.assert_close(w, half + expected, atol=1e-6, rtol=0)


def test_feddu_ratio_grows_with_the_skew_of_the_arrived():
    context = toy([10, 30, 30, 60], [[0.6, 0.4], [1, 0], [0, 1], [0.6, 0.4]])
    ratios = [skew_ratio(context, np.array(ids)) for ids in ([1, 2, 3], [1, 3], [1])]
    assert ratios == sorted(ratios) and ratios[0] < ratios[1] < ratios[2] <= 1


def test_data_sharing_trains_on_the_shared_samples(digits):
    """Shards, counts and histograms are those of the sharing federation; the server's are unchanged."""
    lane, _ = digits
    sharing = Lane(lane.averaging, replace(lane.run, method=make_method("data_sharing")), Schedule(rounds=1))
    expected = share_public(lane.run.federation, 0.3, 3)
    for shard, mine, own in zip(sharing.shards, expected.shards, lane.run.federation.shards, strict=False):
        assert np.array_equal(shard, mine) and set(own) <= set(shard)
    assert sharing.state.context.counts.tolist() == [40] + [60 + 12] * 6
    np.testing.assert_allclose(sharing.state.context.alpha, expected.alpha)


def test_disco_weights_by_hand():
    """KL([1, 0] || [1/2, 1/2]) = log 2, the other's is zero: d = (1, 0), raw weights (0.5 - 0.5 + 0.1, 0.5 + 0.1)."""
    alpha, target = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0.5, 0.5])
    np.testing.assert_allclose(disco_weights(alpha, np.array([10, 10]), target, 0.5, 0.1), [1 / 7, 6 / 7])
    np.testing.assert_allclose(disco_weights(alpha, np.array([10, 10]), target, 0.7, 0.1), [0, 1])
    # Unequal divergences, in proportion: KL([3/4, 1/4] || even) = 0.130812, d = (0.841240, 0.158760).
    alpha = np.array([[1.0, 0.0], [0.75, 0.25]])
    raw = np.array([0.75 - 0.5 * 0.841240 + 0.1, 0.25 - 0.5 * 0.158760 + 0.1])
    np.testing.assert_allclose(disco_weights(alpha, np.array([30, 10]), target, 0.5, 0.1), raw / raw.sum(), atol=1e-6)


def test_disco_weights_where_none_is_positive_are_the_data_weights():
    weights = disco_weights(np.eye(2), np.array([30, 10]), np.array([0.5, 0.5]), 4.0, 0.0)
    np.testing.assert_allclose(weights, [0.75, 0.25])


def test_label_matching_by_hand():
    """Two classes, one each, p = (3/4, 1/4), target 1/2: minimise 2 (b - 1/2)^2 + 2 rho (b - 3/4)^2."""
    for rho in (0.01, 0.1, 1.0):
        b = (0.5 + 0.75 * rho) / (1 + rho)
        weights = matching_weights(np.eye(2), np.array([30, 10]), np.array([0.5, 0.5]), rho)
        np.testing.assert_allclose(weights, [b, 1 - b])
    # All on one side of the target: only the nearest counts while 2 rho < 4 * 0.05 * 0.05.
    alpha = np.array([[0.6, 0.4], [0.7, 0.3], [0.55, 0.45]])
    np.testing.assert_allclose(matching_weights(alpha, np.ones(3), np.full(2, 0.5), 0.004), [0, 0, 1], atol=1e-12)
    assert matching_weights(alpha, np.ones(3), np.full(2, 0.5), 0.006)[0] > 1e-3
    assert np.array_equal(matching_weights(np.full((1, 2), 0.5), np.ones(1), np.full(2, 0.5), 0.1), [1.0])


def test_selection_by_hand():
    """Client 1 arrives twice as often as client 2, who holds the other class: it is selected half as often."""
    alpha, target = np.array([[1, 0], [1, 0], [0, 1]]), np.full(2, 0.5)
    r = selection_probabilities(np.array([0, 30 * 0.8, 30 * 0.4]), alpha, target, 0.75)
    np.testing.assert_allclose(r, [0.5, 1.0], atol=0.01)
    # With 6 expected samples of the server's 0.8 r_1 * 30 + 6 = 0.4 r_2 * 30 is 24 (1.5 - r_2) + 6 = 12 r_2: r_2 > 1.
    r = selection_probabilities(np.array([6, 30 * 0.8, 30 * 0.4]), alpha, target, 0.75)
    np.testing.assert_allclose(r, [0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(selection_probabilities(np.array([6, 24, 12]), alpha, target, 1.0), [1.0, 1.0])
    # Nobody ever arrives.
    np.testing.assert_allclose(selection_probabilities(np.zeros(3), alpha, target, 0.75), [0.75, 0.75])


def test_selection_does_not_choose_those_who_never_arrive():
    """Clients 1 and 2 complete each other, 3 and 4 have no link: choosing the latter would not repair anything."""
    alpha, target = np.array([[1, 0], [1, 0], [0, 1], [1, 0], [1, 0]]), np.full(2, 0.5)
    r = selection_probabilities(np.array([0, 20, 10, 0, 0]), alpha, target, 0.5)
    assert r[0] == pytest.approx(r[1] / 2, abs=0.02)


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.75])
def test_selection_brings_the_expected_mixture_closer_to_the_target(fraction, with_server):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        alpha, counts = rng.dirichlet(np.full(10, 0.2), 21), rng.integers(20, 200, 21)
        context = replace(toy(counts, alpha, long_run_probability=rng.random(20)), with_server=with_server)

        def distance(r, context=context):
            mass = np.append(context.with_server, r * context.long_run_probability) * context.counts
            return np.linalg.norm(mass @ context.alpha / mass.sum() - context.target)

        r = make_method("fedcote_like", fraction=fraction).init(context).memory["selection"]
        assert r.min() >= 0 and r.max() <= 1 and r.mean() == pytest.approx(fraction)
        assert distance(r) < 0.75 * distance(np.full(20, fraction))


def test_fedcote_drops_whom_it_did_not_select():
    """Over many rounds client k is kept in a share r_k of them, the server always; the rest is plain FedAvg."""
    context = toy(
        [10, 30, 30, 30], [[0.5, 0.5], [1, 0], [1, 0], [0, 1]], long_run_probability=np.array([0.9, 0.9, 0.3])
    )
    method = make_method("fedcote_like")
    state, kept = method.init(context), np.zeros(4)
    for round in range(500):
        w, after = method.aggregate(state, context.w0, arrived(range(4), round=round), None)
        heard = np.flatnonzero(w[:4].numpy())
        kept[heard] += 1
        expected = context.counts[heard] / context.counts[heard].sum()
        np.testing.assert_allclose(w[heard].numpy(), expected, rtol=1e-5)
        assert after.log["kept"] == len(heard) - 1
    r = np.append(1.0, state.memory["selection"])
    assert r[1:].max() - r[1:].min() > 0.2
    assert (np.abs(kept / 500 - r) <= 4 * np.sqrt(r * (1 - r) / 500)).all()


class Counting:
    """A server that counts its minibatches."""

    labels = torch.tensor([0, 1])

    def __init__(self):
        self.taken = 0

    def train(self, w, steps, classes=None):
        self.taken += steps
        return torch.zeros(P)

    def gradient(self, w, targets=None):
        self.taken += 1
        return torch.zeros(P)

    def logits(self, w):
        return torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(*w.shape[:-1], -1, -1)


@pytest.mark.parametrize(("name", "default"), [("fedlaw", 10), ("feddf", 10), ("feddu", 2)])
def test_the_budget_is_ours_or_the_papers_own(name, default):
    """FedDU's default are the E = 2 steps of everybody."""
    context = toy([10, 30, 30], [[0.5, 0.5], [1, 0], [0, 1]])
    for hyper, expected in (({}, default), ({"server_steps": METHODS[name].own_steps}, METHODS[name].own_steps)):
        server = Counting()
        outcome(make_method(name, **hyper), context, arrived([0, 1]), server)
        assert server.taken == expected


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("fedlaw", {"weight_lr": 0.0}),
        ("fedlaw", {"server_steps": -1}),
        ("feddf", {"distill_lr": float("nan")}),
        ("feddf", {"server_steps": 0}),
        ("feddu", {"scale": 0.0}),
        ("feddu", {"server_steps": -1}),
        ("feddu", {"decay": 1.1}),
        ("feddu", {"server_lr": -1.0}),
        ("data_sharing", {"public_share": 0.0}),
        ("data_sharing", {"server_lr": 0.0}),
        ("feddisco", {"a": -0.1}),
        ("feddisco", {"b": float("inf")}),
        ("label_matching", {"rho": 0.0}),
        ("fedcote_like", {"fraction": 1.5}),
    ],
)
def test_bad_hyper_parameters(name, hyper):
    ((field, value),) = hyper.items()
    with pytest.raises(InputError, match=f"{name}: {field} = {value}"):
        make_method(name, **hyper)
