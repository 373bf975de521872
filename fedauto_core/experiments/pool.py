"""The processes that compute units side by side."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from errno import EPIPE
from multiprocessing import get_context
from typing import TypeVar

from fedauto_core.engine.local import keep_freed_memory, prepare_worker
from fedauto_core.store.progress import tell
from fedauto_core.store.workers import of_the_batch

Answer = TypeVar("Answer")


@functools.cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Kept for all runs of a notebook: to start a process, import torch and read the data takes seconds."""
    return ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker)


def _prepared(function: Callable[..., Answer], unit: object, *shared: object) -> Answer:
    """Run by a worker of a cluster, which did not start as one of ours."""
    prepare_worker()
    return function(unit, *shared)


def map_units(
    function: Callable[..., Answer], units: Sequence[object], processes: int, *shared: object
) -> list[Answer]:
    """function(unit, *shared) for every unit, in order: in this process where there is work for one only, on the
    workers of a cluster if the batch has one for this notebook."""
    tell(0, len(units))
    if min(processes, len(units)) <= 1:
        keep_freed_memory()
        answers = []
        for unit in units:
            answers.append(function(unit, *shared))
            tell(len(answers), len(units))
        return answers
    workers = of_the_batch()
    pool = workers or _pool(processes)
    task = functools.partial(_prepared, function) if workers else function
    try:
        try:
            futures = [pool.submit(task, unit, *shared) for unit in units]
        except OSError as error:  # the pool closes its pipe as soon as it sees that a process is gone
            if workers or error.errno not in (None, EPIPE):
                raise
            raise BrokenProcessPool("a process ended abruptly while units were handed over") from error
        for done, future in enumerate(as_completed(futures), 1):
            future.result()  # the first that fails ends the others
            tell(done, len(units))
        return [future.result() for future in futures]
    except BaseException as error:  # also Ctrl-C: whatever became of the processes, the next run gets new ones
        _pool.cache_clear()
        # A broken pool has ended its processes; its own thread may be stuck at the pipe, so it is not waited for.
        pool.shutdown(wait=not isinstance(error, BrokenProcessPool), cancel_futures=True)
        raise
