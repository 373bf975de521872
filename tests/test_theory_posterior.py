"""The bound after the fact: it holds in every round of real runs, its parts are the step, its curvature is attained."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from fedauto_core import InputError, theory
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule, simulate
from fedauto_core.engine.lane import Lane
from fedauto_core.methods import fedauto, make_method
from fedauto_core.models import build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream
from fedauto_core.theory import PARTS, posterior

DIGITS = load_dataset("digits")
NETWORK = build_model("softmax", tuple(DIGITS.x_train.shape[1:]), DIGITS.n_classes)
FEDERATION = build_federation(DIGITS, FederationSpec(5, 60, 40, "classes", classes_per_client=2), 0)
HEAD = theory.Head.of(FEDERATION)
START = NETWORK.init(stream(0, "initial model"))
E, B, ROUNDS = 3, 10, 6
METHODS = ("fedavg", "fedauto", "mifa", "server_finetuning", "fedadam")


@pytest.fixture(scope="module", params=[0.1, 3.0], ids=["gentle", "wild"])
def runs(request):
    """Visits of every method in F10, at a step that trains and at one far beyond any limit."""
    trace = draw_trace(scenario("F10", ROUNDS), rounds=ROUNDS, histograms=FEDERATION.alpha[1:], seed=0)
    visits = {name: [] for name in METHODS}
    asked = {name: theory.recorded(make_method(name), visits[name]) for name in METHODS}
    made = {name: Run(name, it, FEDERATION, trace, START, 0, request.param, True) for name, it in asked.items()}
    simulate(Averaging(NETWORK), list(made.values()), Schedule(ROUNDS, E, B, evaluate_every=ROUNDS))
    return made, visits


def batches(run, visit):
    lane = Lane(Averaging(NETWORK), run, Schedule(ROUNDS, E, B))
    drawn = lane.batches(visit.ids, stream(0, "minibatches", visit.round).random((6, E, B)))
    if len(visit.weights) == len(visit.ids):
        return drawn
    n_m = fedauto.compensation(
        FEDERATION.alpha[visit.ids[visit.ids > 0]], FEDERATION.target, FEDERATION.class_counts[0]
    )
    public = FEDERATION.shards[0]
    pool = public[np.isin(DIGITS.y_train[public].numpy(), np.flatnonzero(n_m))]
    own = stream(0, "server minibatches", visit.round, 0).random((E, B))
    return np.concatenate([drawn, pool[(own * len(pool)).astype(int)][None]])


def test_every_round_of_every_method_lies_inside_its_bound(runs):
    _, visits = runs
    for name in METHODS:
        assert len(visits[name]) == ROUNDS
        for visit in visits[name]:
            told = theory.certificate(HEAD, visit, E)
            assert told["bound"] >= told["measured"] * (1 - 1e-9) > 0
            values = HEAD.values(np.stack([visit.w.double().numpy(), visit.after.double().numpy()]))
            np.testing.assert_allclose([told["F"], told["F_after"]], values, rtol=1e-12)


def test_the_parts_are_the_step_and_sum_to_the_whole(runs):
    made, visits = runs
    too_wild = 0
    for name in METHODS:
        for visit in visits[name]:
            try:
                told = theory.explained(HEAD, visit, batches(made[name], visit))
            except ArithmeticError:  # a move so far that no mean gradient along it is found, which is said
                too_wild += 1
                continue
            assert told["whole"] == pytest.approx(told["gradient"] - sum(told[part] for part in PARTS), abs=1e-6)
            if name in ("fedavg", "fedauto"):  # nothing but an average, of these very local steps
                assert told["|other|^2"] < 1e-9 * (1 + told["|gradient|^2"])
                assert told["|labels|^2"] <= told["kappa2"] * told["chi2"] * (1 + 1e-9)
    assert too_wild <= (made["fedavg"].lr > 1) * len(METHODS) * ROUNDS / 4
    tuned = visits["server_finetuning"][0]
    assert theory.explained(HEAD, tuned, batches(made["server_finetuning"], tuned))["|other|^2"] > 1e-6


def test_wrong_minibatches_show(runs):
    made, visits = runs
    visit = visits["fedavg"][0]
    assert theory.explained(HEAD, visit, batches(made["fedavg"], visit)[:, ::-1])["|other|^2"] > 1e-6


def test_gradients_are_those_of_the_network():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(2, START.numel()))
    everyone = np.concatenate(FEDERATION.shards)
    for point, slope, value in zip(points, HEAD.slopes(slice(None), points), HEAD.values(points), strict=True):
        w = torch.tensor(point, requires_grad=True)
        logits = NETWORK.forward(NETWORK.unflatten(w[None]), DIGITS.x_train[everyone][None].double())[0]
        loss = torch.nn.functional.cross_entropy(logits, DIGITS.y_train[everyone])
        np.testing.assert_allclose(slope, torch.autograd.grad(loss, w)[0].numpy(), rtol=1e-9, atol=1e-12)
        assert value == pytest.approx(loss.item(), rel=1e-12)
    chances = softmax(HEAD.logits(HEAD.x, points[:1])[:, 0], axis=1)
    pooled = HEAD.cell_slopes(chances).sum(axis=(0, 1)) / len(everyone)
    np.testing.assert_allclose(pooled, HEAD.slopes(slice(None), points[:1])[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 10.0, 100.0])
def test_the_curvature_on_the_way_is_bounded_and_nearly_attained_by_short_steps(size):
    rng = np.random.default_rng(0)
    chances, moves = rng.dirichlet(np.full(4, 0.5), 2000), size * rng.normal(size=(2000, 4))
    top = moves.max(axis=1, keepdims=True)
    exact = np.log(np.sum(chances * np.exp(moves - top), axis=1)) + top[:, 0] - np.sum(chances * moves, axis=1)
    bounds = np.array([theory.remainder_bound(p[None], z[None]) for p, z in zip(chances, moves, strict=True)])
    assert (exact <= bounds * (1 + 1e-7) + 1e-15).all()
    assert size > 0.1 or np.median(exact / bounds) > 0.9
    variance = np.sum(chances * (moves - np.sum(chances * moves, axis=1, keepdims=True)) ** 2, axis=1)
    assert size < 0.1 or (exact > variance / 2).any()  # the curvature at w alone is no bound


def test_a_move_so_long_that_exp_overflows_is_bounded_all_the_same():
    chances, moves = np.array([[1 - 1e-25, 1e-25]]), np.array([[0.0, 70.0]])
    exact = np.log(chances[0] @ np.exp(moves[0])) - chances[0] @ moves[0]
    assert exact > 10 and exact <= theory.remainder_bound(chances, moves)


def test_smoothness_is_certified_for_all_that_are_averaged():
    point, rng = START.double().numpy(), np.random.default_rng(1)
    for rows in (slice(None), HEAD.rows(0), HEAD.rows(3), slice(0, HEAD.cells[1])):
        for length in (1e-3, 1.0):
            move = length * rng.normal(size=len(point))
            first, second = HEAD.slopes(rows, np.stack([point, point + move]))
            assert np.linalg.norm(second - first) <= HEAD.smoothness() * np.linalg.norm(move)


def test_what_cannot_be_taken_apart_is_refused(runs):
    made, visits = runs
    visit = visits["fedavg"][0]
    with pytest.raises(InputError, match="a round without weights"):
        theory.explained(HEAD, replace(visit, weights=None), batches(made["fedavg"], visit))
    shared = replace(FEDERATION, shards=(*FEDERATION.shards[:-1], FEDERATION.shards[0]))
    with pytest.raises(InputError, match="shards that overlap"):
        posterior.Head.of(shared)


@pytest.mark.parametrize("step", theory.POSTERIOR_PROOFS)
def test_every_step_is_certified(step):
    assert theory.POSTERIOR_PROOFS[step]().holds
