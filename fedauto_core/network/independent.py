"""Failures that are independent from round to round: Bernoulli, tied to the labels, or changing with the time."""

import numpy as np

from fedauto_core.errors import require, require_known, require_number

from .base import Rate, Setting, probabilities, process
from .traces import Cause, Trace, make_trace


@process("none")
def _none(setting: Setting) -> Trace:
    """Every upload arrives. Public: everything."""
    ones = np.ones(setting.shape)
    return make_trace(ones.astype(bool), Cause.OK, ones, ones[0])


@process("bernoulli")
def _bernoulli(setting: Setting, *, probability: Rate) -> Trace:
    """A_k^t ~ Bern(q_k), independent. Public: q_k."""
    return independent(setting, probabilities("probability", probability, setting))


@process("label_coupled")
def _label_coupled(setting: Setting, *, q_min: float, q_max: float) -> Trace:
    """Bernoulli with q_k tied to the labels (`coupled`, as in FedAWE, Xiang et al. 2024). Public: q_k."""
    return independent(setting, coupled(setting, q_min, q_max))


@process("modulated")
def _modulated(
    setting: Setting, *, shape: str, q_min: float, q_max: float, period: int = 20, depth: float = 0.3, cut: float = 0.1
) -> Trace:
    """q_k^t = q_k f(t), q_k coupled to the labels (`coupled`), a period of P rounds (FedAWE, Xiang et al. 2024, J.3).

    shape: "sine", f = depth sin(2 pi t / P) + 1 - depth; "staircase", f = 1 in the first half of a period, 0.4 in the
    second; "interleaved_sine", the sine, but 0 wherever q_k f < cut: then some clients cannot be heard at all for a
    while. Public: q_k^t.
    """
    require_known("shape", shape, ("sine", "staircase", "interleaved_sine"))
    require_number("period", period, low=2, strict=False, whole=True)
    require_number("depth", depth, strict=False, high=1)
    require_number("cut", cut, strict=False, high=1)
    base = coupled(setting, q_min, q_max)
    t = np.arange(max(setting.rounds, period))[:, None]
    sine = depth * np.sin(2 * np.pi * t / period) + 1 - depth
    stairs = np.where(t % period < period / 2, 1.0, 0.4)
    q = np.clip(base * (stairs if shape == "staircase" else sine), 0, 1)
    if shape == "interleaved_sine":
        q = np.where(q >= cut, q, 0.0)
    long_run = q[:period].mean(axis=0)
    q = q[: setting.rounds]
    return make_trace(setting.rng.random(setting.shape) < q, Cause.TRANSIENT, q, long_run)


def coupled(setting: Setting, q_min: float, q_max: float) -> np.ndarray:
    """q_k = q_min + (q_max - q_min) <pi_k, phi>, phi evenly spread over [0, 1] in an order drawn by the seed; [N]."""
    for name, value in (("q_min", q_min), ("q_max", q_max)):
        require_number(name, value, strict=False, high=1)
    require(
        q_min <= q_max,
        f"q_min = {q_min} exceeds q_max = {q_max}",
        allowed="0 <= q_min <= q_max <= 1",
        remedy="swap the two",
    )
    phi = setting.rng.permutation(np.linspace(0, 1, setting.histograms.shape[1]))
    return np.clip(
        q_min + (q_max - q_min) * (setting.histograms @ phi), q_min, q_max
    )  # rounding could leave the interval


def independent(setting: Setting, q: np.ndarray) -> Trace:
    arrived = setting.rng.random(setting.shape) < q
    return make_trace(arrived, Cause.TRANSIENT, np.broadcast_to(q, setting.shape).copy(), q)
