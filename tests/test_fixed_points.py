"""Where each rule comes to rest when uploads fail: clients with F_k(x) = |x - u_k|^2 / 2, heard the more often the
larger u_k. The optimum is the mean of the u_k; a rule with a wrong weight, or one that keeps a wrong row, misses it.

No network is trained: E steps of size gamma on F_k(v) + <l_k, v> + mu/2 |v - x|^2 from x move by
(1 - (1 - gamma (1 + mu))^E) / (1 + mu) (u_k - l_k - x).
"""

from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from fedauto_core.engine import Schedule
from fedauto_core.methods import Arrivals, Context, make_method
from fedauto_core.network import Scenario, draw_trace

N, STEPS, ROUNDS, BATCHES = 8, 2, 2000, 10
Q = np.linspace(0.2, 0.9, N)
U = np.linspace(0.5, 2.5, N)  # far from the start, 0
COUNTS = np.array([50, 30, 10, 20, 40, 10, 30, 20, 40])  # of the server, which does not take part, and the clients
P = COUNTS[1:] / COUNTS[1:].sum()
OPTIMUM = P @ U
EQUAL = np.full(N + 1, 10)
PROCESSES = {
    "bernoulli": Scenario("bernoulli", "bernoulli", (("probability", tuple(Q)),)),
    "markov": Scenario("markov", "gilbert_elliott", (("q", tuple(Q)), ("burst", 8.0))),
    "long outages": Scenario("long", "long_outage", (("mean_on", tuple(20 * Q / (1 - Q))), ("mean_off", 20.0))),
}
each_process = pytest.mark.parametrize("process", PROCESSES)


@cache
def trace(process):
    return draw_trace(PROCESSES[process], rounds=ROUNDS, histograms=np.full((N, 2), 0.5), seed=0)


def late(process, name, lr=0.025, rounds=ROUNDS, decay=0.0, counts=COUNTS, **hyper):
    """w after each round of the second half, [rounds / 2]."""
    drawn, method, schedule = trace(process), make_method(name, **hyper), Schedule(rounds, decay=decay)
    u, w, path = torch.from_numpy(np.concatenate([[0.0], U])).float()[:, None], torch.zeros(1), []
    oracle = (drawn.success_probability, drawn.long_run_probability) if method.needs_network_knowledge else (None, None)
    alpha = np.eye(N + 1)
    state = method.init(Context(counts, alpha, alpha.mean(axis=0), STEPS, lr, False, w, 0, *oracle))
    for r, heard in enumerate(drawn.arrived[:rounds]):
        ids = 1 + np.flatnonzero(heard)
        work, gamma = method.local_work(state, w, ids), lr * schedule.rate(r)
        optima, steep = u[ids] if work.linear is None else u[ids] - work.linear, 1 + work.prox
        deltas = (1 - (1 - gamma * steep) ** STEPS) / steep * (optima - work.start)
        w, state = method.aggregate(state, w, Arrivals(r, ids, deltas, np.full(len(ids), STEPS), gamma), None)
        path.append(float(w[0]))
    return np.array(path[rounds // 2 :])


def mean_and_error(path):
    """Time average and its standard error, from the means of batches that are long against the memory 1 / (gamma E)."""
    means = path.reshape(BATCHES, -1).mean(axis=1)
    return means.mean(), means.std(ddof=1) / np.sqrt(BATCHES)


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
@pytest.mark.parametrize(("name", "rest"), [("fedavg", rest_of_fedavg()), ("fedavg_all", (P * Q) @ U / (P @ Q))])
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
        ("bernoulli", "f3ast", {"rate": 0.01}),
    ],
)
def test_inverse_probabilities_known_or_estimated_find_the_optimum(process, name, hyper):
    mean, error = mean_and_error(late(process, name, **hyper))
    assert abs(mean - OPTIMUM) <= 4 * error and error < 0.03


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
    np.testing.assert_allclose(late(process, name, rounds=1000, decay=1.0)[-1], OPTIMUM, atol=2e-4)


@each_process
@pytest.mark.parametrize("decay", [0.0, 0.5])
@pytest.mark.parametrize(("name", "atol"), [("scaffold", 1e-5), ("feddyn", 5e-3)])
def test_corrections_find_the_optimum_also_when_the_step_size_falls(process, name, atol, decay):
    """FedDyn's, slow to settle, would carry the model 0.01 to 0.02 away if they did not fall with the step size."""
    path = late(process, name, lr=0.05, decay=decay, counts=EQUAL)
    np.testing.assert_allclose(path[-100:], U.mean(), atol=atol)
