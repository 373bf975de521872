"""What runs right now: small files in the report's work folder, written by the workers and read by whoever watches.

They hold seconds since the start, never times of day, so that no clock has to be right.
"""

import contextlib
import json
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from .folder import of_shape, work_folder, write_json

SUFFIX = ".running.json"
SOCKETS = "fa-"
"""How the names of folders of sockets begin."""
OUTPUT = "FEDAUTO_OUTPUT"
"""Variable of a kernel, and of all processes that it starts, that names the folder of its notebook."""


@dataclass(frozen=True)
class Progress:
    """How far a notebook is. cell: number in the source notebook, 0 before the first, of `cells`; done of `units`
    experiment units in that cell, computed for `units_s` of all its `seconds`. worker: host and process number;
    sockets: folder of the kernel's sockets there."""

    name: str
    cell: int
    cells: int
    seconds: float
    done: int
    units: int
    units_s: float
    worker: str
    sockets: str


SHAPE = {
    field: {"str": str, "int": int, "float": (int, float)}[kind.__name__]
    for field, kind in Progress.__annotations__.items()
}


def this_worker() -> str:
    return f"{platform.node()}:{os.getpid()}"


def state_file(report: Path, name: str) -> Path:
    """Where the worker says how far notebook `name` is; the file exists while it runs."""
    return work_folder(report) / f"{name}{SUFFIX}"


def write_progress(report: Path, progress: Progress) -> None:
    write_json(state_file(report, progress.name), asdict(progress))


def read_progress(report: Path) -> dict[str, Progress]:
    """Notebook name -> how far it is, of all that run."""
    found = {}
    for path in sorted(work_folder(report).glob(f"*{SUFFIX}")):
        with contextlib.suppress(OSError, ValueError, TypeError):  # ended meanwhile, or damaged: not shown
            state = Progress(**of_shape(json.loads(path.read_bytes()), SHAPE))
            found[state.name] = state
    return found


def token_file(report: Path) -> Path:
    """Names the batch that has the report; gone when it ends."""
    return work_folder(report) / "token"


def holds(report: Path, token: str) -> bool:
    """Whether the batch with this token still has the report, as seen from here."""
    try:
        return token_file(report).read_text(encoding="utf-8") == token
    except OSError:
        return False


def end_processes(folder: Path) -> None:
    """Kill all processes on this machine that work for the notebook whose results grow in `folder`.

    They are told by their environment: a process whose parent was killed is found as well, another one never."""
    for _ in range(3):  # what was started while the others were looked for
        found = [process for process in psutil.process_iter() if _works_for(process, folder)]
        for process in found:
            with contextlib.suppress(psutil.Error):  # ended by itself meanwhile
                process.kill()
        if not found:
            break
        psutil.wait_procs(found, timeout=5)


def _works_for(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get(OUTPUT) == str(folder)
    except (psutil.Error, OSError):  # ended, or somebody else's
        return False


def clear_up(report: Path, name: str) -> None:
    """Take away what a worker of this machine that was killed has left of a notebook: processes, sockets, files."""
    folder = work_folder(report) / name
    end_processes(folder)
    state = read_progress(report).get(name)
    here = state is not None and state.worker.rpartition(":")[0] == platform.node()
    if here and Path(state.sockets).name.startswith(SOCKETS):  # whatever a damaged file says, nothing else is deleted
        shutil.rmtree(state.sockets, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    state_file(report, name).unlink(missing_ok=True)
