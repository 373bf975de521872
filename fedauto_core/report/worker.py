"""One notebook executed in its own kernel; the result appears at its place complete or not at all."""

import contextlib
import errno
import itertools
import logging
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import nbformat
import papermill
import psutil
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import run_sync
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import Dict

from fedauto_core.errors import require
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import OPTIONAL_PACKAGES, versions
from fedauto_core.store.saved import read_saved
from fedauto_core.store.workers import SCHEDULER, step_aside

from .folder import clear, file_hashes, log_file, place_page, read_manifest, work_folder, write_json
from .guard import Abandoned, Ended, Guard, death, memory_kills
from .machine import machine
from .orders import Order, Outcome, logged
from .plain import ANSI
from .progress import OUTPUT, SOCKETS, clear_up, end_processes
from .sources import PARAMETERS_TAG

INJECTED = "injected-parameters"
LONGEST_SOCKET_FOLDER = 100  # a Unix socket's path ends at 107 bytes, its name "/k-1" included
logging.getLogger("papermill").addHandler(logging.NullHandler())  # failures are told once, by the batch
START_S = 600  # a kernel that dies is seen at once; one that starts is waited for on the slowest machine
OUTPUT_S = 60  # for what a cell has put out to arrive after its end, on a busy machine
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
UNALLOCATED = re.compile(r"^\w*MemoryError\b|DefaultCPUAllocator: can't allocate memory")
KILLED = re.compile(r"the kernel was ended by SIGKILL|BrokenProcessPool\b")
LESS = "use less, or fewer --jobs"
VOLATILE = (
    # Process number in the file name of a cell's warnings; begun at words only, for the time not to be quadratic.
    (re.compile(r"(?<!\S)\S*ipykernel_\d+[\\/]\d+\.py"), "cell"),
    (re.compile(r"\bat 0x[0-9a-f]+"), "at 0x…"),
)


class Kernel(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels are installed, with `environment` in its variables."""

    environment = Dict()
    opened: AsyncKernelClient | None = None

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        values = {name: str(value).replace("$", "$$") for name, value in self.environment.items()}
        return KernelSpec(argv=argv, display_name="Python 3", language="python", env=values)

    def client(self, **options: object) -> AsyncKernelClient:
        """The notebook client leaves the connection to a kernel that it did not start open, so remember it."""
        self.opened = super().client(**options)
        return self.opened

    def stop(self) -> None:
        """Close the connection and end the process, whatever state they are in."""
        if self.opened is not None:
            self.opened.stop_channels()
        if self.has_kernel:
            run_sync(self.shutdown_kernel)(now=True)

    @property
    def exit_status(self) -> int | None:
        """Of a kernel that died, as subprocess gives it: minus the signal that killed it."""
        process = getattr(self.provisioner, "process", None)
        return process.poll() if process else None

    @property
    def peak_mib(self) -> int | None:
        """Peak resident memory of the kernel process in MiB; None where there is none or the system does not tell."""
        try:
            status = Path(f"/proc/{self.provisioner.pid}/status").read_text(encoding="utf-8")
        except (OSError, AttributeError):
            return None
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        return round(int(found[1]) / 1024) if found else None


def follow(parent: Connection) -> None:
    """Worker initialiser: when the other end of `parent` closes (asked to stop, or dead), stop the kernel and leave."""

    def watch() -> None:
        try:
            parent.recv()
        except EOFError:
            for child in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):  # it has ended by itself meanwhile
                    child.kill()
            for folder in list(_sockets):
                shutil.rmtree(folder, ignore_errors=True)
            os._exit(1)

    # Ctrl-C reaches the whole process group but the batch decides. A function: kernels would inherit SIG_IGN.
    signal.signal(signal.SIGINT, lambda *_: None)
    threading.Thread(target=watch, daemon=True).start()


_sockets: set[str] = set()


def run_notebook(order: Order) -> Outcome:
    """Execute one notebook. Its folder in the report is replaced only if all succeeded; else a log is written."""
    started = time.monotonic()
    folder = work_folder(order.out) / order.name
    reached: list[str] = []
    source = nbformat.reads(order.source, as_version=4)
    kills = memory_kills()
    if SCHEDULER in order.variables:
        step_aside()  # for the notebook's own units
    try:
        clear_up(order.out, order.name)
        folder.mkdir(parents=True)
        executed, peak, saved = _execute(order, source, folder, reached)
        final = _published(source, executed, folder, order)
        nbformat.write(final, folder / f"{order.name}.ipynb")
        seconds = round(time.monotonic() - started, 1)
        _write_manifest(order, folder, seconds, peak, saved)
        place_page(folder, order.out / order.name)
        clear(log_file(order.out, order.name))
        return Outcome(order.name, seconds)
    except Exception as error:  # whatever goes wrong in one notebook is reported and must not stop the others
        outcome = _failure(order, time.monotonic() - started, error, source, reached, memory_kills() > kills)
        clear(folder)  # on a full disk it makes the room for the log
        if isinstance(error, Abandoned):
            return outcome
        details = "\n".join(error.traceback) if isinstance(error, PapermillExecutionError) else traceback.format_exc()
        return logged(outcome, order.out, f"{order.command}\n\n{outcome.error}\n\n{ANSI.sub('', details)}\n")
    finally:
        clear_up(order.out, order.name)


def _execute(
    order: Order, source: nbformat.NotebookNode, folder: Path, reached: list[str]
) -> tuple[nbformat.NotebookNode, int | None, float]:
    """The executed notebook, its peak memory, and the seconds that the cache has saved (NaN: nobody knows).

    `reached` collects the identifiers of the cells that were started. Ended if it came to no end.
    """
    require(
        len(tempfile.gettempdir()) + len("/fa-12345678") <= LONGEST_SOCKET_FOLDER,
        f"temporary folder {tempfile.gettempdir()}",
        allowed=f"a path that leaves room within the {LONGEST_SOCKET_FOLDER} bytes of a socket's folder",
        remedy="set TMPDIR to a shorter path",
    )
    sockets = tempfile.mkdtemp(prefix=SOCKETS)
    _sockets.add(sockets)
    one_thread = {f"{library}_NUM_THREADS": 1 for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {
        **order.variables,
        **one_thread,
        OUTPUT: folder,
        "FEDAUTO_PROGRESS": f"{sockets}/units.json",
        "FEDAUTO_REPORT": order.out,
        "FEDAUTO_CODE": order.inputs["code_sha256"],
        "FEDAUTO_FRESH": int(order.fresh),
        "FEDAUTO_PROCESSES": order.processes,
        "FEDAUTO_SAVED": f"{sockets}/saved.txt",
        "IPYTHONDIR": f"{sockets}/ipython",  # the user's start-up files must not change a result
        "PYTHONHASHSEED": 0,
    }
    # One private folder per run: kernels that start side by side race for TCP ports, and for IPC names too.
    kernel = Kernel(transport="ipc", ip=f"{sockets}/k", connection_file=f"{sockets}/c.json", environment=environment)
    numbers = {cell.id: number for number, cell in enumerate(source.cells, 1)}
    guard = Guard(order, folder, sockets, Path(sockets, "units.json"), len(source.cells), lambda: kernel.peak_mib)

    def enter(cell: nbformat.NotebookNode, cell_index: int) -> None:
        reached.append(cell.id)
        guard.enter(numbers.get(cell.id, cell_index), cell)

    guard.start()
    try:
        executed = papermill.execute_notebook(
            nbformat.from_dict(source),
            None,
            parameters=dict(order.overrides),
            kernel_name="python3",
            language="python",
            progress_bar=False,
            km=kernel,
            resources={"metadata": {"path": str(order.notebooks_dir)}},
            record_timing=False,
            start_timeout=START_S,
            iopub_timeout=OUTPUT_S,
            on_cell_start=enter,
        )
        if excess := guard.excess():
            raise Ended(excess)
        _require_the_end(executed)
        return executed, kernel.peak_mib, read_saved(Path(environment["FEDAUTO_SAVED"]))
    except Exception as error:
        guard.stop()
        if guard.reason:
            raise (Abandoned if guard.abandoned else Ended)(guard.reason) from error
        if isinstance(error, DeadKernelError):
            raise Ended(death(kernel.exit_status, guard.peak_mib)) from error
        raise
    finally:
        guard.stop()
        end_processes(folder)  # idle ones would report the interrupt that comes now, others would outlive the kernel
        kernel.stop()
        shutil.rmtree(sockets, ignore_errors=True)
        _sockets.discard(sockets)


def _published(
    source: nbformat.NotebookNode, executed: nbformat.NotebookNode, folder: Path, order: Order
) -> nbformat.NotebookNode:
    """The source with outputs, without timings and machine paths: two fresh runs give the same bytes."""
    final = nbformat.from_dict(source)
    results = {cell.id: cell for cell in executed.cells}
    injected = [cell for cell in executed.cells if INJECTED in cell.metadata.get("tags", ())]
    for cell in injected:
        cell.id, cell.metadata = INJECTED, nbformat.from_dict({"tags": [INJECTED]})
        place = next(i for i, c in enumerate(final.cells) if PARAMETERS_TAG in c.metadata.get("tags", ()))
        final.cells.insert(place + 1, cell)
        results[INJECTED] = cell
    paths = {folder: ".", order.out: "..", order.notebooks_dir.parent: "..", Path(sys.prefix): "…", Path.home(): "~"}
    for cell in final.cells:
        if cell.cell_type == "code":
            cell.execution_count = results[cell.id].execution_count
            cell.outputs = [_linked(_without_machine(output, paths)) for output in coalesced(results[cell.id].outputs)]
    return final


def _linked(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A recorded picture lies beside the notebook, which names it instead of holding it a second time."""
    product = output.get("metadata", {}).get("fedauto", {})
    if product.get("kind") == "figure":
        output.data = nbformat.from_dict({"text/markdown": f"![{product['slug']}]({product['slug']}.png)"})
    return output


def coalesced(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell with each stream in one piece, where its first piece came, standard output before standard
    error: their pieces come as the clock cuts them. A carriage return takes back its line, as on a terminal.

    nbclient has this too, with an expression whose time is quadratic in the length of a line.
    """
    pieces: dict[str, list[str]] = {}
    found = []
    for output in outputs:
        if output.output_type != "stream":
            found.append(output)
        elif output.name in pieces:
            pieces[output.name].append(output.text)
        else:
            pieces[output.name] = [output.text]
            found.append(nbformat.from_dict(output))
    for output in found:
        if output.output_type == "stream":
            lines = "".join(pieces[output.name]).split("\n")
            output.text = "\n".join(line[line.rfind("\r", 0, len(line) - 1) + 1 :] for line in lines)
    names = [output.get("name") for output in found]
    for at, pair in enumerate(itertools.pairwise(names)):
        if pair == ("stderr", "stdout"):
            found[at : at + 2] = found[at + 1], found[at]
    return found


def _without_machine(value: object, paths: Mapping[Path, str]) -> object:
    """`value` (an output or a part of it) with paths of this machine and process numbers taken out of its text."""
    if isinstance(value, dict):
        parts = {k: v if k.startswith("image/") else _without_machine(v, paths) for k, v in value.items()}
        return nbformat.from_dict(parts)
    if isinstance(value, list):
        return [_without_machine(item, paths) for item in value]
    if not isinstance(value, str):
        return value
    for pattern, replacement in VOLATILE:
        value = pattern.sub(replacement, value)
    for path, replacement in paths.items():
        value = value.replace(str(path), replacement)
    return value


def _require_the_end(executed: nbformat.NotebookNode) -> None:
    """Ended if a cell called sys.exit: status 0 is no failure to papermill, which runs no cell after it."""
    if any(output.get("ename") == "SystemExit" for cell in executed.cells for output in cell.get("outputs", ())):
        raise Ended("stopped early by sys.exit")


def _write_manifest(order: Order, folder: Path, seconds: float, peak: int | None, saved: float = 0.0) -> None:
    """The versions and the machine are this worker's own: it may be on another one."""
    before = read_manifest(order.out / order.name) or {}
    alike = all(before.get(key) == order.inputs.get(key) for key in ("parameters", "code_sha256"))
    known = before.get("fresh_seconds") if alike else None
    fresh = known if math.isnan(saved) else round(seconds + saved, 1)
    own = {
        "versions": versions(OPTIONAL_PACKAGES),
        "machine": machine(),
        "seconds": seconds,
        "fresh_seconds": fresh,
        "peak_mib": peak,
        "files": file_hashes(folder),
    }
    write_json(folder / "manifest.json", {**order.inputs, **own})


def _failure(
    order: Order, seconds: float, error: Exception, source: nbformat.NotebookNode, reached: Sequence[str], starved: bool
) -> Outcome:
    """Where in the source notebook it happened: the last cell that was started, and its line in the traceback. starved:
    the system has killed a process for memory meanwhile."""
    lines = ""
    if isinstance(error, PapermillExecutionError):
        message, lines = f"{error.ename}: {error.evalue}", ANSI.sub("", "\n".join(error.traceback))
    else:
        message = str(error) if isinstance(error, Ended) else f"{type(error).__name__}: {error}"
    message = message.strip().splitlines()[0].removesuffix(":")
    said = re.match(r"\w+: \[Errno (\d+)\]", message)
    code = int(said[1]) if said else None
    if UNALLOCATED.search(message) or code == errno.ENOMEM:
        message = f"out of memory: {message}; {LESS}"
    elif starved and KILLED.match(message):
        message = f"out of memory: the system has killed a process for it ({message}); {LESS}"
    elif code in FULL:
        places = {"report": order.out, "cache": cache_folder(), "temporary files": Path(tempfile.gettempdir())}
        left = ", ".join(f"{_free_mb(place)} MB for {name} in {place}" for name, place in places.items())
        message = f"disk full: {message}; there are left {left}; make room, then repeat"
    elif code in REFUSED and str(cache_folder()) in message:
        message = f"cannot use the cache: {message}; set FEDAUTO_DATA to a folder that this user may write"
    numbers = {cell.id: at for at, cell in enumerate(source.cells, 1)}
    number = numbers.get(reached[-1], 0) if reached and isinstance(error, PapermillExecutionError | Ended) else 0
    at = re.findall(rf"Cell In\[{error.exec_count}\], line (\d+)", lines) if lines else []
    text = source.cells[number - 1].source.splitlines()[int(at[0]) - 1].strip() if number and at else ""
    return Outcome(order.name, round(seconds, 1), message, number, text)


def _free_mb(place: Path) -> int:
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    return shutil.disk_usage(there).free // 1_000_000
