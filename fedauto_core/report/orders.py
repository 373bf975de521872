"""What the batch and its workers tell each other about one notebook."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedauto_core.errors import InputError
from fedauto_core.store.writing import write_atomically

from .folder import log_file
from .sources import Value


@dataclass(frozen=True)
class Order:
    """All a worker needs for one notebook; nothing else is read from the process that sent it.

    overrides: parameters that differ from the notebook's own defaults. inputs: all that the result depends on, as
    `plan.inputs_of` names it. limit_s: seconds after which it is ended. token: of the batch that gave the order
    (`progress.holds`); a notebook of another batch is ended. variables: of the kernel's environment, that the worker
    may not have.
    """

    name: str
    source: str
    overrides: Mapping[str, Value]
    notebooks_dir: Path
    out: Path
    inputs: Mapping[str, object]
    processes: int
    fresh: bool
    command: str
    limit_s: float
    token: str
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended. cell: number in the source notebook, from 1; 0 if the error is outside of all cells."""

    name: str
    seconds: float
    error: str = ""
    cell: int = 0
    line: str = ""

    @property
    def state(self) -> str:
        return "failed" if self.error else "ok"

    @property
    def refused(self) -> bool:
        """Whether the notebook failed because it refused its input."""
        return self.error.startswith(f"{InputError.__name__}:")


def logged(outcome: Outcome, report: Path, text: str) -> Outcome:
    """The outcome of a notebook that failed, once `text` is in its log; it says so if that cannot be written."""
    try:
        write_atomically(log_file(report, outcome.name), text)
    except OSError as error:
        return replace(outcome, error=f"{outcome.error} (no log: {error})")
    return outcome
