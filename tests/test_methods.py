"""Every method: against the slow twin, degenerate identities, zero and one arrival, and what it may know."""

from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference, weights_by_slsqp

from fedauto_core import InputError, fedauto_weights
from fedauto_core.data import FederationSpec, build_federation, load_dataset
from fedauto_core.engine import Averaging, Run, Schedule
from fedauto_core.engine.lane import Lane
from fedauto_core.engine.rounds import Task, uploads
from fedauto_core.methods import METHODS, Arrivals, Context, fedauto_on, make_method, method_card
from fedauto_core.methods.base import Contest, Method
from fedauto_core.methods.composition import HOSTS
from fedauto_core.models import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

ROUNDS, SEED = 10, 3
SCHEDULE = Schedule(rounds=ROUNDS, steps=2, batch=8)
SPEC = FederationSpec(n_clients=6, samples_per_client=60, server_samples=40, partition="classes", classes_per_client=2)
HALF = Scenario("half", "bernoulli", (("probability", 0.5),))
ALWAYS = Scenario("none", "none", ())


@pytest.fixture(scope="module")
def world():
    federation = build_federation(load_dataset("digits"), SPEC, SEED)
    model = build_model("mlp", (1, 8, 8), 10)
    return federation, model, model.init(stream(SEED, "initial model"))


def lane(world, method, scenario=HALF, with_server=True, seed=SEED, schedule=SCHEDULE):
    federation, model, w0 = world
    trace = draw_trace(scenario, rounds=ROUNDS, histograms=federation.alpha[1:], seed=seed)
    run = Run(method.name, method, federation, trace, w0, SEED, 0.1, with_server)
    return Lane(Averaging(model), run, schedule)


def advance(world, runner, rounds=ROUNDS, schedule=SCHEDULE):
    """The fast path, round by round; returns w after the last round."""
    federation, model, _ = world
    for r in range(rounds):
        draws = {SEED: stream(SEED, "minibatches", r).random((federation.n_clients + 2, 2, 8))}
        ids = runner.heard(r)
        task = Task(runner, ids, runner.steps(schedule, r, ids))
        runner.step(uploads(Averaging(model), r, [task], draws)[0])
    return runner.w


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize(
    "method", [*map(make_method, METHODS), *map(fedauto_on, HOSTS)], ids=lambda method: method.name
)
def test_fast_path_equals_the_slow_twin(world, method, with_server):
    runner = lane(world, method, with_server=with_server)
    federation, model, w0 = world
    slow = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, with_server, 2, 8).final(method.name, ROUNDS)
    torch.testing.assert_close(advance(world, runner), slow, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", list(METHODS))
def test_so_it_does_while_the_step_size_falls(world, name):
    federation, model, w0 = world
    schedule = replace(SCHEDULE, decay=0.6)
    lrs = [0.1 * schedule.rate(r) for r in range(ROUNDS)]
    runner = lane(world, make_method(name), schedule=schedule)
    slow = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, True, 2, 8, lrs=lrs).final(name, ROUNDS)
    w = advance(world, runner)
    torch.testing.assert_close(w, slow, atol=1e-5, rtol=0)
    assert not torch.allclose(w, advance(world, lane(world, make_method(name))), atol=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        make_method("fedavg_all"),
        make_method("known_probability"),
        make_method("known_probability", normalise="self"),
        make_method("tf_aggregation_like"),
        make_method("fedavg_ideal"),
        make_method("fedprox", mu=0.0),
        make_method("fednova"),
        make_method("fedavgm", momentum=0.0),
        make_method("fedauto", adaptive=False, compensation="none"),
        make_method("fedauto", lam=1e9),
        *map(make_method, ("fedau", "mifa", "fedvarp", "f3ast", "fl_fdms")),
        make_method("feddu"),
        make_method("fedlaw", server_steps=0),
        make_method("feddisco", a=0.0, b=0.0),
        make_method("label_matching", rho=1e9),
        make_method("fedcote_like", fraction=1.0),
        make_method("fedstale"),
        make_method("fedstale", rates="equal"),
        make_method("fedar_like"),
        make_method("fedavg_amplified", amplification=1.0),
    ],
    ids=repr,
)
def test_without_failures_it_is_fedavg(world, method):
    expected = advance(world, lane(world, make_method("fedavg"), ALWAYS))
    torch.testing.assert_close(advance(world, lane(world, method, ALWAYS)), expected, atol=1e-6, rtol=0)


def test_fedawe_without_failures_is_the_uniform_average(world):
    federation, model, w0 = world
    runner = lane(world, make_method("fedawe", clip_norm=None), ALWAYS)
    reference = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, True, 2, 8)
    w = w0
    for r in range(ROUNDS):
        w = sum(reference.train(r, j, w) for j in range(7)) / 7
    torch.testing.assert_close(advance(world, runner), w, atol=1e-5, rtol=0)


@pytest.mark.parametrize("with_server", [True, False])
@pytest.mark.parametrize("arrivals", [[], [4]])
@pytest.mark.parametrize("name", list(METHODS))
def test_zero_and_one_arrival_are_finite(world, name, arrivals, with_server):
    runner = lane(world, make_method(name), with_server=with_server)
    runner.run.trace.arrived[:] = False
    runner.run.trace.arrived[:, [k - 1 for k in arrivals]] = True
    w = advance(world, runner, rounds=2)
    assert torch.isfinite(w).all() and not runner.diverged
    silent = not arrivals and not with_server and runner.run.method.participation == "network"
    # The servers of these work on public data all the same.
    if silent and name not in ("fedauto", "fedauto_memory", "server_finetuning", "feddu"):
        assert torch.equal(w, world[2])


@pytest.mark.parametrize("name", list(METHODS))
def test_work_of_one_participant_does_not_depend_on_the_others(world, name):
    """So training only the updates that arrive is exact."""
    runner = lane(world, make_method(name))
    advance(world, runner, rounds=3)
    everyone = runner.run.method.local_work(runner.state, runner.w, np.arange(7))
    some = runner.run.method.local_work(runner.state, runner.w, np.array([2, 5]))
    assert torch.equal(everyone.start[[2, 5]], some.start) and everyone.prox == some.prox
    assert (everyone.linear is None) == (some.linear is None)
    assert some.linear is None or torch.equal(everyone.linear[[2, 5]], some.linear)


@pytest.mark.parametrize("with_server", [True, False])
def test_fedawe_is_judged_by_the_mean_of_all_models(world, with_server):
    federation, model, w0 = world
    runner = lane(world, make_method("fedawe"), with_server=with_server)
    broadcast = advance(world, runner)
    slow = Reference(model, federation, runner.run.trace, w0, SEED, 0.1, with_server, 2, 8)
    slow.final("fedawe", ROUNDS)
    torch.testing.assert_close(runner.judged(), slow.mean_of_all(), atol=1e-5, rtol=0)
    assert float((runner.judged() - broadcast).norm()) > 0.01
    assert make_method("fedawe", judge="broadcast").judged(runner.state, broadcast) is broadcast


def test_every_other_method_is_judged_by_the_model_it_broadcasts(world):
    for name in METHODS:
        runner = lane(world, make_method(name))
        advance(world, runner, rounds=2)
        assert (runner.judged() is runner.w) == (name not in ("fedawe", "fedpbc_like"))


def test_the_clip_is_relative_to_the_updates():
    """One client returns after 20 rounds: its echo is 20 lengths of its update, whatever that length is."""
    context = Context(np.array([1, 1]), np.eye(2), np.full(2, 0.5), 1, 0.1, False, torch.zeros(4))
    for clip, moved in ((None, 20.0), (5.0, 5.0), (50.0, 20.0)):
        for length in (1e-3, 10.0):
            method = make_method("fedawe", clip_norm=clip)
            arrivals = Arrivals(19, np.array([1]), torch.tensor([[length, 0, 0, 0]]), np.ones(1), 0.1)
            w, _ = method.aggregate(method.init(context), context.w0, arrivals, None)
            assert float(w[0]) == pytest.approx(moved * length)


def test_echo_factors_sum_to_the_rounds_passed(world):
    """Xiang et al. 2024, Proposition 1: the echoes of a client up to its last arrival in round R - 1 add up to R."""
    runner = lane(world, make_method("fedawe"))
    echoes = np.zeros(7)
    for r in range(ROUNDS):
        ids = runner.heard(r)
        echoes[ids] += r - runner.state.memory["tau"][ids]
        runner.step(Arrivals(r, ids, torch.zeros(len(ids), len(runner.w)), runner.steps(SCHEDULE, r, ids), 0.1))
    tau = runner.state.memory["tau"]
    assert (tau >= 0).any() and np.array_equal(echoes, tau + 1)


def test_fedawe_commits_only_what_arrived(world):
    runner = lane(world, make_method("fedawe"))
    runner.run.trace.arrived[:] = False
    runner.run.trace.arrived[:, 1] = True
    advance(world, runner, rounds=3)
    assert torch.equal(runner.state.memory["x"][1], world[2]) and runner.state.memory["tau"][1] == -1
    assert runner.state.memory["tau"][2] == 2


def test_only_oracles_receive_network_knowledge(world):
    for name in METHODS:
        context = lane(world, make_method(name)).state.context
        told = (context.success_probability, context.long_run_probability, context.marginal_probability)
        assert [part is not None for part in told] == [METHODS[name].needs_network_knowledge] * 3


@pytest.mark.parametrize("name", list(METHODS))
def test_only_oracles_notice_wrong_probabilities(world, name):
    """Claim C5: the same arrivals, told with other probabilities, give every other method the same bits."""
    told = lane(world, make_method(name)).run
    wrong = replace(
        told.trace,
        success_probability=np.full_like(told.trace.success_probability, 0.123),
        long_run_probability=np.full_like(told.trace.long_run_probability, 0.321),
        marginal_probability=np.full_like(told.trace.marginal_probability, 0.213),
    )
    runners = [Lane(Averaging(world[1]), replace(told, trace=trace), SCHEDULE) for trace in (told.trace, wrong)]
    same = torch.equal(*(advance(world, runner) for runner in runners))
    assert same != METHODS[name].needs_network_knowledge


shares = st.just(0.0) | st.floats(0.01, 1.0)
simplex_rows = st.integers(2, 8).flatmap(
    lambda c: st.tuples(
        st.lists(st.lists(shares, min_size=c, max_size=c).filter(any), min_size=1, max_size=9),
        st.lists(shares, min_size=c, max_size=c).filter(any),
    )
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(simplex_rows, st.floats(1e-4, 10.0), st.integers(0, 2**32 - 1))
def test_weights_are_a_minimiser_on_the_simplex(rows, lam, seed):
    alpha = np.array([np.array(v) / sum(v) for v in rows[0]])
    target = np.array(rows[1]) / sum(rows[1])
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 1000, len(alpha))
    held = target > 0

    def objective(beta):
        return np.sum((beta @ alpha - target)[held] ** 2 / target[held]) + lam * np.sum(beta**2 * counts.sum() / counts)

    beta = fedauto_weights(alpha, counts, target, lam)
    assert beta.min() >= 0 and abs(beta.sum() - 1) < 1e-12
    for other in rng.dirichlet(np.ones(len(alpha)), 50):
        assert objective(beta) <= objective(other) * (1 + 1e-9)
    permutation = rng.permutation(len(alpha))
    np.testing.assert_allclose(
        fedauto_weights(alpha[permutation], counts[permutation], target, lam), beta[permutation], atol=1e-7
    )
    np.testing.assert_allclose(fedauto_weights(alpha, 7 * counts, target, lam), beta, atol=1e-7)


def test_weights_by_hand():
    """Two participants with one class each, target 1/2: equal counts give 1/2; lambda -> infinity gives n_j / n_A."""
    alpha, target = np.eye(2), np.array([0.5, 0.5])
    np.testing.assert_allclose(fedauto_weights(alpha, [10, 10], target, 0.1), [0.5, 0.5])
    np.testing.assert_allclose(fedauto_weights(alpha, [30, 10], target, 1e9), [0.75, 0.25], atol=1e-6)
    # Minimise 2 (b - 1/2)^2 * 2 + lam (4/3 b^2 + 4 (1 - b)^2): b = (4 + 8 lam) / (8 + 32 lam / 3).
    lam = 0.3
    expected = (4 + 8 * lam) / (8 + 32 * lam / 3)
    np.testing.assert_allclose(fedauto_weights(alpha, [30, 10], target, lam), [expected, 1 - expected])


def test_weights_agree_with_a_general_solver():
    rng = np.random.default_rng(0)
    for _ in range(20):
        alpha, target = rng.dirichlet(np.full(10, 0.2), 12), rng.dirichlet(np.ones(10))
        counts = rng.integers(10, 500, 12).astype(float)
        expected = weights_by_slsqp(alpha, counts, target, 0.1)
        np.testing.assert_allclose(fedauto_weights(alpha, counts, target, 0.1), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lam": -0.1}, "lambda = -0.1"),
        ({"lam": 0.0}, "lambda = 0.0"),
        ({"lam": np.nan}, "lambda = nan"),
        ({"lam": "0.1"}, "lambda = '0.1'"),
        ({"counts": [1.0, 0.0]}, "sample counts"),
        ({"counts": [1.0]}, "shapes"),
        ({"alpha": np.array([[0.5, 0.6], [0.5, 0.5]])}, "alpha is not a probability histogram"),
        ({"target": np.array([0.5, 0.4])}, "target is not a probability histogram"),
    ],
)
def test_weights_refuse_bad_input(change, message):
    good = {"alpha": np.full((2, 2), 0.5), "counts": [1.0, 2.0], "target": np.array([0.5, 0.5]), "lam": 0.1}
    with pytest.raises(InputError, match=message):
        fedauto_weights(**good | change)


@pytest.mark.parametrize(
    ("name", "hyper", "message"),
    [
        ("fedmagic", {}, "unknown method 'fedmagic'"),
        ("fedauto", {"lamda": 1.0}, "no hyper-parameter 'lamda'.*lam, compensation, adaptive"),
        ("fedauto", {"lam": -1.0}, "fedauto: lam = -1.0"),
        ("fedprox", {"mu": -0.1}, "fedprox: mu = -0.1.*fields of fedprox: server_lr, average, mu"),
        ("known_probability", {"q_floor": 0.0}, "q_floor"),
        ("known_probability", {"normalise": "both"}, "normalise"),
        ("known_probability", {"probability": "true"}, "probability"),
        ("fedawe", {"clip_norm": -1.0}, "clip_norm = -1.0.*None or.*fields of fedawe: server_lr, judge, clip_norm"),
        ("fedavg_all", {"server_lr": 0.0}, "server_lr"),
        ("server_finetuning", {"server_steps": 0}, "server_steps = 0.*integers >= 1"),
    ],
)
def test_bad_hyper_parameters_name_the_method_and_its_fields(name, hyper, message):
    with pytest.raises(InputError, match=message):
        make_method(name, **hyper)


HYPER = [(name, field.name) for name in METHODS for field in fields(METHODS[name])]


@pytest.mark.parametrize(("name", "field"), HYPER)
def test_every_hyper_parameter_refuses_values_of_another_kind(name, field):
    """Strings and the like, for each field: always the error that says so, never a TypeError."""
    default = getattr(make_method(name), field)
    bad = ["1", [1], float("nan"), float("inf"), 1j]
    bad += [1, 0] if isinstance(default, bool) else [True]
    bad += [1.0] if type(default) is int else []
    bad += [None] if (name, field) != ("fedawe", "clip_norm") else []
    for value in bad:
        with pytest.raises(InputError, match=rf"{name}: {field} = .*fields of {name}: .*{field}"):
            make_method(name, **{field: value})


def test_every_method_states_its_own_family():
    """None inherits it from the class whose code it shares, such as FedAvg."""
    assert all("family" in vars(cls) for cls in METHODS.values())
    card = method_card({name: make_method(name) for name in METHODS})
    assert card.columns[1] == "family" and card["family"].nunique() == 10


def test_every_method_states_its_own_contest():
    """One of the known, inherited by nobody; the bounds are rivals of no one."""
    assert all(vars(cls)["contest"] in get_args(Contest) for cls in METHODS.values())
    assert not hasattr(Method, "contest")
    assert {name for name, cls in METHODS.items() if cls.contest == "bound"} == {
        name for name, cls in METHODS.items() if cls.participation != "network"
    }
    assert [name for name, cls in METHODS.items() if cls.contest == "ours"] == ["fedauto", "fedauto_memory"]


def test_inverse_probability_weights_are_unbiased():
    """The mean over many arrival draws of sum_j beta_j Delta_j is sum_j p_j Delta_j."""
    q = np.array([[0.9, 0.5, 0.2]])
    w0 = torch.zeros(4)
    context = Context(np.array([5, 10, 10, 20]), np.eye(4), np.full(4, 0.25), 1, 0.1, True, w0, marginal_probability=q)
    method, rng = make_method("known_probability"), np.random.default_rng(0)
    state = method.init(context)
    total = torch.zeros(4)
    for _ in range(4000):
        ids = np.concatenate([[0], 1 + np.flatnonzero(rng.random(3) < q[0])])
        arrivals = Arrivals(0, ids, torch.eye(4)[ids], np.ones(len(ids)), 0.1)
        total += method.aggregate(state, torch.zeros(4), arrivals, None)[0]
    p = context.counts / context.counts.sum()
    error = np.sqrt(p**2 * np.concatenate([[0], (1 - q[0]) / q[0]]) / 4000)
    assert (np.abs(total.numpy() / 4000 - p) <= 4 * error + 1e-5).all()  # float32 sums
