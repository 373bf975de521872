"""What all failure processes share: the scenario, what a process gets, the register, and the checks of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require, require_known, require_number
from fedauto_core.seeding import stream

from .traces import Trace

Rate = float | tuple[float, ...]  # one value for all clients, or one per client


@dataclass(frozen=True)
class Scenario:
    """A failure process with its options.

    Parameters
    ----------
    name : of the scenario, for tables
    process : one of `PROCESSES`
    options : (key, value) pairs: hashable, so that it can be part of a key
    """

    name: str
    process: str
    options: tuple[tuple[str, object], ...] = ()


def draw_trace(scenario: Scenario, *, rounds: int, histograms: np.ndarray, seed: int) -> Trace:
    """The trace of a scenario; the same arguments give the same trace.

    Parameters
    ----------
    scenario : the failure process and its options
    rounds : T
    histograms : label histograms [N, C] of the clients, rows sum to one
    seed : of the run

    Raises
    ------
    InputError : for an unknown process or option, or a value out of range
    """
    require_number("rounds", rounds, low=1, strict=False, whole=True)
    pi = np.asarray(histograms, dtype=np.float64)
    require(
        pi.ndim == 2 and pi.size > 0 and bool((pi >= 0).all()) and np.allclose(pi.sum(axis=-1), 1),
        f"label histograms of shape {pi.shape}",
        allowed="shape [clients, classes], entries >= 0, rows summing to one",
        remedy="pass the clients' histograms, federation.alpha[1:]",
    )
    return drawn(scenario, Setting(stream(seed, "trace"), rounds, pi))


def drawn(scenario: Scenario, setting: Setting) -> Trace:
    """What the scenario's process makes of `setting`, after a check of the option names."""
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
    return draw(setting, **options)


class Setting(NamedTuple):
    """What every process gets: its random stream, the number of rounds T, the clients' label histograms [N, C]."""

    rng: np.random.Generator
    rounds: int
    histograms: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.rounds, len(self.histograms)


PROCESSES: dict[str, Callable[..., Trace]] = {}


def process(name: str) -> Callable[[Callable[..., Trace]], Callable[..., Trace]]:
    """Register `draw(setting, *, options)` as a failure process; its keyword-only parameters are its options."""

    def register(draw: Callable[..., Trace]) -> Callable[..., Trace]:
        PROCESSES[name] = draw
        return draw

    return register


def per_client(name: str, value: Rate, setting: Setting) -> np.ndarray:
    """`value` as float64 [N]."""
    n_clients = setting.shape[1]
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.empty((0, 0))  # not numbers: refused below
    require(
        values.shape in ((), (n_clients,)),
        f"{name} = {value}",
        allowed=f"one number, or one for each of the {n_clients} clients",
        remedy=f"give {name} as a number or as {n_clients} numbers",
    )
    return np.broadcast_to(values, n_clients).copy()


def probabilities(name: str, value: Rate, setting: Setting) -> np.ndarray:
    values = per_client(name, value, setting)
    require(
        bool(((values >= 0) & (values <= 1)).all()),
        f"{name} = {value}",
        allowed="probabilities in [0, 1]",
        remedy=f"bring {name} into this interval",
    )
    return values


def durations(name: str, value: Rate, setting: Setting) -> np.ndarray:
    values = per_client(name, value, setting)
    require(
        bool(((values >= 1) & np.isfinite(values)).all()),
        f"{name} = {value}",
        allowed="mean durations >= 1 round",
        remedy=f"raise {name} to at least one round",
    )
    return values


def autoregressive(noise: np.ndarray, memory: float) -> np.ndarray:
    """x_r = memory x_{r-1} + noise_r over the rounds, x_{-1} = 0."""
    from scipy.signal import lfilter  # takes a second, so only who needs it does

    return lfilter([1.0], [1.0, -memory], noise)


def by_label(setting: Setting, groups: int) -> np.ndarray:
    """Group 0..groups - 1 of each client, int64 [N]: sorted by the most frequent class, cut into equal parts."""
    n_clients = setting.shape[1]
    remedy = "ask for at most one group per client"
    require_number("groups", groups, low=1, high=n_clients, strict=False, whole=True, remedy=remedy)
    order = np.argsort(setting.histograms.argmax(axis=1), kind="stable")
    group = np.empty(n_clients, dtype=np.int64)
    for number, members in enumerate(np.array_split(order, groups)):
        group[members] = number
    return group
