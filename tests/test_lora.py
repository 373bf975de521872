"""The six ways of averaging LoRA: identities, a slow twin of the round loop, and every method with every averaging."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from lora_twin import ARRIVED, BATCH, LORA, ROUNDS, SCHEDULE, Twin, World, factor_log, product
from torch import Tensor
from torch.nn import functional

from fedauto_core import InputError
from fedauto_core.engine import AGGREGATIONS, aggregation, predict, simulate
from fedauto_core.engine import rounds as simulation
from fedauto_core.engine.averaging import Factor, OneSided, Residual, Stacked, Truncated
from fedauto_core.engine.lane import Lane
from fedauto_core.methods import METHODS, make_method
from fedauto_core.models import LoRA, adapt, build_model

EXACT = ("one_sided", "alternating", "residual", "stacked")
VIT_LORA = LoRA(2, 3, ("layer3.*",))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def close(got: Tensor, expected: Tensor, tolerance: float = 2e-6) -> None:
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


def uploads(cls: type[Factor], weights: int) -> tuple[Factor, Tensor, Tensor]:
    """Four adapted layers of a transformer, in float64: averaging, v [P] with no offset yet, moves of theta [K, P]."""
    rng = np.random.default_rng(5)
    base = build_model("vit", (1, 8, 8), 10)
    adapted = adapt(base, torch.from_numpy(rng.standard_normal(base.n_parameters)), VIT_LORA, offsets=cls.offsets)
    averaging = cls(adapted.model, VIT_LORA, adapted.layers, 0)
    theta = torch.from_numpy(rng.standard_normal((1, averaging.model.n_parameters)))
    deltas = torch.from_numpy(rng.standard_normal((weights, averaging.model.n_parameters)))
    for name in averaging.model.frozen:
        for vectors in (theta, deltas):
            averaging.model.unflatten(vectors)[name].zero_()
    if not cls.offsets:
        return averaging, theta[0], deltas
    start = {f"{layer}.offset": product(averaging, theta[0], layer)[None] for layer in averaging.layers}
    return averaging, averaging.model.flatten(averaging.model.unflatten(theta) | start)[0], deltas


@pytest.mark.parametrize("sigma", [1.0, 0.6, 1.7])
def test_the_offset_takes_what_averaging_the_factors_loses(sigma: float) -> None:
    """R = scale (sum beta dA dB - sum beta dA sum beta dB): the weighted covariance where the weights sum to one."""
    beta = sigma * np.array([0.5, 0.3, 0.2])
    averaging, v, deltas = uploads(Residual, 3)
    lifted = averaging.as_upload(averaging.local_start(v[None], 0).expand(3, -1), deltas)
    after = averaging.model.unflatten(averaging.local_start((v + torch.from_numpy(beta) @ lifted)[None], 1))
    moves, before, scale = averaging.model.unflatten(deltas), averaging.model.unflatten(v[None]), VIT_LORA.scale
    for layer in averaging.layers:
        a, b = before[f"{layer}.A"][0].numpy(), before[f"{layer}.B"][0].numpy()
        da, db = moves[f"{layer}.A"].numpy(), moves[f"{layer}.B"].numpy()
        mean_a, mean_b = np.tensordot(beta, da, 1), np.tensordot(beta, db, 1)
        exact = a @ b + sum(w * ((a + p) @ (b + q) - a @ b) for w, p, q in zip(beta, da, db, strict=True))
        lost = scale * (exact - (a + mean_a) @ (b + mean_b))
        formula = sum(w * p @ q for w, p, q in zip(beta, da, db, strict=True)) - mean_a @ mean_b
        got = after[f"{layer}.offset"][0].numpy()
        np.testing.assert_allclose(got, lost, atol=1e-12)
        np.testing.assert_allclose(got, scale * formula, atol=1e-12)
        if sigma == 1:
            covariance = sum(w * (p - mean_a) @ (q - mean_b) for w, p, q in zip(beta, da, db, strict=True))
            np.testing.assert_allclose(got, scale * covariance, atol=1e-12)
        assert np.linalg.matrix_rank(got, tol=1e-9) == (2 if sigma == 1 else 3) * VIT_LORA.rank


@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_the_log_is_the_lost_part_over_all_layers(sigma: float) -> None:
    beta = sigma * np.array([0.5, 0.3, 0.2])
    averaging, v, deltas = uploads(Factor, 3)
    expected = factor_log(averaging, v, beta, deltas)
    assert averaging.log(v, beta, deltas) == pytest.approx(expected, rel=1e-12) and 0.1 < expected["residual"] < 2
    assert averaging.log(v, np.ones(1), deltas[:1])["residual"] == pytest.approx(0, abs=1e-15)
    assert averaging.log(v, np.empty(0), deltas[:0]) == {"residual": 0.0, "residual_step": 0.0}


@pytest.mark.parametrize("method", ["fedavg", "known_probability"])
@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_every_averaging_equals_its_slow_twin(world: World, name: str, method: str) -> None:
    """Product, head and factors after every round, for weights that sum to one and for weights that do not."""
    averaging, lane = world.lane(name, make_method(method))
    twin = Twin(world, name)
    for r in range(ROUNDS):
        before = lane.w
        world.advance(lane, r)
        ids = [0, *(1 + np.flatnonzero(ARRIVED[r]))]
        beta = world.federation.counts[ids] / world.federation.counts[ids].sum()
        if method == "known_probability":  # p_j / q_j, with q = 1 for the server
            beta = world.federation.counts[ids] / world.federation.counts.sum() / np.where(np.array(ids) > 0, 0.5, 1)
            assert abs(beta.sum() - 1) > 0.05
        exact = twin.round(r, {j: twin.train(r, j) for j in ids}, beta)
        close(product(averaging, lane.w), twin.product)
        parts, old = averaging.model.unflatten(lane.w[None]), averaging.model.unflatten(before[None])
        for part in ("head.weight", "head.bias"):
            close(parts[part][0], twin.p[part])
        if name in ("factor", "one_sided", "alternating", "residual"):
            for part in ("hidden.A", "hidden.B"):
                close(parts[part][0], twin.p[part])
        for part in averaging.held(r):
            assert torch.equal(parts[part], old[part])
        if name in EXACT:
            close(product(averaging, lane.w), exact)
        logits = predict(averaging.model, averaging.readable(lane.w[None]), world.digits.x_test)[0]
        close(logits, twin.logits(world.digits.x_test), 2e-5)


def test_the_averagings_that_lose_something_are_told_apart_by_this_federation(world: World) -> None:
    """So that the twins above do not agree for lack of drift."""
    products = {}
    for name in ("factor", "residual", "truncated"):
        averaging, lane = world.lane(name, make_method("fedavg"))
        for r in range(ROUNDS):
            world.advance(lane, r)
        products[name] = product(averaging, lane.w)
    assert (products["factor"] - products["residual"]).abs().max() > 1e-3
    assert (products["truncated"] - products["residual"]).abs().max() > 1e-3


def test_truncation_keeps_the_best_approximation_of_the_exact_mean(world: World) -> None:
    averaging, lane = world.lane("truncated", make_method("fedavg"))
    exact, exact_lane = world.lane("residual", make_method("fedavg"))
    for runner in (lane, exact_lane):
        world.advance(runner, 0)
    u, s, vh = np.linalg.svd(product(exact, exact_lane.w).double().numpy())
    r = LORA.rank
    close(product(averaging, lane.w), torch.from_numpy((u[:, :r] * s[:r]) @ vh[:r]).float(), 1e-6)
    assert s[r] > 1e-3 * s[0]  # something is cut
    parts = averaging.model.unflatten(lane.w[None])
    close(parts["hidden.offset"][0], LORA.scale * parts["hidden.A"][0] @ parts["hidden.B"][0], 1e-6)
    norms = parts["hidden.A"][0].norm(dim=0), parts["hidden.B"][0].norm(dim=1)
    close(norms[0], norms[1], 1e-5)  # split evenly


@pytest.mark.parametrize("name", ["factor", "residual", "truncated", "stacked"])
def test_one_upload_is_taken_over_as_it_is(world: World, name: str) -> None:
    """With a single participant all agree; stacking trains from factors of its own."""
    alone = replace(world.federation, shards=world.federation.shards[:2])
    averaging, lane = world.lane(name, make_method("fedavg"), with_server=False, federation=alone)
    world.advance(lane, 0)
    twin = Twin(world, name)
    twin.round(0, {1: twin.train(0, 1)}, np.ones(1))
    expected = twin.product
    if name != "stacked":
        twin = Twin(world, "factor")
        end = twin.train(0, 1)
        expected = LORA.scale * end["hidden.A"] @ end["hidden.B"]
    close(product(averaging, lane.w), expected, 1e-6)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize(("name", "rounds"), [("residual", ROUNDS), ("truncated", 1)])
def test_averagings_coincide_where_all_participants_do_the_same(world: World, name: str, rounds: int) -> None:
    """Truncating does for a round: then it trains from another pair of factors of the same product."""
    same = replace(world.federation, shards=world.federation.shards[1:2] * 5)
    products = {}
    for other in ("factor", name):
        averaging, lane = world.lane(other, make_method("fedavg"), federation=same)
        for r in range(rounds):
            log = world.advance(lane, r, common=True)
        products[other] = product(averaging, lane.w)
        if other == "factor":
            assert log["residual"] < 1e-6
    close(products[name], products["factor"], 1e-6)


def test_exact_averagings_coincide_where_a_is_common_and_held(world: World) -> None:
    """Among them stacking and truncating, from the same A."""

    def holding_a(cls: type[Factor], **methods: object) -> type[Factor]:
        return type(f"Held{cls.__name__}", (cls,), {"held": OneSided.held, **methods})

    expected = None
    stacked = holding_a(Stacked, local_start=Residual.local_start)
    for cls in (OneSided, holding_a(Residual), stacked, holding_a(Truncated)):
        averaging, lane = world.lane(cls, make_method("known_probability"))
        world.advance(lane, 0)
        expected = product(averaging, lane.w) if expected is None else expected
        close(product(averaging, lane.w), expected, 1e-6)
    assert expected.abs().max() > 1e-3


@pytest.mark.parametrize("name", list(AGGREGATIONS))
def test_every_method_runs_with_every_averaging(world: World, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With failures, a round in which nobody is heard, with and without the server; nothing diverges."""
    lanes = []
    real = simulation.Lane
    monkeypatch.setattr(simulation, "Lane", lambda *args: lanes.append(real(*args)) or lanes[-1])
    averaging, runs = world.runs(name, [make_method(method) for method in METHODS])
    history = simulate(averaging, runs, replace(SCHEDULE, evaluate_every=1))
    assert not history.curves["diverged"].any() and np.isfinite(history.curves["loss"]).all()
    start = averaging.model.unflatten(runs[0].w0[None])
    for lane in lanes:
        parts = averaging.model.unflatten(lane.w[None])
        assert torch.isfinite(lane.w).all()
        if name == "one_sided":
            assert torch.equal(parts["hidden.A"], start["hidden.A"]), lane.run.label
        if name == "truncated":
            close(parts["hidden.offset"], LORA.scale * parts["hidden.A"] @ parts["hidden.B"], 1e-5)
    described = [(run.label, run.method.participation, run.with_server) for run in runs]
    rounds = history.rounds.join(pd.DataFrame(described, columns=["method", "participation", "with_server"]), on="run")
    averaged = (rounds["participation"] == "network") & ((rounds["arrived"] > 0) | rounds["with_server"])
    if name in ("stacked", "truncated"):
        assert "residual" not in rounds
        return
    # FedCote-like drops the uploads of those it did not select, and may be left with none.
    averaged &= ~((rounds["method"] == "fedcote_like") & rounds["kept"].isna())
    assert averaged.sum() > 100 and rounds.loc[averaged, "residual"].notna().all()
    if name in ("one_sided", "alternating"):
        assert (rounds.loc[averaged, "residual"] == 0).all()
    else:
        several = averaged & (rounds["arrived"] > 1) & (rounds["method"] != "fedcote_like")
        assert several.sum() > 50 and (rounds.loc[several, "residual"] > 1e-5).all()


@pytest.mark.parametrize("name", ["factor", "residual"])
def test_fedauto_counts_the_model_that_the_server_trained(world: World, name: str) -> None:
    """Compensation is one upload more: in the weights, in the mean, and in what is logged."""
    arrived = np.zeros_like(ARRIVED)
    arrived[0, 1] = True  # client 2 alone
    averaging, lane = world.lane(name, make_method("fedauto"), arrived=arrived, with_server=False)
    v = lane.w
    log = world.advance(lane, 0)
    beta = lane.state.weights
    assert beta.shape == (2,) and min(beta) > 0.05
    twin = Twin(world, name)
    ends = {2: twin.train(0, 2), "m": twin.compensate(0, [2])}
    exact = twin.round(0, ends, beta)
    close(product(averaging, lane.w), twin.product, 1e-6)
    if name == "residual":
        close(product(averaging, lane.w), exact, 1e-6)
    start = averaging.model.unflatten(v[None])
    theta = [averaging.model.flatten(start | {n: part[None] for n, part in end.items()})[0] for end in ends.values()]
    deltas = torch.stack(theta) - v
    assert log["residual"] == pytest.approx(factor_log(averaging, v, beta, deltas)["residual"], rel=1e-3)
    assert log["residual"] > 1e-4


def test_what_is_logged_of_the_average_is_not_changed_by_training_after_it(world: World) -> None:
    arrived = np.zeros_like(ARRIVED)
    arrived[0, 1] = True
    logs = []
    fedauto = make_method("fedauto")
    for method in (fedauto, make_method("server_finetuning", average=fedauto)):
        _, lane = world.lane("factor", method, arrived=arrived, with_server=False)
        logs.append(world.advance(lane, 0)["residual"])
    assert logs[0] == logs[1] > 0


def test_a_public_gradient_is_the_slope_along_the_product(world: World) -> None:
    """And zero along the factors, which stand for nothing where a rule reads a vector."""
    averaging, _ = world.averaging("residual", double=True)
    rng = np.random.default_rng(8)
    blocks = {n: torch.from_numpy(0.1 * rng.standard_normal(s))[None] for n, s in averaging.model.shapes.items()}
    v = averaging.model.flatten(blocks)[0]
    digits = replace(world.digits, x_train=world.digits.x_train.double())
    federation = replace(world.federation, dataset=digits)
    run = replace(world.lane("residual", make_method("fedavg"))[1].run, federation=federation, w0=v)
    server = Lane(averaging, run, SCHEDULE).server
    gradient = averaging.model.unflatten(server.gradient(v)[None])
    assert not gradient["hidden.A"].any() and not gradient["hidden.B"].any()
    draws = world.stream("server minibatches", 0, 0).random((1, BATCH))[0]
    rows = torch.from_numpy(federation.shards[0][(draws * len(federation.shards[0])).astype(np.int64)])
    base = {n: part[0].double() for n, part in world.base.unflatten(world.w0[None]).items()}

    def loss(dense: Tensor) -> float:
        hidden = digits.x_train[rows].flatten(1) @ (base["hidden.weight"] + dense) + base["hidden.bias"]
        logits = torch.relu(hidden) @ blocks["head.weight"][0] + blocks["head.bias"][0]
        return float(functional.cross_entropy(logits, digits.y_train[rows]))

    dense, eps = blocks["hidden.offset"][0], 1e-6
    for seed in range(3):
        direction = torch.from_numpy(np.random.default_rng(seed).standard_normal(dense.shape))
        slope = (loss(dense + eps * direction) - loss(dense - eps * direction)) / (2 * eps)
        assert float((gradient["hidden.offset"][0] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(
    ("name", "arrived", "expected"),
    [
        # 64 x 128 at rank 2: A has 128 numbers, B 256, the product 8,192; the head 128 * 10 + 10 = 1,290.
        ("factor", 3, (1674, 1674)),
        ("one_sided", 3, (1546, 1546)),
        ("alternating", 3, (1482, 1674)),
        ("residual", 3, (1674, 1674 + 3 * 384)),
        ("residual", 30, (1674, 1674 + 8192)),
        ("stacked", 3, (1674, 1290 + 3 * 384)),
        ("stacked", 30, (1674, 1290 + 8192)),
        ("truncated", 3, (1674, 1674)),
    ],
)
def test_traffic_by_hand(world: World, name: str, arrived: int, expected: tuple[int, int]) -> None:
    assert world.averaging(name)[0].traffic(arrived) == expected


def test_an_unknown_averaging_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown LoRA aggregation 'mean'.*alternating, factor, one_sided, residual"):
        aggregation("mean")
