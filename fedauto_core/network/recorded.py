"""Recorded availability: a trace replayed as it is, or sessions of devices turned into rounds.

A recording of sessions is a CSV file with the columns device,on_s,off_s: device is any name, on_s and off_s are
seconds since the start of the recording, one line per session, sessions of a device in order and apart. The one that
comes with the project, `EXAMPLE`, is not measured: it is drawn by `nightly_sessions` in the manner of recordings of
phones (Yang et al. 2021, FLASH), which may not be redistributed.
"""

import csv
from pathlib import Path

import numpy as np

from fedauto_core.errors import require, require_number

from .base import Setting, process
from .traces import Cause, Recording, Trace, make_trace

EXAMPLE = Path(__file__).parent / "example_sessions.csv"
COLUMNS = ("device", "on_s", "off_s")

Sessions = dict[str, np.ndarray]
"""Per device its sessions, float64 [sessions, 2]: on and off in seconds."""


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
def _sessions(setting: Setting, *, round_s: float, path: str = "") -> Trace:
    """Recorded sessions (empty `path`: `EXAMPLE`): each client is a device drawn with replacement, each at its own
    uniform phase, and is heard in a round if the device is on when the round of `round_s` seconds ends. The recording
    repeats itself. Public: the device's share of time on, no more; so it is also the long-run rate.
    """
    require_number("round_s", round_s)
    recorded = list(read_sessions(Path(path or EXAMPLE)).values())
    span = max(times[-1, 1] for times in recorded)
    arrived = np.empty(setting.shape, dtype=bool)
    share = np.empty(setting.shape[1])
    ends = (1 + np.arange(setting.rounds)) * round_s
    for client, device in enumerate(setting.rng.integers(len(recorded), size=setting.shape[1])):
        on, off = recorded[device].T
        at = (setting.rng.uniform(0, span) + ends) % span
        session = np.searchsorted(on, at, side="right") - 1
        arrived[:, client] = (session >= 0) & (at < off[session])
        share[client] = (off - on).sum() / span
    return make_trace(arrived, Cause.RECORDED, np.broadcast_to(share, setting.shape).copy(), share)


def read_sessions(path: Path) -> Sessions:
    """The sessions of a recording. InputError with file and line for whatever breaks the format."""
    rule = f"columns {','.join(COLUMNS)}; 0 <= on_s < off_s in seconds; sessions of a device in order and apart"
    recording = Recording(path, COLUMNS, rule)
    refuse, found = recording.refuse, {}
    for line, row in recording.rows():
        try:
            on, off = float(row[1]), float(row[2])
        except ValueError:
            raise refuse(line, f"{row[1]!r} and {row[2]!r} are not both numbers") from None
        if not 0 <= on < off < float("inf"):
            raise refuse(line, f"a session from {on} to {off}")
        before = found.setdefault(row[0], [])
        if before and on < before[-1][1]:
            raise refuse(line, f"device {row[0]!r} is on again at {on}, before {before[-1][1]}, when it went off")
        before.append((on, off))
    if not found:
        raise refuse(1, "no session")
    return {device: np.array(times) for device, times in found.items()}


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
