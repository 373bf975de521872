"""The batch: every notebook of a profile, one process each, into a report folder. What is done already is skipped."""

from __future__ import annotations

import fcntl
import math
import multiprocessing
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedauto_core.errors import InputError, require
from fedauto_core.report.overview import write_overview
from fedauto_core.report.plan import NOTEBOOKS, Job, is_current, job_key, override, read_notebooks, read_profile, select
from fedauto_core.report.record import REPORTS, log_file
from fedauto_core.report.worker import Order, Outcome, follow, run_notebook, work_folder

BAD_INPUT = 2
INTERRUPTED = 130  # what a shell reports for a program ended by Ctrl-C


@dataclass(frozen=True)
class Batch:
    """What a command asks for. jobs: processes at a time; threads: of each; settings: `name=value` texts."""

    profile: str
    out: Path
    notebooks_dir: Path
    only: tuple[str, ...]
    settings: tuple[str, ...]
    fresh: bool
    jobs: int
    threads: int

    def command(self, only: Sequence[str]) -> str:
        """The command line that repeats this batch for the notebooks in `only`."""
        words = ["python", "-m", "fedauto_core", "report", "--profile", self.profile]
        for option, values in (("--only", only), ("--set", self.settings)):
            for value in values:
                words += [option, value]
        if self.out != REPORTS / self.profile:
            words += ["--out", os.path.relpath(self.out)]
        return shlex.join(words)


def run_report(
    profile: str,
    *,
    only: Sequence[str] = (),
    settings: Sequence[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    scheduler: str | None = None,
    out: Path | None = None,
    notebooks_dir: Path = NOTEBOOKS,
) -> int:
    """Build (or continue) a report and return the exit status: 0, 1 if a notebook failed, 2 if all that failed refused
    their input, 130 if interrupted.

    only: shell patterns of notebook names. settings: `name=value`, for every selected notebook with that parameter.
    jobs: notebooks at a time, by default one per CPU. fresh: compute everything again, experiments included.
    scheduler: address of a Dask scheduler whose workers see the same files. InputError for input that does not fit.
    """
    cpus = len(os.sched_getaffinity(0))
    require(
        jobs is None or jobs >= 1,
        f"--jobs {jobs}",
        allowed="a whole number >= 1",
        remedy=f"leave it out to run one notebook per CPU ({cpus} here)",
    )
    parallel = jobs or cpus
    everything = read_profile(profile, notebooks_dir)
    plan = override(select(everything, only), settings)
    target = (out or REPORTS / profile).resolve()
    threads = max(1, cpus // parallel)
    batch = Batch(profile, target, notebooks_dir.resolve(), tuple(only), tuple(settings), fresh, parallel, threads)
    if dry_run:
        _print_plan(plan, batch)
        return 0
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target), _executor(parallel, scheduler) as executor:
        outcomes: list[Outcome] = []
        shutil.rmtree(work_folder(target), ignore_errors=True)
        try:
            for outcome in _run(plan, batch, executor):
                outcomes.append(outcome)
            failed = [outcome for outcome in outcomes if outcome.error]
            status = 0 if not failed else BAD_INPUT if all(outcome.refused for outcome in failed) else 1
        except KeyboardInterrupt:
            status = INTERRUPTED
    shutil.rmtree(work_folder(target), ignore_errors=True)
    write_overview(target, profile, everything)
    if status == INTERRUPTED:
        print(f"\nstopped; finished notebooks are kept. Continue with: {batch.command(batch.only)}")
        return status
    _print_failures(failed, batch)
    print(f"report: {os.path.relpath(target / 'index.html')}")
    return status


def _run(plan: Sequence[Job], batch: Batch, executor: Executor) -> Iterator[Outcome]:
    """Start every job as soon as those it waits for have ended; yield the outcomes as they come."""
    pending, running, ended = {job.name: job for job in plan}, {}, 0
    while pending or running:
        unfinished = {*pending, *(job.name for job in running.values())}
        ready = [job for job in pending.values() if not unfinished & set(job.after)]
        current = [job for job in ready if not batch.fresh and _done(job, batch)]
        for job in current:
            del pending[job.name]
            ended += 1
            _print_progress(ended, len(plan), job.name, "up to date")
        for job in ready:
            if job in current:
                continue
            if _slots([*running.values(), job], batch) > batch.jobs:
                break  # in order: a notebook that needs several processes must not be overtaken for ever
            running[_submit(executor, _order(pending.pop(job.name), batch))] = job
        if current:
            continue  # what waited for them may be ready now
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in [future for future in running if future in done]:
            outcome = _outcome(future, running.pop(future), batch)
            ended += 1
            _print_progress(ended, len(plan), outcome.name, outcome.state, outcome.seconds)
            yield outcome


def _slots(jobs: Sequence[Job], batch: Batch) -> int:
    """Processes that these notebooks keep busy."""
    return sum(min(job.processes, batch.jobs) for job in jobs)


def _done(job: Job, batch: Batch) -> bool:
    return not log_file(batch.out, job.name).exists() and is_current(job, batch.threads, batch.out)


def _order(job: Job, batch: Batch) -> Order:
    defaults = {name: parameter.default for name, parameter in job.notebook.parameters.items()}
    return Order(
        name=job.name,
        source=job.notebook.source,
        parameters=dict(job.parameters),
        overrides={name: value for name, value in job.parameters.items() if value != defaults[name]},
        notebooks_dir=batch.notebooks_dir,
        out=batch.out,
        key=job_key(job, batch.threads, batch.out),
        threads=batch.threads,
        processes=min(job.processes, batch.jobs),
        fresh=batch.fresh,
        command=batch.command([job.name]),
    )


def _submit(executor: Executor, order: Order) -> Future:
    """A pool that has lost a process refuses new work: a failure of this notebook, reported like any other."""
    try:
        return executor.submit(run_notebook, order)
    except BrokenExecutor as error:
        future: Future = Future()
        future.set_exception(error)
        return future


def _outcome(future: Future, job: Job, batch: Batch) -> Outcome:
    """The outcome of a future; a worker process that died (out of memory, killed) is a failed notebook too."""
    error = future.exception()
    if error is None:
        return future.result()
    log = log_file(batch.out, job.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{batch.command([job.name])}\n\n{type(error).__name__}: {error}\n", encoding="utf-8")
    return Outcome(job.name, math.nan, f"{type(error).__name__}: {error}".splitlines()[0])


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the report folder, so that two batches never write into it at once; the lock ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"report folder {folder} is in use by another batch",
                allowed="one batch per folder",
                remedy="wait for it, or choose another folder with --out",
            ) from None
        yield
    finally:
        os.close(handle)


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """Local processes, or the workers of a Dask cluster. Leaving the context stops what still runs."""
    if scheduler:
        with _cluster(scheduler) as executor:
            yield executor
        return
    context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
    follower, leader = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(jobs, context, follow, (follower,))
    try:
        yield pool
    finally:
        leader.close()  # the workers see it, stop their kernels and leave; they do so as well if this process dies
        pool.shutdown(cancel_futures=True)
        follower.close()


@contextmanager
def _cluster(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"--scheduler {address}: Dask is not installed",
            allowed="an environment with the extra [cluster]",
            remedy="pip install -e '.[cluster]', or leave --scheduler out",
        ) from None
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: {error}",
            allowed="the address of a running Dask scheduler, tcp://host:port",
            remedy="start `dask scheduler` and its workers, then use the address it prints",
        ) from None
    with client:
        executor = client.get_executor()
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)  # cancels what has not started; a running notebook ends on its worker


def _print_progress(ended: int, total: int, name: str, state: str, seconds: float | None = None) -> None:
    took = "" if seconds is None else f"  {seconds:.0f} s"
    print(f"[{ended:{len(str(total))}}/{total}] {name}  {state}{took}", flush=True)


def _print_failures(failed: Sequence[Outcome], batch: Batch) -> None:
    """One table: notebook, cell, line, error, log, command to repeat."""
    for outcome in failed:
        where = f"cell {outcome.cell}" if outcome.cell else "outside the cells"
        print(f"\n{outcome.name}: {where}{f', line `{outcome.line}`' if outcome.line else ''}\n  {outcome.error}")
        print(f"  log:    {os.path.relpath(log_file(batch.out, outcome.name))}")
        print(f"  repeat: {batch.command([outcome.name])}")
    if failed:
        print(f"\n{len(failed)} notebook{'s' * (len(failed) > 1)} failed")


def _print_plan(plan: Sequence[Job], batch: Batch) -> None:
    todo = [job for job in plan if batch.fresh or not _done(job, batch)]
    for job in plan:
        if job.reads_all and todo and job not in todo:
            todo.append(job)  # its input is about to change
        state = "run" if job in todo else "up to date"
        wait_for = "all others" if job.reads_all else ", ".join(job.after)
        values = "  ".join(f"{name}={value}" for name, value in job.parameters.items())
        print(f"{job.name:28} {state:10} {job.minutes:6.1f} min  {f'after {wait_for}  ' if wait_for else ''}{values}")
    minutes = max([sum(job.minutes for job in todo) / batch.jobs, *(job.minutes for job in todo)], default=0.0)
    print(f"about {minutes:.0f} minutes with {batch.jobs} at a time, {batch.threads} thread(s) each; into {batch.out}")


def print_notebooks(notebooks_dir: Path = NOTEBOOKS) -> None:
    """Every notebook with its parameters: type, default, help."""
    for notebook in read_notebooks(notebooks_dir).values():
        print(notebook.name)
        for parameter in notebook.parameters.values():
            print(f"    {parameter}")
