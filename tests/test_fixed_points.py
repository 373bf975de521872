"""Where each rule comes to rest when uploads fail: clients with F_k(x) = |x - u_k|^2 / 2, heard the more often the
larger u_k. The optimum is the mean of the u_k; a rule with a wrong weight, or one that keeps a wrong row, misses it.
"""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from fedauto_core.engine import Schedule
from fedauto_core.errors import InputError
from fedauto_core.methods import Arrivals, Context, make_method
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.theory.resting import Line, rest

N, STEPS, ROUNDS = 8, 2, 2000
Q = np.linspace(0.2, 0.9, N)
U = np.linspace(0.5, 2.5, N)  # far from the start, 0
COUNTS = np.array([50, 30, 10, 20, 40, 10, 30, 20, 40])  # of the server, which does not take part, and the clients
LABELS = np.vstack([np.zeros(N, int), np.diag(COUNTS[1:])])  # a class of its own for every client, of mass p_k
P = COUNTS[1:] / COUNTS[1:].sum()
OPTIMUM = P @ U
PROCESSES = {
    "bernoulli": Scenario("bernoulli", "bernoulli", (("probability", tuple(Q)),)),
    "markov": Scenario("markov", "gilbert_elliott", (("q", tuple(Q)), ("burst", 8.0))),
    "long outages": Scenario("long", "long_outage", (("mean_on", tuple(20 * Q / (1 - Q))), ("mean_off", 20.0))),
}
each_process = pytest.mark.parametrize("process", PROCESSES)


@cache
def trace(process):
    return draw_trace(PROCESSES[process], rounds=ROUNDS, histograms=np.full((N, 2), 0.5), seed=0)


def late(process, name, lr=0.025, rounds=ROUNDS, falling=0.0, **hyper):
    """The judged model after each round of the second half, [rounds / 2]. falling: the part of the rounds in which the
    step size falls."""
    schedule, drawn = Schedule(rounds, decay=falling), trace(process)
    line = Line(LABELS, U, STEPS, lr)
    first = replace(drawn, arrived=drawn.arrived[:rounds])
    return line.path(make_method(name, **hyper), first, [schedule.rate(r) for r in range(rounds)])[rounds // 2 :]


def mean_and_error(path):
    return rest(path, 1.0)


def rest_of_fedavg():
    """E[sum_k a_k u_k | somebody arrives] over all sets of arrivals, a_k = p_k / sum of p over the set."""
    total = weight = 0.0
    for arrived in product([0, 1], repeat=N):
        if any(arrived):
            probability = np.prod(np.where(arrived, Q, 1 - Q))
            a = P * arrived / (P @ arrived)
            total, weight = total + probability * (a @ U), weight + probability
    return total / weight


@each_process
@pytest.mark.parametrize(
    ("name", "rest"),
    [("fedavg", rest_of_fedavg()), ("fedavg_amplified", rest_of_fedavg()), ("fedavg_all", (P * Q) @ U / (P @ Q))],
)
def test_plain_averaging_rests_at_the_mean_of_those_who_are_heard(process, name, rest):
    mean, error = mean_and_error(late(process, name))
    assert abs(mean - rest) <= 4 * error
    assert mean - OPTIMUM >= 8 * error and mean - OPTIMUM > 0.2


@pytest.mark.parametrize(
    ("process", "name", "hyper"),
    [
        *((process, "known_probability", {}) for process in PROCESSES),
        ("bernoulli", "tf_aggregation_like", {}),
        ("bernoulli", "fedau", {}),
        *((process, "fedstale", {"beta": beta}) for process in ("bernoulli", "markov") for beta in (0.5, 0.8)),
        ("bernoulli", "f3ast", {"rate": 0.01}),
    ],
)
def test_inverse_probabilities_known_or_estimated_find_the_optimum(process, name, hyper):
    mean, error = mean_and_error(late(process, name, **hyper))
    assert abs(mean - OPTIMUM) <= 4 * error and error < 0.04  # plain averaging: 0.3 off


@pytest.mark.parametrize("process", ["markov", "long outages"])
def test_conditional_probabilities_lead_towards_plain_averaging(process):
    """Self-normalised both are biased; the conditional ones, near one for most of those who are heard, the more so."""
    rest = {
        which: late(process, "known_probability", normalise="self", probability=which).mean() - OPTIMUM
        for which in ("marginal", "conditional")
    }
    assert 0 < rest["marginal"] < rest["conditional"] - 0.02


@each_process
def test_echoes_find_the_uniform_mean(process):
    """FedAWE weighs clients equally; its bias is of the order of the step, hence a small one, and no clipping."""
    mean, error = mean_and_error(late(process, "fedawe", lr=0.005, clip_norm=None))
    assert abs(mean - U.mean()) <= 4 * error + STEPS * 0.005 and error < 0.01


@each_process
@pytest.mark.parametrize(("name", "hyper"), [("mifa", {}), ("mifa", {"wait": True}), ("fedvarp", {})], ids=str)
def test_stored_updates_find_the_optimum_exactly(process, name, hyper):
    """The stored updates settle, so nothing is left of the noise of the arrivals."""
    np.testing.assert_allclose(late(process, name, rounds=1000, **hyper), OPTIMUM, atol=1e-5)


@each_process
@pytest.mark.parametrize("name", ["mifa", "fedvarp"])
def test_nor_do_stored_updates_lead_astray_when_the_step_size_falls(process, name):
    """Stored at an earlier, larger step size, they would weigh too much: 0.005 to 0.04 off."""
    np.testing.assert_allclose(late(process, name, rounds=1000, falling=1.0)[-1], OPTIMUM, atol=2e-4)


@each_process
@pytest.mark.parametrize("falling", [0.0, 0.5])
@pytest.mark.parametrize(("name", "atol"), [("scaffold", 1e-5), ("feddyn", 7e-3)])
def test_corrections_find_the_optimum_also_when_the_step_size_falls(process, name, atol, falling):
    """FedDyn's, slow to settle, would carry the model 0.01 to 0.02 away if they did not fall with the step size."""
    np.testing.assert_allclose(late(process, name, lr=0.05, falling=falling)[-100:], OPTIMUM, atol=atol)


@each_process
@pytest.mark.parametrize("lam", [1e-6, 0.1, 1e9])
def test_a_memory_that_does_not_age_finds_it_exactly_too(process, lam):
    """The labels of all stored updates match at p_k, which is also where n_j / n_A weighs them: for every lambda."""
    path = late(process, "fedauto_memory", rounds=1000, decay=1.0, lam=lam)
    np.testing.assert_allclose(path, OPTIMUM, atol=1e-5)


@each_process
def test_an_ageing_memory_lies_between_it_and_fedauto(process):
    """FedAuto can only match among those who arrived, and rests with FedAvg here; the longer the memory the nearer."""
    (fedauto, error), *memories = (
        mean_and_error(late(process, name, **hyper))
        for name, hyper in [("fedauto", {}), *(("fedauto_memory", {"decay": d}) for d in (0.7, 0.97))]
    )
    assert abs(fedauto - rest_of_fedavg()) <= 4 * error
    biases = np.array([fedauto, *(mean for mean, _ in memories)]) - OPTIMUM
    assert (np.diff(biases) < 0).all() and biases[-1] < biases[0] / 2


@each_process
@pytest.mark.parametrize(("name", "hyper"), [("scaffold", {}), ("feddyn", {"alpha": 1.0})], ids=str)
@pytest.mark.parametrize("average", ["fedavg", "fedauto", "known_probability"])
def test_corrections_find_it_exactly_whatever_weighs_the_step(process, name, hyper, average):
    path = late(process, name, lr=0.1, rounds=500, average=make_method(average), **hyper)
    np.testing.assert_allclose(path, OPTIMUM, atol=1e-3)


@each_process
def test_momentum_finds_the_optimum_of_its_average(process):
    mean, error = mean_and_error(late(process, "fedavgm", server_lr=0.1, average=make_method("known_probability")))
    assert abs(mean - OPTIMUM) <= 4 * error and error < 0.03
    mean, error = mean_and_error(late(process, "fedavgm", server_lr=0.1))
    assert abs(mean - rest_of_fedavg()) <= 4 * error


@each_process
def test_postponed_broadcast_without_echo_rests_nearer_to_those_who_are_heard(process):
    """At sum_k q_k (u_k - x) = 0, up to the order of the step: only the arrived updates move the sum of all models."""
    mean, error = mean_and_error(late(process, "fedpbc_like", lr=0.005))
    assert abs(mean - Q @ U / Q.sum()) <= 4 * error + STEPS * 0.005 and error < 0.01


@pytest.mark.parametrize("beta", [0.2, 0.8])
def test_stale_updates_beside_plain_averaging_go_part_of_the_way(beta):
    """With equal rates the stale part rests at the optimum, the fresh one where FedAvg does."""
    mean, error = mean_and_error(late("bernoulli", "fedstale", beta=beta, rates="equal"))
    assert abs(mean - beta * OPTIMUM - (1 - beta) * rest_of_fedavg()) <= 4 * error and error < 0.02


@pytest.mark.parametrize("decay", [0.25, 1.0])
def test_weights_that_fall_with_inactivity_rest_nearer_to_those_who_are_heard(decay):
    """At the mean with weights p_k E[(1 + s_k)^-d], s_k silent rounds: geometric with rate q_k."""
    s = np.arange(400)[:, None]
    a = P * np.sum(Q * (1 - Q) ** s * (1.0 + s) ** -decay, axis=0)
    mean, error = mean_and_error(late("bernoulli", "fedar_like", decay=decay))
    assert abs(mean - a @ U / a.sum()) <= 4 * error and error < 0.01
    assert mean - OPTIMUM >= 8 * error


def test_amplified_updates_do_not_follow_whose_turn_it_is():
    """Each client in turn has five rounds; after whole cycles FedAvg is near the last one, and small steps, amplified
    as much as they are smaller, are near the mean of all."""

    def after_whole_cycles(method, lr):
        context = Context(COUNTS, np.eye(N + 1), np.full(N + 1, 1 / (N + 1)), STEPS, lr, False, torch.zeros(1))
        w, state = context.w0, method.init(context)
        for r in range(40 * 5 * N):
            k = r // 5 % N
            delta = (1 - (1 - lr) ** STEPS) * (U[k] - w)[None].float()
            w, state = method.aggregate(state, w, Arrivals(r, np.array([1 + k]), delta, np.array([STEPS]), lr), None)
        return float(w[0])

    plain = after_whole_cycles(make_method("fedavg"), 0.02)
    amplified = after_whole_cycles(make_method("fedavg_amplified", amplification=10.0, period=5 * N), 0.002)
    assert plain - U.mean() > 0.2 and abs(amplified - U.mean()) < 0.05


@each_process
def test_public_data_of_all_classes_bring_fedauto_back(process):
    """The server stands in for the classes that are missing; plain averaging has the same data, and stays away."""
    line = Line(np.vstack([np.full(N, 2), LABELS[1:]]), U, STEPS, with_server=True)
    off = {name: rest(line.path(make_method(name), trace(process)))[0] - line.optimum for name in ("fedauto", "fedavg")}
    assert 0 < off["fedauto"] < off["fedavg"] / 3


def test_with_the_server_everybody_together_rests_at_the_optimum():
    line = Line(np.vstack([np.arange(1, N + 1), LABELS[1:]]), U, STEPS, with_server=True)
    everybody = replace(trace("bernoulli"), arrived=np.ones((400, N), bool))
    assert line.optimum == pytest.approx((np.arange(1, N + 1) + COUNTS[1:]) @ U / (36 + COUNTS[1:].sum()))
    for name in ("fedavg", "fedauto"):
        assert line.path(make_method(name), everybody)[-1] == pytest.approx(line.optimum, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fedlaw", "it asks for scores or gradients of a classifier"),
        ("data_sharing", "it hands out samples"),
        ("centralised", "no network decides who is heard"),
        ("server_finetuning", "it tunes on public data"),
    ],
)
def test_what_a_line_has_not_is_said(name, reason):
    line = Line(LABELS, U)
    assert line.why_not(make_method(name)) == reason
    with pytest.raises(InputError, match=rf"{name} on a line: {reason}\."):
        line.path(make_method(name), trace("bernoulli"))
