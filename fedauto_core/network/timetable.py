"""Failures by a timetable: blackouts, turns, members who come late or leave for good."""

import numpy as np

from fedauto_core.errors import is_number, require, require_number

from .base import Rate, Setting, by_label, probabilities, process
from .traces import Cause, Trace, make_trace


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
        is_number(label, whole=True) and 0 <= label < n_classes,
        f"blackout of class {label}",
        allowed=f"classes 0..{n_classes - 1}",
        remedy="choose a class of the dataset",
    )
    _require_start(start, setting)
    require_number("length", length, low=1, strict=False, whole=True)
    holds = setting.histograms[:, label] >= min_share
    require(
        0 < min_share <= 1 and bool(holds.any()),
        f"no client holds a share >= {min_share} of class {label}",
        allowed="min_share in (0, 1] that some client reaches",
        remedy="choose another class or a smaller min_share",
    )
    t = np.arange(setting.rounds)[:, None]
    off = holds & (start <= t) & (t < start + length)
    return _but_for(setting, off, Cause.BLACKOUT, probability)


@process("cyclic")
def _cyclic(setting: Setting, *, probability: Rate, period: int = 100) -> Trace:
    """Client k is on for round(L q_k) rounds (at least one) of every period of L, from a random phase on.

    After the cyclic availability of FedAU (Wang and Ji 2024), whose code starts all clients in their off time; here the
    phase is uniform over the whole period, so that the first rounds are like all others. Public: the timetable.
    """
    require_number("period", period, low=1, strict=False, whole=True)
    on_rounds = np.maximum(np.round(period * probabilities("probability", probability, setting)), 1)
    phase = setting.rng.integers(period, size=setting.shape[1])
    on = (np.arange(setting.rounds)[:, None] + phase) % period < on_rounds
    return _timetable(on, on_rounds / period)


@process("block_cyclic")
def _block_cyclic(setting: Setting, *, groups: int, turn: int) -> Trace:
    """Groups of clients, sorted by their most frequent class, take turns of `turn` rounds (Eichner et al. 2019; Cho et
    al. 2023): only some classes are heard at a time. Public: the timetable."""
    group = by_label(setting, groups)
    require_number("turn", turn, low=1, strict=False, whole=True)
    on = (np.arange(setting.rounds)[:, None] // turn) % groups == group
    return _timetable(on, np.full(setting.shape[1], 1 / groups))


@process("permanent_loss")
def _permanent_loss(setting: Setting, *, share: float, start: int, probability: Rate = 1.0) -> Trace:
    """A `share` of the clients, drawn by the seed, is never heard again from round `start` on; otherwise Bernoulli.

    Public: q_k and the timetable. Not stationary: the long-run rate is the mean of success_probability over T rounds.
    """
    chosen = _some(setting, share, start)
    away = chosen & (np.arange(setting.rounds)[:, None] >= start)
    return _but_for(setting, away, Cause.AWAY, probability)


@process("late_joiners")
def _late_joiners(setting: Setting, *, share: float, start: int, probability: Rate = 1.0) -> Trace:
    """A `share` of the clients, drawn by the seed, joins in round `start`; otherwise Bernoulli.

    Public: q_k and the timetable. Not stationary: the long-run rate is the mean of success_probability over T rounds.
    """
    chosen = _some(setting, share, start)
    away = chosen & (np.arange(setting.rounds)[:, None] < start)
    return _but_for(setting, away, Cause.AWAY, probability)


def _timetable(on: np.ndarray, long_run: np.ndarray) -> Trace:
    return make_trace(on, Cause.TIMETABLE, on.astype(np.float64), long_run, long_run)


def _some(setting: Setting, share: float, start: int) -> np.ndarray:
    """round(share N) clients drawn by the seed, bool [N]."""
    _require_start(start, setting)
    require_number("share", share, strict=False, high=1)
    n_clients = setting.shape[1]
    return np.isin(np.arange(n_clients), setting.rng.permutation(n_clients)[: round(share * n_clients)])


def _but_for(setting: Setting, off: np.ndarray, cause: Cause, probability: Rate) -> Trace:
    """Bernoulli with `probability`, but nothing where off [T, N]."""
    q = np.where(off, 0.0, probabilities("probability", probability, setting))
    arrived = setting.rng.random(setting.shape) < q
    return make_trace(arrived, np.where(off, cause, Cause.TRANSIENT), q, q.mean(axis=0))


def _require_start(start: int, setting: Setting) -> None:
    require(
        is_number(start, whole=True) and 0 <= start < setting.rounds,
        f"start is round {start}",
        allowed=f"integers 0..{setting.rounds - 1}",
        remedy="let the change fall within the run",
    )
