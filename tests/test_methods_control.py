"""Corrected local objectives, normalised steps and server optimisers: invariants, fixed points on quadratics, by hand.

Participant k minimises F_k(w) = a_k / 2 (w - u_k)^2 by full gradient steps: every fixed point has a closed form.
"""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import torch
from reference import Reference
from test_methods import ROUNDS, SEED, SPEC, advance, lane

from fedauto_core import InputError
from fedauto_core.data import build_federation, load_dataset
from fedauto_core.engine import Schedule
from fedauto_core.methods import Arrivals, Context, make_method
from fedauto_core.models import build_model
from fedauto_core.seeding import stream

NAMES = ("scaffold", "feddyn", "fednova", "fedavgm", "fedadam", "fedyogi")
COUNTS = np.array([20, 10, 30, 40, 15, 25])  # N = 5 clients and the server
EQUAL = np.full(6, 10)
HEARD = np.random.default_rng(2).random((60, 5)) < [0.3, 0.5, 0.5, 0.7, 0.9]
A = torch.tensor([[0.5], [0.2], [1.0], [0.4], [2.0], [0.7]])
U = torch.tensor([[1.0], [-3.0], [0.0], [5.0], [2.0], [-1.0]])
modes = pytest.mark.parametrize("with_server", [True, False], ids=["server", "client-only"])


def context(lr=0.1, with_server=True, counts=COUNTS, n_parameters=1):
    n = len(counts)
    return Context(counts, np.eye(n), np.full(n, 1 / n), 1, lr, with_server, torch.zeros(n_parameters))


def participants(heard, with_server):
    clients = 1 + np.flatnonzero(heard)
    return np.concatenate([[0], clients]) if with_server else clients


def descend(method, heard, steps, lr=0.1, with_server=True, a=A, counts=EQUAL):
    """w after the rounds of `heard` [T, N]; participant k takes steps[k] local steps."""
    state = method.init(context(lr, with_server, counts=counts))
    w = state.context.w0
    for r, row in enumerate(heard):
        ids = participants(row, with_server)
        work = method.local_work(state, w, ids)
        linear = torch.zeros_like(work.start) if work.linear is None else work.linear
        y = work.start.clone()
        for step in range(max(steps)):
            gradient = a[ids] * (y - U[ids]) + linear + work.prox * (y - w)
            y = torch.where(torch.from_numpy(step < steps[ids])[:, None], y - lr * gradient, y)
        w, state = method.aggregate(state, w, Arrivals(r, ids, y - work.start, steps[ids], lr), None)
    return w, state


def mean_of_optima(weights, who):
    """sum_k weights_k u_k / sum_k weights_k: where sum_k weights_k (w - u_k) vanishes."""
    return float((weights[who] * U[who]).sum() / weights[who].sum())


def random_rounds(method, with_server, rounds=30):
    """States and models after each round of random updates, ids and steps; some rounds are empty."""
    rng = np.random.default_rng(5)
    state = method.init(context(with_server=with_server, n_parameters=7))
    w = state.context.w0
    for r in range(rounds):
        ids = participants(HEARD[r] & (r % 7 != 3), with_server)
        deltas = torch.from_numpy(rng.normal(size=(len(ids), 7))).float()
        before, kept = state, {name: value.clone() for name, value in state.memory.items()}
        w, state = method.aggregate(state, w, Arrivals(r, ids, deltas, rng.integers(1, 6, len(ids)), 0.1), None)
        assert all(torch.equal(kept[name], value) for name, value in before.memory.items())  # states are immutable
        yield ids, before, state


@modes
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(("name", "shared", "own"), [("scaffold", "c", "c_own"), ("feddyn", "h", "g")])
def test_the_servers_memory_is_the_mean_of_everyones(name, shared, own, uniform, with_server):
    """c = sum p_k c_k (and h = sum p_k g_k) after every round, lost uploads included; only those heard change theirs.
    p_k = n_k / n, or one over their number."""
    everyone = np.arange(0 if with_server else 1, 6)
    p = np.full(len(everyone), 1 / len(everyone)) if uniform else COUNTS[everyone] / COUNTS[everyone].sum()
    for ids, before, state in random_rounds(make_method(name, uniform=uniform), with_server):
        mean = torch.from_numpy(p).float() @ state.memory[own][everyone]
        torch.testing.assert_close(state.memory[shared], mean, atol=1e-5, rtol=0)
        lost = np.setdiff1d(np.arange(6), ids)
        assert torch.equal(state.memory[own][lost], before.memory[own][lost])
        assert (state.memory[own][ids] != before.memory[own][ids]).any(dim=1).all()


@modes
@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi"])
def test_an_empty_round_leaves_momentum_alone(name, with_server):
    for ids, before, state in random_rounds(make_method(name), with_server):
        same = [torch.equal(before.memory[key], value) for key, value in state.memory.items()]
        assert not any(same) if len(ids) else all(same)


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_what_the_cost_says(name):
    method = make_method(name)
    held = sum(value.numel() for value in method.init(context(n_parameters=7)).memory.values())
    said = (eval(getattr(method.cost, where), {"N": 5, "P": 7, "C": 6}) for where in ("server", "clients"))
    assert held == sum(said)


@modes
@pytest.mark.parametrize("heard", [np.ones_like(HEARD), HEARD], ids=["always", "failures"])
@pytest.mark.parametrize("method", [make_method("scaffold"), make_method("feddyn", alpha=1.0)], ids=repr)
def test_corrections_find_the_true_optimum(method, heard, with_server):
    """The gradient of sum_k F_k vanishes at weights a_k, whoever is heard how often; sum_k n_k F_k: n_k a_k."""
    who = slice(0 if with_server else 1, None)
    held = torch.from_numpy(COUNTS)[:, None]
    uniform = replace(method, uniform=True)
    for rule, counts, weights in ((method, EQUAL, A), (method, COUNTS, held * A), (uniform, COUNTS, A)):
        w, _ = descend(rule, heard, np.full(6, 10), with_server=with_server, counts=counts)
        assert float(w) == pytest.approx(mean_of_optima(weights, who), abs=2e-5)
    assert abs(mean_of_optima(held * A, who) - mean_of_optima(A, who)) > 0.02


@modes
@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_corrections_find_it_whatever_the_average(name, with_server):
    """The weights of the step decide how fast, those of the memory where to: under label matching too, whose weights
    are not n_k / n_A. Curvatures and counts differ."""
    who = slice(0 if with_server else 1, None)
    average = make_method("label_matching", rho=0.01)
    method = make_method(name, average=average, **({"alpha": 1.0} if name == "feddyn" else {}))
    w, state = descend(method, HEARD.repeat(5, axis=0), np.full(6, 10), with_server=with_server, counts=COUNTS)
    held = torch.from_numpy(COUNTS)[:, None]
    assert float(w) == pytest.approx(mean_of_optima(held * A, who), abs=1e-4)
    ids = participants(HEARD[-1], with_server)
    assert np.abs(state.weights - COUNTS[ids] / COUNTS[ids].sum()).max() > 0.05


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_uniform_means_equal_their_slow_twin(world, name):
    federation, model, w0 = world
    runner = lane(world, make_method(name, uniform=True))
    slow, w = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, True, 2, 8), w0
    for r in range(ROUNDS):
        w = getattr(slow, name)(r, w, uniform=True)
    torch.testing.assert_close(advance(world, runner), w, atol=1e-5, rtol=0)
    assert not torch.allclose(w, advance(world, lane(world, make_method(name))), atol=1e-3)


@modes
def test_fedavg_with_many_local_steps_does_not(with_server):
    """E steps of size g leave w_k - u_k = (1 - g a_k)^E (w - u_k): FedAvg stops at weights 1 - (1 - g a_k)^E."""
    who = slice(0 if with_server else 1, None)
    w, _ = descend(make_method("fedavg"), np.ones_like(HEARD), np.full(6, 10), with_server=with_server)
    assert float(w) == pytest.approx(mean_of_optima(1 - (1 - 0.1 * A) ** 10, who), abs=1e-5)
    assert abs(float(w) - mean_of_optima(A, who)) > 0.1


def test_unequal_work_shifts_fedavg_but_not_fednova():
    """Weights at the fixed point: s_k = 1 - (1 - g)^tau_k for FedAvg, s_k / tau_k -> g for FedNova as g -> 0.

    All curvatures are 1, so that tau_k alone is to blame: FedAvg tends to weights tau_k, FedNova to equal ones.
    """
    tau, everyone, ones = np.array([1, 1, 2, 10, 8, 1]), slice(None), torch.ones(6, 1)
    per_step = torch.from_numpy(tau).float()[:, None]
    errors = {}
    for lr, rounds in ((0.1, 50), (0.01, 300)):
        done = 1 - (1 - lr) ** per_step
        for name, weights in (("fedavg", done), ("fednova", done / per_step)):
            w, _ = descend(make_method(name), np.ones((rounds, 5), dtype=bool), tau, lr, a=ones)
            assert float(w) == pytest.approx(mean_of_optima(weights, everyone), abs=1e-4)
            errors[name, lr] = abs(float(w) - mean_of_optima(ones, everyone))
    assert errors["fednova", 0.01] < errors["fednova", 0.1] / 8 and errors["fednova", 0.01] < 0.1
    assert errors["fedavg", 0.01] > 1


def test_scaffold_starts_as_fedavg_and_remembers_mean_gradients():
    first = HEARD[:1]
    steps = np.full(6, 3)
    w, state = descend(make_method("scaffold"), first, steps)
    assert torch.equal(w, descend(make_method("fedavg"), first, steps)[0])
    # From w = 0 three steps of size 0.1 visit 0, y_1, y_2 with y <- y - 0.1 a (y - u): mean gradient a (mean y - u).
    y1 = 0.1 * A * U
    y2 = y1 - 0.1 * A * (y1 - U)
    ids = participants(first[0], True)
    torch.testing.assert_close(state.memory["c_own"][ids], (A * ((y1 + y2) / 3 - U))[ids])


def test_control_variates_are_gradients_whatever_the_step_size():
    """Updates -tau gamma_r g_k with gamma_r a tenth of gamma_1 leave c_k = g_k and c their mean, by samples."""
    gradients = torch.from_numpy(np.random.default_rng(3).normal(size=(6, 7))).float()
    state = make_method("scaffold").init(context(n_parameters=7))
    weights = torch.from_numpy(state.context.counts / state.context.counts.sum()).float()
    steps, ids = np.array([1, 2, 3, 4, 5, 6]), np.arange(6)
    deltas = -0.01 * torch.from_numpy(steps)[:, None] * gradients
    _, state = make_method("scaffold").aggregate(state, torch.zeros(7), Arrivals(0, ids, deltas, steps, 0.01), None)
    torch.testing.assert_close(state.memory["c_own"], gradients)
    torch.testing.assert_close(state.memory["c"], weights @ gradients)


def two_rounds(method, updates=((1.0, 0.0), (0.5, 2.0)), rates=(1.0, 1.0)):
    """w after the mean updates given, each sent by client 3 alone, at these fractions of the first step size."""
    state = method.init(context(n_parameters=2))
    w = state.context.w0
    for r, (update, rate) in enumerate(zip(updates, rates, strict=True)):
        arrivals = Arrivals(r, np.array([3]), torch.tensor([update]), np.ones(1), rate * state.context.lr)
        w, state = method.aggregate(state, w, arrivals, None)
    return w.tolist()


def test_momentum_falls_with_the_step_size():
    """The same gradient in every round: m and v as at a constant step size, and steps in proportion to it."""
    for name in ("fedavgm", "fedadam", "fedyogi"):
        constant, falling = (
            two_rounds(make_method(name), ((1.0, 2.0), (f * 1.0, f * 2.0)), (1.0, f)) for f in (1.0, 0.5)
        )
        first = np.array(two_rounds(make_method(name), ((1.0, 2.0),), (1.0,)))
        np.testing.assert_allclose(falling - first, 0.5 * (constant - first), rtol=1e-5)


def test_fedavgm_by_hand():
    """m = (1, 0), then 0.9 (1, 0) + (0.5, 2) = (1.4, 2); w = 0.5 (2.4, 2)."""
    assert two_rounds(make_method("fedavgm", server_lr=0.5)) == pytest.approx([1.2, 1.0])


@pytest.mark.parametrize(
    ("name", "v1", "v2"),
    [
        # 3/4 v + 1/4 D^2 from v = 1/4 with D^2 = (1, 0), then (1/4, 4)
        ("fedadam", (0.4375, 0.1875), (0.390625, 1.140625)),
        # v - 1/4 D^2 sign(v - D^2): up, still; down, up
        ("fedyogi", (0.5, 0.25), (0.4375, 1.25)),
    ],
)
def test_adaptive_rules_by_hand(name, v1, v2):
    """m = 1/2 D = (1/2, 0), then 1/2 m + 1/2 D = (1/2, 1); no bias correction; v starts at tau^2 = 1/4."""
    method = make_method(name, server_lr=2.0, beta1=0.5, beta2=0.75, tau=0.5)
    expected = [
        2 * (first / (sqrt(a) + 0.5) + second / (sqrt(b) + 0.5))
        for first, second, a, b in zip((0.5, 0.0), (0.5, 1.0), v1, v2, strict=True)
    ]
    assert two_rounds(method) == pytest.approx(expected)


@pytest.fixture(scope="module")
def world():
    federation = build_federation(load_dataset("digits"), SPEC, SEED)
    model = build_model("mlp", (1, 8, 8), 10)
    return federation, model, model.init(stream(SEED, "initial model"))


@modes
@pytest.mark.parametrize("name", ["fednova", "scaffold", "fedavg"])
def test_twins_agree_when_work_is_cut_short(world, name, with_server):
    federation, model, w0 = world
    schedule = Schedule(rounds=ROUNDS, steps=2, batch=8, least_steps=1)
    runner = lane(world, make_method(name), with_server=with_server)
    slow = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, with_server, 2, 8, least_steps=1)
    w = advance(world, runner, schedule=schedule)
    torch.testing.assert_close(w, slow.final(name, ROUNDS), atol=1e-5, rtol=0)
    assert not torch.allclose(w, advance(world, lane(world, make_method(name), with_server=with_server)), atol=1e-3)


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_linear_terms_do_not_depend_on_the_others(world, name):
    runner = lane(world, make_method(name))
    advance(world, runner, rounds=3)
    everyone = runner.run.method.local_work(runner.state, runner.w, np.arange(7))
    some = runner.run.method.local_work(runner.state, runner.w, np.array([2, 5]))
    assert torch.equal(everyone.linear[[2, 5]], some.linear) and bool(some.linear.any())


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("scaffold", {"server_lr": 0.0}, "scaffold: server_lr = 0.0"),
        ("scaffold", {"uniform": 1}, "scaffold: uniform = 1"),
        ("feddyn", {"alpha": 0.0}, "feddyn: alpha = 0.0"),
        ("feddyn", {"uniform": None}, "feddyn: uniform = None"),
        ("fednova", {"server_lr": -1.0}, "fednova: server_lr = -1.0"),
        ("fedavgm", {"server_lr": np.inf}, "fedavgm: server_lr = inf"),
        ("fedavgm", {"momentum": 1.0}, r"fedavgm: momentum = 1.0.*\[0, 1\)"),
        ("fedadam", {"server_lr": 0.0}, "fedadam: server_lr = 0.0"),
        ("fedadam", {"beta1": np.nan}, "fedadam: beta1 = nan"),
        ("fedadam", {"beta2": -0.1}, "fedadam: beta2 = -0.1"),
        ("fedyogi", {"tau": 0.0}, "fedyogi: tau = 0.0"),
    ],
)
def test_bad_hyper_parameters_name_the_method_and_the_field(name, hyper, message):
    with pytest.raises(InputError, match=message):
        make_method(name, **hyper)
