"""Failures with a memory: bursts of a Markov channel, long outages, and both at once."""

from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require

from .base import Rate, Setting, durations, probabilities, process
from .independent import coupled
from .traces import Cause, Trace, make_trace


@process("gilbert_elliott")
def _gilbert_elliott(setting: Setting, *, q: Rate, burst: Rate, h_good: float = 1.0, h_bad: float = 0.0) -> Trace:
    """Two-state Markov channel (Gilbert 1960, Elliott 1963), started in its stationary law.

    q: stationary probability of the good state; burst: mean rounds L_B in the bad state; h_good, h_bad: success
    probabilities in the two states. p_BG = 1 / L_B, p_GB = p_BG (1 - q) / q <= 1.
    Public: the state in round t - 1 (nothing before round 0), so success_probability is the one-step prediction.
    """
    good_share = probabilities("q", q, setting)
    mean_burst = durations("burst", burst, setting)
    for name, value in (("h_good", h_good), ("h_bad", h_bad)):
        probabilities(name, value, setting)
    require(
        bool((mean_burst * good_share >= 1 - good_share - 1e-12).all()),
        f"no Gilbert-Elliott channel has q = {q} and bursts of {burst} rounds",
        allowed="burst >= (1 - q) / q, with q > 0",
        remedy="lengthen the bursts or raise q",
    )
    recover = 1 / mean_burst
    fail = np.minimum(recover * (1 - good_share) / good_share, 1)
    state = two_state(setting.rng, setting.rounds, good_share, fail, recover)
    success = np.where(state.on, h_good, h_bad)
    predicted = state.predicted * h_good + (1 - state.predicted) * h_bad
    arrived = setting.rng.random(setting.shape) < success
    cause = np.where(state.on, Cause.TRANSIENT, Cause.LONG)  # lost in the good state, or in the bad one, which lasts
    stationary = good_share * h_good + (1 - good_share) * h_bad
    return make_trace(arrived, cause, predicted, stationary, stationary)


@process("long_outage")
def _long_outage(setting: Setting, *, mean_on: Rate, mean_off: Rate) -> Trace:
    """On/off renewal with geometric on times (mean D_on rounds) and off times (mean D_off), from its stationary law.

    Public: whether the client was on in round t - 1 (nothing before round 0).
    """
    connected, share = connection(setting, mean_on, mean_off)
    return make_trace(connected.on, Cause.LONG, connected.predicted, share, share)


@process("mixed")
def _mixed(
    setting: Setting,
    *,
    mean_on: Rate,
    mean_off: Rate,
    probability: Rate | None = None,
    q_min: float | None = None,
    q_max: float | None = None,
) -> Trace:
    """A = U V: `long_outage` U times an independent transient V.

    V is Bernoulli (`probability`) or label-coupled (`q_min`, `q_max`).
    Public: q_k of the transient part and whether the client was connected in round t - 1 (nothing before round 0).
    """
    by_labels = q_min is not None and q_max is not None
    require(
        by_labels == (probability is None) and (q_min is None) == (q_max is None),
        f"mixed process with probability {probability}, q_min {q_min}, q_max {q_max}",
        allowed="probability alone (Bernoulli), or q_min and q_max (label-coupled)",
        remedy="choose one transient part",
    )
    q = coupled(setting, q_min, q_max) if by_labels else probabilities("probability", probability, setting)
    connected, share = connection(setting, mean_on, mean_off)
    transient = setting.rng.random(setting.shape) < q
    cause = np.where(connected.on, Cause.TRANSIENT, Cause.LONG)
    return make_trace(connected.on & transient, cause, connected.predicted * q, share * q, share * q)


class TwoState(NamedTuple):
    """A Markov chain per client: on [T, N], and predicted [T, N] = P(on in round t | state in round t - 1)."""

    on: np.ndarray
    predicted: np.ndarray


def two_state(
    rng: np.random.Generator, rounds: int, on_share: np.ndarray, fail: np.ndarray, recover: np.ndarray
) -> TwoState:
    """Start on with probability `on_share`; then on -> off with `fail`, off -> on with `recover` (each [N])."""
    uniform = rng.random((rounds, len(on_share)))
    predicted = np.empty(uniform.shape)
    on = np.empty(uniform.shape, dtype=bool)
    ahead = on_share
    for t in range(rounds):
        predicted[t] = ahead
        on[t] = uniform[t] < ahead
        ahead = np.where(on[t], 1 - fail, recover)
    return TwoState(on, predicted)


def connection(setting: Setting, mean_on: Rate, mean_off: Rate) -> tuple[TwoState, np.ndarray]:
    """Long connections and disconnections, and the stationary share of time connected [N]."""
    d_on, d_off = durations("mean_on", mean_on, setting), durations("mean_off", mean_off, setting)
    share = d_on / (d_on + d_off)
    return two_state(setting.rng, setting.rounds, share, 1 / d_on, 1 / d_off), share
