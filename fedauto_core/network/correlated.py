"""Failures that hit several clients at once: a shared access point, a common shock, an adversary; and products."""

from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from fedauto_core.errors import is_number, require, require_number

from .base import Rate, Scenario, Setting, autoregressive, by_label, drawn, probabilities, process
from .markov import connection
from .traces import Cause, Trace, make_trace


@process("access_points")
def _access_points(
    setting: Setting, *, groups: int, mean_on: float, mean_off: float, probability: Rate = 1.0, aligned: bool = False
) -> Trace:
    """A_k = U_g(k) V_k: each group has one access point, on and off like `long_outage`; V_k is Bernoulli.

    aligned: clients with like labels share an access point (`by_label`), else groups are drawn by the seed.
    Public: q_k and whether the access point was on in round t - 1 (nothing before round 0).
    """
    group = by_label(setting, groups)
    if not aligned:
        group = setting.rng.permutation(group)
    q = probabilities("probability", probability, setting)
    point = setting._replace(histograms=np.ones((groups, 1)))  # access points in the place of clients
    up, share = connection(point, mean_on, mean_off)
    arrived = up.on[:, group] & (setting.rng.random(setting.shape) < q)
    cause = np.where(up.on[:, group], Cause.TRANSIENT, Cause.SHARED)
    stationary = share[group] * q
    return make_trace(arrived, cause, up.predicted[:, group] * q, stationary, stationary)


@process("copula")
def _copula(setting: Setting, *, probability: Rate, rho: float, memory: float = 0.0) -> Trace:
    """A_k^t = 1{sqrt(rho) Z_t + sqrt(1 - rho) xi_k^t <= Phi^-1(q_k)}: a Gaussian copula with a common shock Z_t.

    Z_t is a stationary AR(1) with coefficient `memory`, Z and xi standard normal, so that every client still has
    P(A_k^t = 1) = q_k. Public: q_k, not the shock; so oracles are right about each client and blind to the correlation.
    A loss counts as shared if the shock had the larger part in it.
    """
    q = probabilities("probability", probability, setting)
    require_number("rho", rho, strict=False, high=1)
    require(
        is_number(memory) and 0 <= memory < 1,
        f"memory = {memory!r}",
        allowed="finite numbers >= 0 and < 1",
        remedy="use 0 for failures that forget, 0.9 for ten rounds",
    )
    noise = setting.rng.normal(size=setting.rounds)
    noise[1:] *= np.sqrt(1 - memory**2)  # the first is drawn from the stationary law
    shock = autoregressive(noise, memory)[:, None]
    shared, own = np.sqrt(rho) * shock, np.sqrt(1 - rho) * setting.rng.normal(size=setting.shape)
    arrived = shared + own <= ndtri(q)
    cause = np.where(shared > np.maximum(own, 0), Cause.SHARED, Cause.TRANSIENT)
    return make_trace(arrived, cause, np.broadcast_to(q, setting.shape).copy(), q)


@process("adversary")
def _adversary(setting: Setting, *, budget: float) -> Trace:
    """An adversary silences the same floor(budget N) clients in every round: one by one those whose loss takes the mean
    label histogram of the others furthest (2-norm) from that of all. Public: everything."""
    n_clients = setting.shape[1]
    require_number("budget", budget, strict=False, high=1)
    dropped = int(budget * n_clients + 1e-9)  # 0.3 * 10 is not quite 3
    require(
        dropped < n_clients,
        f"budget {budget} silences all {n_clients} clients",
        allowed="budgets that leave at least one client",
        remedy="lower the budget",
    )
    kept, target = np.ones(n_clients, dtype=bool), setting.histograms.mean(axis=0)
    total = setting.histograms.sum(axis=0)
    for left in range(n_clients - 1, n_clients - dropped - 1, -1):
        distance = np.linalg.norm((total - setting.histograms) / left - target, axis=1)
        worst = np.where(kept, distance, -np.inf).argmax()
        kept[worst] = False
        total = total - setting.histograms[worst]
    arrived = np.broadcast_to(kept, setting.shape).copy()
    return make_trace(arrived, Cause.ADVERSARY, arrived.astype(np.float64), kept.astype(np.float64))


@process("product")
def _product(setting: Setting, *, parts: tuple[Scenario, ...]) -> Trace:
    """An upload arrives if it survives every one of `parts`, which are drawn independently; the first is what it would
    be alone. The cause of a loss is that of the first part that lost it.

    Public: what each part makes public. The long-run rate is the product of theirs: exact unless two of the parts
    follow a timetable.
    """
    require(
        isinstance(parts, tuple) and len(parts) >= 1 and all(isinstance(part, Scenario) for part in parts),
        f"parts = {parts}",
        allowed="a tuple of one or more scenarios",
        remedy="name at least one scenario",
    )
    others = setting.rng.spawn(len(parts) - 1)
    traces = [drawn(part, setting._replace(rng=rng)) for part, rng in zip(parts, (setting.rng, *others), strict=True)]
    cause = np.zeros(setting.shape, dtype=np.int8)
    for trace in reversed(traces):
        cause = np.where(trace.arrived, cause, trace.cause)
    q = np.prod([trace.success_probability for trace in traces], axis=0)
    long_run = np.prod([trace.long_run_probability for trace in traces], axis=0)
    marginal = np.prod([trace.marginal_probability for trace in traces], axis=0)
    made = make_trace(np.all([trace.arrived for trace in traces], axis=0), cause, q, long_run, marginal)
    return replace(made, note="; ".join(trace.note for trace in traces if trace.note))
