"""Connection failures: a scenario is drawn once into a `Trace`, which all methods of a comparison share.

Column k of a trace is client k + 1 (participant 0, the server, never fails); rounds count from 0. A process never
sees the methods, so failures do not depend on the training. To add one, write a function decorated with `process`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require, require_known
from fedauto_core.seeding import stream
from fedauto_core.traces import CAUSES, Cause, Trace, make_trace

__all__ = [
    "CAUSES",
    "PROCESSES",
    "SCENARIOS",
    "Cause",
    "Scenario",
    "Setting",
    "Trace",
    "draw_trace",
    "process",
    "scenario",
]

Rate = float | tuple[float, ...]  # one value for all clients, or one per client


@dataclass(frozen=True)
class Scenario:
    """A failure process by name, with its options as (key, value) pairs (hashable, so that it can be part of a key)."""

    name: str
    process: str
    options: tuple[tuple[str, object], ...] = ()


def draw_trace(scenario: Scenario, *, rounds: int, histograms: np.ndarray, seed: int) -> Trace:
    """The trace of `scenario` for T = `rounds` and the clients with label `histograms` [N, C] (rows sum to one).

    The same arguments give the same trace. InputError for an unknown process or option, or a value out of range.
    """
    require_known("failure process", scenario.process, PROCESSES)
    draw = PROCESSES[scenario.process]
    options = dict(scenario.options)
    parameters = {name: p for name, p in inspect.signature(draw).parameters.items() if p.kind is p.KEYWORD_ONLY}
    for name in options:
        require(
            name in parameters,
            f"unknown option {name!r} of failure process {scenario.process!r}",
            allowed=", ".join(parameters) or "no options",
            remedy="use one of the listed option names",
        )
    missing = [name for name, p in parameters.items() if p.default is p.empty and name not in options]
    require(
        not missing,
        f"failure process {scenario.process!r} lacks {', '.join(missing)}",
        allowed=f"options {', '.join(parameters)}",
        remedy="add the missing options to the scenario",
    )
    require(rounds >= 1, f"rounds is {rounds}", allowed="integers >= 1", remedy="ask for at least one round")
    pi = np.asarray(histograms, dtype=np.float64)
    require(
        pi.ndim == 2 and pi.size > 0 and bool((pi >= 0).all()) and np.allclose(pi.sum(axis=-1), 1),
        f"label histograms of shape {pi.shape}",
        allowed="shape [clients, classes], entries >= 0, rows summing to one",
        remedy="pass the clients' histograms, federation.alpha[1:]",
    )
    return draw(Setting(stream(seed, "trace"), rounds, pi), **options)


class Setting(NamedTuple):
    """What every process gets: its random stream, the number of rounds T, the clients' label histograms [N, C]."""

    rng: np.random.Generator
    rounds: int
    histograms: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.rounds, len(self.histograms)


# The scenarios of the notebooks. Our choice: the paper's own failure settings are not known to us.
SCENARIOS = {
    found.name: found
    for found in (
        Scenario("none", "none"),
        Scenario("transient", "label_coupled", (("q_min", 0.1), ("q_max", 0.9))),
        Scenario("bursty", "gilbert_elliott", (("q", 0.5), ("burst", 10.0))),
        Scenario("long", "long_outage", (("mean_on", 40.0), ("mean_off", 20.0))),
        # The same failures whatever the labels, for a clean factorial: half of the uploads, times long outages.
        Scenario("blind", "mixed", (("probability", 0.5), ("mean_on", 40.0), ("mean_off", 20.0))),
        Scenario("mixed", "mixed", (("q_min", 0.1), ("q_max", 0.9), ("mean_on", 40.0), ("mean_off", 20.0))),
        # From round 10 on nobody who holds class 0 is heard again.
        Scenario("blackout", "class_blackout", (("label", 0), ("start", 10), ("length", 10**6), ("probability", 0.8))),
    )
}


def scenario(name: str) -> Scenario:
    """The scenario called `name`; InputError lists those that exist."""
    require_known("scenario", name, SCENARIOS)
    return SCENARIOS[name]


PROCESSES: dict[str, Callable[..., Trace]] = {}


def process(name: str) -> Callable[[Callable[..., Trace]], Callable[..., Trace]]:
    """Register `draw(setting, *, options)` as a failure process; its keyword-only parameters are its options."""

    def register(draw: Callable[..., Trace]) -> Callable[..., Trace]:
        PROCESSES[name] = draw
        return draw

    return register


@process("none")
def _none(setting: Setting) -> Trace:
    """Every upload arrives. Public: everything."""
    ones = np.ones(setting.shape)
    return make_trace(ones.astype(bool), Cause.OK, ones, ones[0])


@process("bernoulli")
def _bernoulli(setting: Setting, *, probability: Rate) -> Trace:
    """A_k^t ~ Bern(q_k), independent. Public: q_k."""
    return _independent(setting, _probabilities("probability", probability, setting))


@process("label_coupled")
def _label_coupled(setting: Setting, *, q_min: float, q_max: float) -> Trace:
    """Bernoulli with q_k tied to the labels (`_coupled`, the rule of FedAWE, Xiang et al. 2024). Public: q_k."""
    return _independent(setting, _coupled(setting, q_min, q_max))


@process("gilbert_elliott")
def _gilbert_elliott(setting: Setting, *, q: Rate, burst: Rate, h_good: float = 1.0, h_bad: float = 0.0) -> Trace:
    """Two-state Markov channel (Gilbert 1960, Elliott 1963), started in its stationary law.

    q: stationary probability of the good state; burst: mean rounds L_B in the bad state; h_good, h_bad: success
    probabilities in the two states. p_BG = 1 / L_B, p_GB = p_BG (1 - q) / q <= 1.
    Public: the state in round t - 1 (nothing before round 0), so success_probability is the one-step prediction.
    """
    good_share = _probabilities("q", q, setting)
    mean_burst = _durations("burst", burst, setting)
    for name, value in (("h_good", h_good), ("h_bad", h_bad)):
        _probabilities(name, value, setting)
    require(
        bool((mean_burst * good_share >= 1 - good_share - 1e-12).all()),
        f"no Gilbert-Elliott channel has q = {q} and bursts of {burst} rounds",
        allowed="burst >= (1 - q) / q, with q > 0",
        remedy="lengthen the bursts or raise q",
    )
    recover = 1 / mean_burst
    state = _two_state(setting, good_share, np.minimum(recover * (1 - good_share) / good_share, 1), recover)
    success = np.where(state.on, h_good, h_bad)
    predicted = state.predicted * h_good + (1 - state.predicted) * h_bad
    arrived = setting.rng.random(setting.shape) < success
    return make_trace(arrived, Cause.TRANSIENT, predicted, good_share * h_good + (1 - good_share) * h_bad)


@process("long_outage")
def _long_outage(setting: Setting, *, mean_on: Rate, mean_off: Rate) -> Trace:
    """On/off renewal with geometric on times (mean D_on rounds) and off times (mean D_off), from its stationary law.

    Public: whether the client was on in round t - 1 (nothing before round 0).
    """
    connected, share = _connection(setting, mean_on, mean_off)
    return make_trace(connected.on, Cause.LONG, connected.predicted, share)


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
    coupled = q_min is not None and q_max is not None
    require(
        coupled == (probability is None) and (q_min is None) == (q_max is None),
        f"mixed process with probability {probability}, q_min {q_min}, q_max {q_max}",
        allowed="probability alone (Bernoulli), or q_min and q_max (label-coupled)",
        remedy="choose one transient part",
    )
    q = _coupled(setting, q_min, q_max) if coupled else _probabilities("probability", probability, setting)
    connected, share = _connection(setting, mean_on, mean_off)
    transient = setting.rng.random(setting.shape) < q
    cause = np.where(connected.on, Cause.TRANSIENT, Cause.LONG)
    return make_trace(connected.on & transient, cause, connected.predicted * q, share * q)


@process("class_blackout")
def _class_blackout(
    setting: Setting, *, label: int, start: int, length: int, probability: Rate = 1.0, min_share: float = 0.05
) -> Trace:
    """All clients with a share >= `min_share` of class `label` are off in rounds [start, start + length).

    Otherwise Bernoulli with `probability`. Public: q_k and the timetable. Not stationary: the long-run rate is the
    mean of success_probability over the T rounds.
    """
    n_classes = setting.histograms.shape[1]
    require(
        0 <= label < n_classes,
        f"blackout of class {label}",
        allowed=f"classes 0..{n_classes - 1}",
        remedy="choose a class of the dataset",
    )
    require(
        0 <= start < setting.rounds and length >= 1,
        f"blackout of {length} rounds from round {start}",
        allowed=f"start in 0..{setting.rounds - 1}, length >= 1",
        remedy="let the blackout fall within the run",
    )
    holds = setting.histograms[:, label] >= min_share
    require(
        0 < min_share <= 1 and bool(holds.any()),
        f"no client holds a share >= {min_share} of class {label}",
        allowed="min_share in (0, 1] that some client reaches",
        remedy="choose another class or a smaller min_share",
    )
    t = np.arange(setting.rounds)[:, None]
    off = holds & (start <= t) & (t < start + length)
    q = np.where(off, 0.0, _probabilities("probability", probability, setting))
    arrived = setting.rng.random(setting.shape) < q
    return make_trace(arrived, np.where(off, Cause.BLACKOUT, Cause.TRANSIENT), q, q.mean(axis=0))


@process("replay")
def _replay(setting: Setting, *, path: str) -> Trace:
    """A recorded trace (`Trace.from_csv`) of exactly T rounds and N clients. Public: each client's recorded rate."""
    trace = Trace.from_csv(path, n_clients=setting.shape[1])
    require(
        trace.arrived.shape == setting.shape,
        f"{path}: {trace.arrived.shape[0]} rounds x {trace.arrived.shape[1]} clients recorded",
        allowed=f"{setting.shape[0]} rounds x {setting.shape[1]} clients",
        remedy="record or ask for the same number of rounds and clients",
    )
    return trace


class _TwoState(NamedTuple):
    """A Markov chain per client: on [T, N], and predicted [T, N] = P(on in round t | state in round t - 1)."""

    on: np.ndarray
    predicted: np.ndarray


def _two_state(setting: Setting, on_share: np.ndarray, fail: np.ndarray, recover: np.ndarray) -> _TwoState:
    """Start on with probability `on_share`; then on -> off with `fail`, off -> on with `recover` (each [N])."""
    uniform = setting.rng.random(setting.shape)
    predicted = np.empty(setting.shape)
    on = np.empty(setting.shape, dtype=bool)
    ahead = on_share
    for t in range(setting.rounds):
        predicted[t] = ahead
        on[t] = uniform[t] < ahead
        ahead = np.where(on[t], 1 - fail, recover)
    return _TwoState(on, predicted)


def _connection(setting: Setting, mean_on: Rate, mean_off: Rate) -> tuple[_TwoState, np.ndarray]:
    """Long connections and disconnections, and the stationary share of time connected [N]."""
    d_on, d_off = _durations("mean_on", mean_on, setting), _durations("mean_off", mean_off, setting)
    share = d_on / (d_on + d_off)
    return _two_state(setting, share, 1 / d_on, 1 / d_off), share


def _coupled(setting: Setting, q_min: float, q_max: float) -> np.ndarray:
    """q_k = q_min + (q_max - q_min) <pi_k, phi>, phi evenly spread over [0, 1] in an order drawn by the seed; [N]."""
    low, high = _probabilities("q_min", q_min, setting), _probabilities("q_max", q_max, setting)
    require(
        q_min <= q_max,
        f"q_min = {q_min} exceeds q_max = {q_max}",
        allowed="0 <= q_min <= q_max <= 1",
        remedy="swap the two",
    )
    phi = setting.rng.permutation(np.linspace(0, 1, setting.histograms.shape[1]))
    return np.clip(low + (high - low) * (setting.histograms @ phi), low, high)  # rounding could leave the interval


def _independent(setting: Setting, q: np.ndarray) -> Trace:
    arrived = setting.rng.random(setting.shape) < q
    return make_trace(arrived, Cause.TRANSIENT, np.broadcast_to(q, setting.shape).copy(), q)


def _per_client(name: str, value: Rate, setting: Setting) -> np.ndarray:
    """`value` as float64 [N]."""
    n_clients = setting.shape[1]
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty((0, 0))  # not numbers: refused below
    require(
        values.shape in ((), (n_clients,)),
        f"{name} is {value}",
        allowed=f"one number, or one for each of the {n_clients} clients",
        remedy=f"give {name} as a number or as {n_clients} numbers",
    )
    return np.broadcast_to(values, n_clients).copy()


def _probabilities(name: str, value: Rate, setting: Setting) -> np.ndarray:
    values = _per_client(name, value, setting)
    require(
        bool(((values >= 0) & (values <= 1)).all()),
        f"{name} is {value}",
        allowed="probabilities in [0, 1]",
        remedy=f"bring {name} into this interval",
    )
    return values


def _durations(name: str, value: Rate, setting: Setting) -> np.ndarray:
    values = _per_client(name, value, setting)
    require(
        bool(((values >= 1) & np.isfinite(values)).all()),
        f"{name} is {value}",
        allowed="mean durations >= 1 round",
        remedy=f"raise {name} to at least one round",
    )
    return values
