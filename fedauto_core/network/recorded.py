"""Recorded availability: a trace replayed as it is, or sessions of devices turned into rounds.

A recording of sessions is a CSV file with the columns device,on_s,off_s: device is any name, on_s and off_s are
seconds since the start of the recording, one line per session, sessions of a device in order and apart. A column
period_s may state how long a device was recorded. Times of day (ISO 8601, taken as UTC unless they name a zone) and
Unix time in seconds are taken relative to the earliest on_s; the trace says so (`Trace.note`). Where every time could
be a date without dashes as well as seconds (20240701), the recording is refused. The recording that comes
with the project, `EXAMPLE`, is not measured: it is drawn by `nightly_sessions` in the manner of recordings of phones
(Yang et al. 2021, FLASH), which may not be redistributed.
"""

import csv
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedauto_core.errors import require, require_number

from .base import Setting, process
from .traces import Cause, Recording, Trace, make_trace

EXAMPLE = Path(__file__).parent / "example_sessions.csv"
COLUMNS = ("device", "on_s", "off_s")
RULE = (
    f"columns {','.join(COLUMNS)}, maybe period_s; 0 <= on_s < off_s <= period_s in seconds, or dates and times in ISO "
    "8601; sessions of a device in order and apart"
)
SINCE_START = 10  # a recording does not begin later than after this many of its own spans
MILLISECONDS = 1e11  # seconds of Unix time in the year 5138

Sessions = dict[str, np.ndarray]
"""Per device its sessions, float64 [sessions, 2]: on and off in seconds."""


class Log(NamedTuple):
    """A recording. periods: seconds that a device was recorded, where that is stated; note: what was assumed."""

    sessions: Sessions
    periods: dict[str, float]
    note: str


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


@process("sessions")
def _sessions(setting: Setting, *, round_s: float, path: str = "", period_s: float | None = None) -> Trace:
    """Recorded sessions (empty `path`: `EXAMPLE`): each client is a device drawn with replacement, each at its own
    uniform phase, and is heard in a round if the device is on when the round of `round_s` seconds ends. The recording
    repeats itself, after the device's own period_s if the file states it, else after `period_s`, else after the last
    off_s of all. Public: the device's share of time on, no more; so it is also the long-run rate.
    """
    require_number("round_s", round_s)
    log = read_sessions(Path(path or EXAMPLE))
    recorded = list(log.sessions.items())
    span = max(times[-1, 1] for _, times in recorded)
    if period_s is not None:
        remedy = "state the length of the recording, not less than its last off_s"
        require_number("period_s", period_s, low=span, strict=False, remedy=remedy)
        span = period_s
    arrived = np.empty(setting.shape, dtype=bool)
    share = np.empty(setting.shape[1])
    ends = (1 + np.arange(setting.rounds)) * round_s
    for client, device in enumerate(setting.rng.integers(len(recorded), size=setting.shape[1])):
        name, times = recorded[device]
        on, off = times.T
        period = log.periods.get(name, span)
        at = (setting.rng.uniform(0, period) + ends) % period
        session = np.searchsorted(on, at, side="right") - 1
        arrived[:, client] = (session >= 0) & (at < off[session])
        share[client] = (off - on).sum() / period
    trace = make_trace(arrived, Cause.RECORDED, np.broadcast_to(share, setting.shape).copy(), share)
    return replace(trace, note=log.note)


def read_sessions(path: Path) -> Log:
    """The sessions of a recording. InputError with file and line for whatever breaks the format."""
    recording = Recording(path, COLUMNS, RULE, optional=("period_s",))
    refuse, found, periods, kinds, last, doubtful = recording.refuse, {}, {}, set(), {}, []
    for line, (device, on_text, off_text, period) in recording.rows():
        try:
            (on, kind), (off, other) = _seconds(on_text), _seconds(off_text)
        except ValueError:
            raise refuse(line, f"{on_text!r} and {off_text!r} are not both numbers, nor both dates") from None
        kinds |= {kind, other}
        if len(kinds) > 1:
            raise refuse(line, f"{on_text!r} and {off_text!r}: numbers and dates are mixed")
        if not 0 <= on < off < float("inf"):
            raise refuse(line, f"a session from {on_text} to {off_text}")
        if kind == "number" and off > MILLISECONDS:
            raise refuse(line, f"{off_text} is no time in seconds; milliseconds must be divided by 1000")
        doubtful += [_dated(on_text), _dated(off_text)]
        before = found.setdefault(device, [])
        if before and on < before[-1][1]:
            raise refuse(line, f"device {device!r} is on again at {on_text}, before it went off ({before[-1][1]:g})")
        before.append((on, off))
        last[device] = line
        if periods.setdefault(device, period) != period:
            raise refuse(line, f"device {device!r} has the period_s {period!r}, above {periods[device]!r}")
    if not found:
        raise refuse(1, "no session")
    if all(doubtful):
        raise refuse(min(last.values()), "all times could be dates or seconds; write dates as 2024-07-01")
    origin, note = _origin([times[0][0] for times in found.values()], [times[-1][1] for times in found.values()], kinds)
    sessions = {device: np.array(times) - origin for device, times in found.items()}
    stated = {device: text for device, text in periods.items() if text}
    for device, text in stated.items():
        try:
            stated[device] = float(text)
        except ValueError:
            raise refuse(last[device], f"period_s = {text!r} is no number") from None
        if not sessions[device][-1, 1] <= stated[device] < float("inf"):
            raise refuse(last[device], f"period_s = {text} is less than {sessions[device][-1, 1]:g}, the last off_s")
    return Log(sessions, stated, note)


def _seconds(text: str) -> tuple[float, str]:
    """A time in seconds, and whether it is written as a "number" or a "date"; ValueError if it is neither."""
    try:
        return float(text), "number"
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), "date"


def _dated(text: str) -> bool:
    """Whether a number is a date of the twentieth or twenty-first century, as 20240701 is."""
    try:
        return bool(re.fullmatch(r"(19|20)\d{6}", text) and datetime.strptime(text, "%Y%m%d"))
    except ValueError:
        return False


def _origin(first: list[float], last: list[float], kinds: set[str]) -> tuple[float, str]:
    """The zero of times with these first on_s and last off_s of the devices, and a sentence if that is not 0."""
    start = min(first)
    if kinds == {"number"} and start <= SINCE_START * (max(last) - start):
        return 0.0, ""
    return start, f"times are relative to the earliest on_s, {datetime.fromtimestamp(start, UTC):%Y-%m-%d %H:%M:%S} UTC"


def write_sessions(sessions: Sessions, path: Path) -> None:
    """Write a recording that `read_sessions` reads; times in whole seconds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for device, times in sessions.items():
            writer.writerows((device, f"{on:.0f}", f"{off:.0f}") for on, off in times)


def nightly_sessions(rng: np.random.Generator, devices: int, days: int) -> Sessions:
    """Phones on the charger: each has its own usual bedtime and length of night, kept within an hour or so, a missed
    night in ten, and now and then an hour on the charger by day. Our invention, see the module."""
    sessions = {}
    for device in range(devices):
        bedtime, night = rng.normal(23, 1.5), rng.uniform(5, 9)  # hours
        times = []
        for day in range(-1, days):  # the first night has begun the day before
            noon, start = 24 * day + rng.uniform(10, 18), 24 * day + bedtime + rng.normal(0, 0.7)
            if rng.random() < 0.4:
                times.append((noon, noon + rng.uniform(0.3, 1.5)))
            if rng.random() < 0.9:
                times.append((max(start, noon + 2), start + max(night + rng.normal(0, 0.7), 3)))
        seconds = np.round(np.clip(times, 0, 24 * days) * 3600)
        sessions[f"phone{device:02}"] = seconds[seconds[:, 0] < seconds[:, 1]]
    return sessions
