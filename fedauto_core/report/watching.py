"""What a batch shows while it runs: a live table on a terminal, else lines; and the same to another shell."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .folder import of_shape, read_state, work_folder, write_json
from .progress import Progress

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

LINES_S = 60
"""Seconds between two lines about what runs, where there is no terminal."""


@dataclass
class Board:
    """How far a batch is. minutes: expected of each notebook; processes: that each takes, of `parallel`; ended:
    notebook -> its state and seconds, none for what was up to date."""

    command: str
    parallel: int
    minutes: dict[str, float]
    processes: dict[str, int]
    ended: dict[str, list] = field(default_factory=dict)

    def pace(self) -> float:
        """Time that notebooks have taken in this batch, as a multiple of what was expected of them."""
        known = {name: seconds for name, (state, seconds) in self.ended.items() if state == "ok" and seconds}
        expected = sum(60 * self.minutes[name] for name in known)
        return sum(known.values()) / expected if expected else 1.0

    def left(self, name: str, progress: Progress | None = None) -> float:
        """Seconds that a notebook still needs: what its profile expects at this batch's pace, or what the experiment
        units that are done say of those to come, if that is more."""
        expected = 60 * self.minutes[name] * self.pace()
        if progress is None:
            return expected
        per_unit = progress.units_s / progress.done if progress.done else 0.0
        return max(expected - progress.seconds, per_unit * (progress.units - progress.done), 0.0)

    def left_in_all(self, running: Mapping[str, Progress]) -> float:
        """Seconds until all have ended, if every process always has work."""
        left = {name: self.left(name, running.get(name)) for name in self.minutes if name not in self.ended}
        work = sum(seconds * self.processes[name] for name, seconds in left.items()) / self.parallel
        return max([work, *left.values()], default=0.0)

    def summary(self, running: Mapping[str, Progress]) -> str:
        """Of the whole batch, in one line."""
        total, failed = len(self.minutes), sum(state == "failed" for state, _ in self.ended.values())
        parts = [f"{len(self.ended)} of {total} done", f"{len(running)} running"]
        parts += [f"{failed} failed"] * (failed > 0)
        return ", ".join([*parts, f"about {clock(self.left_in_all(running))} left"])


def clock(seconds: float) -> str:
    """12:05 for minutes and seconds, 1:02:05 with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def cells_of(board: Board, progress: Progress) -> tuple[str, ...]:
    """How far one notebook is: name, cell, experiment units, time, what is left."""
    cell = f"cell {progress.cell} of {progress.cells}" if progress.cell else "starting"
    units = f"{progress.done} of {progress.units} units" if progress.units else ""
    left = board.left(progress.name, progress)
    expected = f"about {clock(left)} left" if left else "longer than expected"
    return progress.name, cell, units, clock(progress.seconds), expected


def lines(board: Board, running: Mapping[str, Progress]) -> Iterator[str]:
    """The board as text: the batch, then every running notebook."""
    yield board.summary(running)
    for progress in running.values():
        yield "  ".join(["", *filter(None, cells_of(board, progress))])


def table(board: Board, running: Mapping[str, Progress]) -> "RenderableType":
    """The board for a terminal."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table

    rows, last = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    for progress in running.values():
        bar = ProgressBar(max(progress.cells, 1), progress.cell, width=20)
        *cells, left = cells_of(board, progress)
        rows.add_row(*cells, bar, left)
    last.add_row(ProgressBar(max(len(board.minutes), 1), len(board.ended), width=40), board.summary(running))
    return Group(rows, last)


class Display:
    """Shows a board. `line` prints for good; `refresh` shows what runs."""

    def __init__(self, board: Board, look: Callable[[], Mapping[str, Progress]], report: Path) -> None:
        self.board, self.look, self.report = board, look, report
        self._waited = 0.0

    def line(self, text: str) -> None:
        print(text, flush=True)
        self.keep()

    def keep(self) -> None:
        """Leave the board where `--status` reads it."""
        with suppress(OSError):  # a full disk ends what writes results, not what is only shown
            write_json(board_file(self.report), asdict(self.board))

    def refresh(self, seconds: float) -> None:
        """`seconds` have passed since it was last called."""
        self._waited += seconds
        if self._waited >= LINES_S:
            self._waited = 0.0
            print("\n".join(lines(self.board, self.look())), flush=True)


class LiveDisplay(Display):
    """The same on a terminal: lines scroll above a table that stays."""

    def __init__(self, board: Board, look: Callable[[], Mapping[str, Progress]], report: Path, console: "Console"):
        from rich.live import Live

        super().__init__(board, look, report)
        self.live = Live(console=console, auto_refresh=False, transient=True)

    def line(self, text: str) -> None:
        self.live.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.keep()

    def refresh(self, seconds: float) -> None:
        self.live.update(table(self.board, self.look()), refresh=True)


@contextmanager
def display(board: Board, look: Callable[[], Mapping[str, Progress]], report: Path) -> Iterator[Display]:
    """What shows this batch here. look: what runs now."""
    if not sys.stdout.isatty():
        plain = Display(board, look, report)
        plain.keep()
        yield plain
        return
    from rich.console import Console

    shown = LiveDisplay(board, look, report, Console())
    shown.keep()
    with shown.live:
        yield shown


def board_file(report: Path) -> Path:
    return work_folder(report) / "board.json"


def read_board(report: Path) -> Board | None:
    """The board of the batch that runs in this report or was killed there; None if there is none."""
    shape = {"command": str, "parallel": int, "minutes": dict, "processes": dict, "ended": dict}
    return read_state(board_file(report), lambda value: Board(**of_shape(value, shape)))
