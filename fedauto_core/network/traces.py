"""A run's uploads: what arrived, why the rest did not, and how it is stored."""

from __future__ import annotations

import csv
import functools
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pandas as pd

from fedauto_core.errors import InputError


class Cause(IntEnum):
    """Why an upload did not arrive."""

    OK = 0
    TRANSIENT = 1  # fading, collision: the next upload may already succeed
    LONG = 2  # disconnected for a number of rounds
    BLACKOUT = 3  # switched off on purpose
    RECORDED = 4  # replayed, cause unknown
    TIMETABLE = 5  # not its turn
    AWAY = 6  # has not joined yet, or left for good
    SHARED = 7  # lost together with others
    ADVERSARY = 8  # silenced
    DOWNLINK = 9  # never got the model
    DEADLINE = 10  # the upload would have got through, had the computing not taken so long


CAUSES = (
    "arrived", "transient failure", "long outage", "class blackout", "recorded failure", "not its turn",
    "not a member", "shared failure", "silenced", "downlink failure", "deadline missed",
)  # by code, for legends  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trace:
    """What the network does to every upload.

    arrived bool [T, N]; cause int8 [T, N] (`Cause`); long_run_probability float64 [N]: of arrival;
    success_probability float64 [T, N]: the true probability of arrival given what the process makes public before
    round t (each process of `network` states what); marginal_probability float64 [T, N]: the same for one who knows the
    law but neither the state of a channel nor whose turn it is (of radio links, which publish the shadowing of clients
    that move and the computing times: the same as success_probability). For oracles only. note: what was assumed in
    reading a recording, "" if nothing was.
    """

    arrived: np.ndarray
    cause: np.ndarray
    success_probability: np.ndarray
    long_run_probability: np.ndarray
    marginal_probability: np.ndarray
    note: str = ""

    @property
    def sha256(self) -> str:
        """Identity of the arrivals (shape and values)."""
        return hashlib.sha256(f"{self.arrived.shape}".encode() + self.arrived.tobytes()).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 of all that a run can see: the arrivals, and the probabilities that oracles are told."""
        told = (self.success_probability, self.long_run_probability, self.marginal_probability)
        parts = (self.arrived, *told)
        return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()

    def describe(self) -> pd.DataFrame:
        """Per client 1..N: arrival rate, its long-run value, longest gap, mean length of on and off runs (rounds).

        A mean run length is NaN where there is no such run. The table's `attrs` hold the `note`.
        """
        gap = longest = np.zeros(self.arrived.shape[1], dtype=np.int64)
        for arrived in self.arrived:
            gap = np.where(arrived, 0, gap + 1)
            longest = np.maximum(longest, gap)
        table = pd.DataFrame(
            {
                "arrival_rate": self.arrived.mean(axis=0),
                "long_run_rate": self.long_run_probability,
                "longest_gap": longest,
                "mean_on_run": _mean_run(self.arrived),
                "mean_off_run": _mean_run(~self.arrived),
            },
            index=pd.RangeIndex(1, self.arrived.shape[1] + 1, name="client"),
        )
        table.attrs["note"] = self.note
        return table

    def to_csv(self, path: Path | str) -> None:
        """Columns round (from 0), client (from 1), arrived (0 or 1), cause (of `CAUSES`; empty where it arrived); one
        line per upload."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow((*CSV_COLUMNS, CSV_CAUSE))
            for (t, k), value in np.ndenumerate(self.arrived):
                writer.writerow((t, k + 1, int(value), "" if value else CAUSES[self.cause[t, k]]))

    @classmethod
    def from_csv(cls, path: Path | str, n_clients: int | None = None) -> Trace:
        """Read what `to_csv` (or that of a data frame) writes, lines in any order; every (round, client) exactly once.
        The cause may be missing; one in other words, or none, is "recorded failure".

        A recording has no known law: each of its probabilities is the recorded rate of the client.
        InputError with file and line for gaps, duplicates, unknown clients, values other than 0, 1, true and false,
        missing columns, and a cause that contradicts the arrival.
        """
        cause = _read_recording(Path(path), n_clients)
        arrived = cause == Cause.OK
        rate = arrived.mean(axis=0)
        return make_trace(arrived, cause, np.broadcast_to(rate, arrived.shape).copy(), rate)


def make_trace(
    arrived: np.ndarray,
    cause_if_lost: np.ndarray | Cause,
    q: np.ndarray,
    long_run_probability: np.ndarray,
    marginal: np.ndarray | None = None,
) -> Trace:
    """Trace whose missing uploads have `cause_if_lost` (one for all, or [T, N]); q is success_probability, marginal
    ([T, N] or, for a stationary process, [N]) marginal_probability, if that is another."""
    cause = np.where(arrived, Cause.OK, cause_if_lost).astype(np.int8)
    everywhere = q if marginal is None else np.broadcast_to(marginal, q.shape).copy()
    return Trace(arrived, cause, q, long_run_probability, everywhere)


def _mean_run(on: np.ndarray) -> np.ndarray:
    """Mean length of the runs of True in each column; NaN where there is none."""
    starts = on[0] + (on[1:] & ~on[:-1]).sum(axis=0)
    return np.where(starts > 0, on.sum(axis=0) / np.maximum(starts, 1), np.nan)


CSV_COLUMNS, CSV_CAUSE = ("round", "client", "arrived"), "cause"
TRUTH = {"true": "1", "false": "0"}  # as data frames write it, in any case
_CSV_RULE = (
    "columns round,client,arrived and, if known, cause; rounds from 0, clients from 1, arrived 0 or 1, true or false, "
    "a cause where it is 0; every (round, client) once"
)


@dataclass(frozen=True)
class Recording:
    """A CSV file in UTF-8, with a byte-order mark or without, whose first line names `columns` in any order, and maybe
    others; empty lines count for nothing, and whatever else breaks `rule` is refused with its line."""

    path: Path
    columns: tuple[str, ...]
    rule: str
    optional: tuple[str, ...] = ()

    def refuse(self, line: int, what: str) -> InputError:
        """The error to raise about a line (from 1)."""
        return InputError(
            f"{self.path}, line {line}: {what}", allowed=self.rule, remedy="correct that line of the recording"
        )

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and values (of `columns`, then of `optional`, "" where there is no such column) of each line
        except the first. InputError for an unreadable file or a wrong shape; other columns are told once and left out.
        """
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read the recording {self.path}: {error}", allowed=self.rule, remedy="check the file"
            ) from error
        reader = csv.reader(text.splitlines())
        header = [name.strip() for name in next(reader, [])]
        known = (*self.columns, *self.optional)
        if not {*self.columns} <= {*header} or any(header.count(name) > 1 for name in known):
            raise self.refuse(1, f"columns are {','.join(header)!r}")
        if others := [name for name in header if name not in known]:
            _tell(f"{self.path}: columns {', '.join(map(repr, others))} are not used")
        places = [header.index(name) if name in header else None for name in known]
        for row in reader:
            if not any(value.strip() for value in row):
                continue
            if len(row) != len(header):
                raise self.refuse(reader.line_num, f"{len(row)} values instead of {len(header)}")
            yield reader.line_num, ["" if place is None else row[place].strip() for place in places]


@functools.cache  # once, however many seeds draw a trace from the same file
def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _read_recording(path: Path, n_clients: int | None) -> np.ndarray:
    """The causes [T, N], `Cause.OK` where it arrived."""
    recording = Recording(path, CSV_COLUMNS, _CSV_RULE, optional=(CSV_CAUSE,))
    refuse = recording.refuse

    def number(text: str, line: int) -> int:
        whole = re.fullmatch(r"(\d+)(\.0*)?", text)  # a column with a gap makes a data frame write 1.0
        if not whole:
            raise refuse(line, f"{text!r} is not a whole number >= 0")
        return int(whole[1])

    known = {word: code for code, word in enumerate(CAUSES)} | {"": Cause.RECORDED}
    recorded: dict[tuple[int, int], tuple[int, int]] = {}  # (round, client) -> (line, cause)
    for line, (*numbers, answer, told) in recording.rows():
        t, client, arrived = (number(text, line) for text in (*numbers, TRUTH.get(answer.lower(), answer)))
        if client < 1 or client > (n_clients or client):
            raise refuse(line, f"unknown client {client}" + (f" (there are {n_clients})" if n_clients else ""))
        if arrived > 1:
            raise refuse(line, f"arrived is {arrived}")
        if told and arrived != (told == CAUSES[Cause.OK]):
            raise refuse(line, f"arrived is {arrived}, with the cause {told!r}")
        if (t, client) in recorded:
            raise refuse(line, f"round {t}, client {client} was already on line {recorded[t, client][0]}")
        recorded[t, client] = (line, Cause.OK if arrived else known.get(told, Cause.RECORDED))
    width = n_clients or max((client for _, client in recorded), default=1)
    previous_line = 1
    for place, (key, (line, _)) in enumerate(sorted(recorded.items())):
        t, k = divmod(place, width)
        if key != (t, k + 1):
            raise refuse(previous_line, f"round {t}, client {k + 1} is missing after this line")
        previous_line = line
    if not recorded or len(recorded) % width:
        t, k = divmod(len(recorded), width)
        raise refuse(previous_line, f"round {t}, client {k + 1} is missing after this line")
    return np.array([cause for _, (_, cause) in sorted(recorded.items())], dtype=np.int8).reshape(-1, width)


def coverage(trace: Trace, class_counts: np.ndarray) -> np.ndarray:
    """Samples of each class behind the uploads that arrive, int64 [T, C]; class_counts [N, C] of the clients."""
    return trace.arrived.astype(np.int64) @ class_counts
