"""The batch: every notebook of a profile, one process each, into a report folder. What is done already is skipped."""

import functools
import math
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from fedauto_core.errors import InputError, require, require_number
from fedauto_core.store.cores import cpus
from fedauto_core.store.writing import locked, write_atomically

from .cluster import cluster, variables
from .folder import REPORTS, clear, log_file, read_manifest, work_folder
from .orders import Order, Outcome, logged
from .overview import status_of, write_overview
from .plan import WORKER, Job, changes, inputs_of, override, read_profile, select, spread
from .processes import Processes
from .progress import SUFFIX, clear_up, read_progress, token_file
from .sources import NOTEBOOKS, read_notebooks
from .watching import Board, Display, display, lines, read_board

BAD_INPUT = 2
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C
LIMIT = 10
"""Time limit of a notebook, as a multiple of its expected minutes."""
TICK_S = 1.0
LEAVE_S = 15
"""Seconds in which notebooks on a cluster notice that their batch has ended."""


@dataclass(frozen=True)
class Batch:
    """What a command asks for. jobs: processes at a time, of one thread each; settings: `name=value` texts; timeout:
    minutes for each notebook, None for ten times the expected; scheduler: address of a Dask scheduler, None for this
    machine; token: names this one run of the command."""

    profile: str
    out: Path
    notebooks_dir: Path
    only: tuple[str, ...]
    settings: tuple[str, ...]
    grids: tuple[str, ...]
    fresh: bool
    jobs: int
    timeout: float | None = None
    scheduler: str | None = None
    token: str = field(default_factory=lambda: uuid4().hex)

    def command(self, only: Sequence[str]) -> str:
        """The command line that repeats this batch for the notebooks in `only`."""
        words = ["python", "-m", "fedauto_core", "report", "--profile", self.profile]
        if self.grids:  # a point of the product has no name of its own on the command line
            words, only = ["python", "-m", "fedauto_core", "sweep", *self.only, "--profile", self.profile], ()
        for option, values in (("--only", only), ("--set", self.settings), ("--grid", self.grids)):
            for value in values:
                words += [option, value]
        if self.notebooks_dir != NOTEBOOKS:
            words += ["--notebooks", os.path.relpath(self.notebooks_dir)]
        if self.timeout is not None:
            words += ["--timeout", f"{self.timeout:g}"]
        if self.scheduler is not None:
            words += ["--scheduler", self.scheduler]
        if self.out != REPORTS / self.profile:
            words += ["--out", os.path.relpath(self.out)]
        return shlex.join(words)


def run_report(
    profile: str,
    *,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    grids: Sequence[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    scheduler: str | None = None,
    timeout: float | None = None,
    out: Path | None = None,
    notebooks_dir: Path = NOTEBOOKS,
) -> int:
    """Build (or continue) a report and return the exit status: 0, 1 if a notebook failed, 2 if all that failed refused
    their input, 130 if interrupted.

    only: shell patterns of notebook names. settings: `name=value`, for every selected notebook with that parameter.
    grids: `name=value,value`: a page for each point of their product instead of one, and no others in the report.
    jobs: processes at a time, by default one per CPU; a `parallel` notebook's experiments take all of them.
    fresh: compute everything again, experiments included.
    scheduler: address of a Dask scheduler whose workers see the same files and have the same code; jobs is the number
    of their cores then. timeout: minutes after which a notebook is ended, by default ten times what its profile
    expects. InputError for input that does not fit.
    """
    remedy = f"leave it out to run one process per CPU ({cpus()} here)"
    parallel = cpus() if jobs is None else jobs
    require_number("--jobs", parallel, low=1, strict=False, whole=True, remedy=remedy)
    if timeout is not None:
        require_number("--timeout", timeout, remedy="leave it out for ten times the expected minutes")
    everything = read_profile(profile, notebooks_dir)
    plan = override(select(everything, only), settings)
    if grids:
        plan = everything = spread(plan, grids)
    target = (out or REPORTS / profile).resolve()
    parts = (tuple(only), tuple(settings), tuple(grids), fresh, parallel, timeout, scheduler)
    batch = Batch(profile, target, notebooks_dir.resolve(), *parts)
    if dry_run:
        _print_plan(plan, batch)
        return 0
    with _held(target):
        _clear_work(target)
        try:
            write_atomically(token_file(target), batch.token)
            with ExitStack() as opened:  # processes only when the first notebook has to run
                pool = functools.cache(lambda: opened.enter_context(_executor(batch, plan)))
                shown = opened.enter_context(display(_board(plan, batch), lambda: read_progress(target), target))
                failed = [outcome for outcome in _run(plan, batch, pool, shown) if outcome.error]
            status = 0 if not failed else BAD_INPUT if all(outcome.refused for outcome in failed) else 1
        except KeyboardInterrupt:
            status = INTERRUPTED
        finally:
            token_file(target).unlink(missing_ok=True)  # what runs on a cluster ends when it sees that
            if scheduler:
                _await_leaving(target)
            _clear_work(target)
        if status == INTERRUPTED:
            print(f"\nstopped; finished notebooks are kept. Continue with: {batch.command(batch.only)}")
        else:
            _print_failures(failed, batch)  # before the pages, for which a full disk has no room
        _write_pages(target, profile, everything, batch.notebooks_dir)
    if status != INTERRUPTED:
        print(f"report: {os.path.relpath(target / 'index.html')}")
    return status


def write_pages(profile: str, out: Path | None = None, notebooks_dir: Path = NOTEBOOKS) -> int:
    """Write the pages of a report anew from what its notebooks have left, without running any; the exit status, 0.

    InputError for a profile or a report that is not there.
    """
    jobs, target = read_profile(profile, notebooks_dir), (out or REPORTS / profile).resolve()
    require(
        any((target / job.name).is_dir() for job in jobs),
        f"no notebook of profile {profile} has been run into {target}",
        allowed="the folder of a report",
        remedy="name it with --out, or run `python -m fedauto_core report` first",
    )
    with _held(target):
        _write_pages(target, profile, jobs, notebooks_dir.resolve())
    print(f"report: {os.path.relpath(target / 'index.html')}")
    return 0


def _write_pages(target: Path, profile: str, jobs: Sequence[Job], notebooks_dir: Path) -> None:
    try:
        write_overview(target, profile, jobs, notebooks_dir)
    except OSError as error:
        raise _unwritable(target, error) from None


def _clear_work(report: Path) -> None:
    """Take away what unfinished notebooks have left: of a batch that was killed with its workers, processes, too."""
    for path in work_folder(report).glob(f"*{SUFFIX}"):
        clear_up(report, path.name.removesuffix(SUFFIX))
    clear(work_folder(report))


def _await_leaving(report: Path) -> None:
    deadline = time.monotonic() + LEAVE_S
    while read_progress(report) and time.monotonic() < deadline:
        time.sleep(TICK_S)


def _board(plan: Sequence[Job], batch: Batch) -> Board:
    minutes = {job.name: job.minutes for job in plan}
    return Board(batch.command(batch.only), batch.jobs, minutes, {job.name: _processes(job, batch) for job in plan})


def _run(plan: Sequence[Job], batch: Batch, pool: Callable[[], Executor], shown: Display) -> Iterator[Outcome]:
    """Start every job as soon as those it waits for have ended; yield the outcomes as they come. A notebook whose
    worker was killed is run once more."""
    pending, running, again, at = {job.name: job for job in plan}, {}, set(), {}
    while pending or running:
        unfinished = {*pending, *(job.name for job in running.values())}
        ready = [job for job in pending.values() if not unfinished & set(job.after)]
        current = [job for job in ready if not batch.fresh and _done(job, batch)]
        for job in current:
            del pending[job.name]
            _show(shown, job.name, "up to date")
        for job in ready:
            if job in current:
                continue
            if sum(_processes(other, batch) for other in (job, *running.values())) > batch.jobs:
                break  # in order: a notebook that needs all cores must not be overtaken for ever
            running[_submit(pending.pop(job.name), batch, pool)] = job
        if current:
            continue  # what waited for them may be ready now
        done, _ = wait(running, timeout=TICK_S, return_when=FIRST_COMPLETED)
        shown.refresh(TICK_S)
        for name, progress in read_progress(batch.out).items():
            if at.setdefault(name, progress.worker) != progress.worker:  # a scheduler has given it to another one
                shown.line(f"{name}  worker {at[name]} was lost; runs again on {progress.worker}")
                at[name] = progress.worker
        for future in [future for future in running if future in done]:
            job = running.pop(future)
            if isinstance(future.exception(), BrokenExecutor):
                clear_up(batch.out, job.name)
                if job.name not in again:
                    again.add(job.name)
                    at.pop(job.name, None)
                    shown.line(f"{job.name}  its worker process was killed; runs again")
                    running[_submit(job, batch, pool)] = job
                    continue
            outcome = _outcome(future, job, batch)
            _show(shown, outcome.name, outcome.state, outcome.seconds)
            yield outcome


def _show(shown: Display, name: str, state: str, seconds: float | None = None) -> None:
    ended, total = shown.board.ended, len(shown.board.minutes)
    seconds = None if seconds is None or math.isnan(seconds) else seconds  # of a worker that died nobody knows them
    ended[name] = [state, seconds]
    took = "" if seconds is None else f"  {seconds:.0f} s"
    shown.line(f"[{len(ended):{len(str(total))}}/{total}] {name}  {state}{took}")


def _processes(job: Job, batch: Batch) -> int:
    return batch.jobs if job.parallel else 1


def _done(job: Job, batch: Batch) -> bool:
    return not log_file(batch.out, job.name).exists() and changes(job, batch.out) == []


def _order(job: Job, batch: Batch) -> Order:
    defaults = {name: parameter.default for name, parameter in job.notebook.parameters.items()}
    return Order(
        name=job.name,
        source=job.notebook.source,
        overrides={name: value for name, value in job.parameters.items() if value != defaults[name]},
        notebooks_dir=batch.notebooks_dir,
        out=batch.out,
        inputs=inputs_of(job, batch.out),
        processes=_processes(job, batch),
        fresh=batch.fresh,
        command=batch.command([job.name]),
        limit_s=60 * (batch.timeout or LIMIT * job.minutes),
        token=batch.token,
        variables=variables(batch.scheduler, job.parallel) if batch.scheduler else {},
    )


def _submit(job: Job, batch: Batch, pool: Callable[[], Executor]) -> Future:
    """A notebook that cannot be read or shown, and a pool that has lost a process, are failures like any other."""
    future: Future = Future()
    from .pages import require_prose  # two seconds of imports that a report without work does not need
    from .worker import run_notebook

    try:
        if job.notebook.problem:
            raise job.notebook.problem
        require_prose(job.notebook.source, job.notebook.name)
    except InputError as error:
        future.set_exception(error)
        return future
    executor = pool()
    try:
        return executor.submit(run_notebook, _order(job, batch))
    except BrokenExecutor as error:
        future.set_exception(error)
        return future


def _outcome(future: Future, job: Job, batch: Batch) -> Outcome:
    """The outcome of a future; a worker that died twice, or whose page is not here, is a failed notebook too."""
    error = future.exception()
    if error is None:
        outcome = future.result()
        if outcome.error or read_manifest(batch.out / job.name) is not None:
            return outcome
        text = "its worker has finished it, but there is no page here; does the worker see this report folder?"
    else:
        text = f"{type(error).__name__}: {error}"
    failed = Outcome(job.name, math.nan, text.splitlines()[0])
    return logged(failed, batch.out, f"{batch.command([job.name])}\n\n{text}\n")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the report folder, made if it is missing, so that two batches never write into it at once."""
    lock = folder / ".lock"
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, wait=False))
            if (logs := log_file(folder, "").parent).is_file():
                raise NotADirectoryError(f"{logs} is no folder")
        except BlockingIOError:
            raise InputError(
                f"report folder {folder} is in use by another batch",
                allowed="one batch per folder",
                remedy="wait for it, or choose another folder with --out",
            ) from None
        except OSError as error:
            raise _unwritable(folder, error) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)  # before it is released: who has it open sees that it names nothing any more


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(
        f"report folder {folder}: {error}",
        allowed="a folder that can be made, locked and written",
        remedy="choose another one with --out",
    )


@contextmanager
def _executor(batch: Batch, plan: Sequence[Job]) -> Iterator[Executor]:
    """Local processes, or the workers of a Dask cluster. Leaving the context stops what still runs."""
    if batch.scheduler:
        modules = {WORKER}.union(*(job.notebook.modules for job in plan))
        with cluster(batch.scheduler, batch.out, sorted(modules)) as executor:
            yield executor
        return
    from .worker import follow

    with Processes(follow) as executor:
        yield executor


def _print_failures(failed: Sequence[Outcome], batch: Batch) -> None:
    """One table: notebook, cell, line, error, log, command to repeat."""
    for outcome in failed:
        where = f"cell {outcome.cell}" if outcome.cell else "outside the cells"
        print(f"\n{outcome.name}: {where}{f', line `{outcome.line}`' if outcome.line else ''}\n  {outcome.error}")
        if (log := log_file(batch.out, outcome.name)).exists():  # not on a disk that was full
            print(f"  log:    {os.path.relpath(log)}")
        print(f"  repeat: {batch.command([outcome.name])}")
    if failed:
        print(f"\n{len(failed)} notebook{'s' * (len(failed) > 1)} failed")


def _print_plan(plan: Sequence[Job], batch: Batch) -> None:
    todo = [job for job in plan if batch.fresh or not _done(job, batch)]
    for job in plan:
        why = changes(job, batch.out) or []
        if job.reads_all and todo and job not in todo:
            todo.append(job)
            why = ["verdicts"]  # they are about to change
        state = f"run ({', '.join(why)})" if why else "run" if job in todo else "up to date"
        wait_for = "all others" if job.reads_all else ", ".join(job.after)
        values = str(job.notebook.problem or "  ".join(f"{name}={value}" for name, value in job.parameters.items()))
        print(f"{job.name:28} {state:22} {job.minutes:6.1f} min  {f'after {wait_for}  ' if wait_for else ''}{values}")
    work = sum(job.minutes * _processes(job, batch) for job in todo) / batch.jobs
    minutes = max([work, *(job.minutes for job in todo)], default=0.0)
    print(f"about {minutes:.0f} minutes with {batch.jobs} process(es); into {batch.out}")


def print_notebooks(notebooks_dir: Path = NOTEBOOKS) -> None:
    """Every notebook with its parameters: type, default, help; or why it cannot be read."""
    for notebook in read_notebooks(notebooks_dir).values():
        print(notebook.name)
        for line in (notebook.problem,) if notebook.problem else notebook.parameters.values():
            print(f"    {line}")


def print_status(profile: str, out: Path | None = None, notebooks_dir: Path = NOTEBOOKS) -> int:
    """How far the batch in a report is, running or interrupted, as seen from another shell; then what its pages are.

    The exit status is 0."""
    target = (out or REPORTS / profile).resolve()
    board, running = read_board(target), read_progress(target)
    if board is not None and _in_use(target):
        print("\n".join(lines(board, running)))
    elif board is not None:
        print(f"interrupted: {len(board.ended)} of {len(board.minutes)} done. Continue with: {board.command}")
    else:
        print("no batch runs here")
    for status in sorted(status_of(job, target) for job in read_profile(profile, notebooks_dir)):
        print(f"{status.name:28} {'running' if status.name in running else status.state}")
    return 0


def _in_use(report: Path) -> bool:
    """Whether a batch holds the report."""
    if not (report / ".lock").exists():
        return False
    try:
        with locked(report / ".lock", wait=False):
            return False
    except BlockingIOError:
        return True
