"""Beside a running notebook: says how far it is, and ends its kernel where it goes beyond what it may use."""

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from nbformat import NotebookNode

from .orders import Order
from .progress import Progress, end_processes, holds, this_worker, write_progress

MAX_OUTPUT = 20_000_000
TICK_S = 0.5
TOLD_S = 2.0
MISSED = 4
"""Looks in a row without the batch's token after which the batch is held to be gone: network disks have lapses."""


class Ended(RuntimeError):
    """Why a notebook did not come to its end, in words for its reader."""


class Abandoned(Ended):
    """It was ended because its batch had ended."""


class Guard(threading.Thread):
    """Watches the notebook of an order from the start of its first cell.

    folder: where its results grow; sockets: those of its kernel; units: the file in which its experiments say how many
    units are done (`store.progress`); cells: how many the notebook has; peak: its kernel's peak memory in MiB.
    `reason`: why it was ended, else ""; `abandoned`: because nobody waits for it any more. `peak_mib`: what was seen
    last, for a kernel that is gone.
    """

    def __init__(
        self, order: Order, folder: Path, sockets: str, units: Path, cells: int, peak: Callable[[], int | None]
    ) -> None:
        super().__init__(daemon=True)
        self.order, self.folder, self.sockets, self.units, self.cells = order, folder, sockets, units, cells
        self._peak = peak
        self.reason, self.abandoned, self.peak_mib = "", False, 0
        self._over = threading.Event()
        self._entered: list[tuple[int, NotebookNode]] = []
        self._begin = self._cell_begin = time.monotonic()

    def enter(self, number: int, cell: NotebookNode) -> None:
        """A cell starts; number: in the source notebook, that of the cell before it for injected parameters."""
        if not self._entered:
            self._begin = time.monotonic()
        self._cell_begin = time.monotonic()
        self.units.unlink(missing_ok=True)
        self._entered.append((number, cell))

    def run(self) -> None:
        self._tell()
        told, missed = time.monotonic(), 0
        while not self._over.wait(TICK_S):
            now = time.monotonic()
            self.peak_mib = self._peak() or self.peak_mib
            if now - told >= TOLD_S:
                self._tell()
                told = now
            missed = 0 if not self.order.token or holds(self.order.out, self.order.token) else missed + 1
            self.abandoned = missed == MISSED
            self.reason = "its batch has ended before it" if self.abandoned else self.excess()
            if self.reason:
                end_processes(self.folder)
                return

    def stop(self) -> None:
        """Watch no longer."""
        self._over.set()
        self.join()

    def excess(self) -> str:
        """What the notebook has too much of, in words; "" if nothing."""
        if (limit := self.order.limit_s) < time.monotonic() - self._begin and self._entered:
            return f"time limit of {limit / 60:.3g} minutes exceeded; --timeout MINUTES sets another one"
        if (size := sum(_size(cell) for _, cell in self._entered)) > MAX_OUTPUT:
            limits = f"{size / 1e6:.0f} MB of output, {MAX_OUTPUT / 1e6:.0f} MB are allowed"
            return f"{limits}; show less, or write it into a file"
        return ""

    def _tell(self) -> None:
        number = self._entered[-1][0] if self._entered else 0
        now = time.monotonic()
        try:
            done, units = json.loads(self.units.read_bytes())
        except (OSError, ValueError):  # no experiment runs
            done = units = 0
        progress = Progress(
            name=self.order.name,
            cell=number,
            cells=self.cells,
            seconds=round(now - self._begin, 1),
            done=done,
            units=units,
            units_s=round(now - self._cell_begin, 1) if units else 0.0,
            worker=this_worker(),
            sockets=self.sockets,
        )
        with contextlib.suppress(OSError):  # a disk that is full ends the notebook where it writes what is kept
            write_progress(self.order.out, progress)


def _size(cell: NotebookNode) -> int:
    return sum(_length(output) for output in list(cell.get("outputs", ())))


def _length(value: object) -> int:
    """Characters in all texts of an output."""
    if isinstance(value, dict):
        return sum(_length(part) for part in list(value.values()))
    return sum(map(_length, value)) if isinstance(value, list) else len(value) if isinstance(value, str) else 0


def death(status: int | None, peak_mib: int | None) -> str:
    """Why a kernel died, in words. status: as of subprocess."""
    held = f" (it held up to {peak_mib} MiB)" if peak_mib else ""
    if status is None or status >= 0:
        return f"the kernel left with exit status {status}{held}"
    return f"the kernel was ended by {signal.Signals(-status).name}{held}"


def memory_kills() -> int:
    """Processes that this machine has killed for lack of memory so far; 0 where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
