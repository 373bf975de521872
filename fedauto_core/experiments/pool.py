"""The processes that compute units side by side."""

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import TypeVar

from fedauto_core.engine.local import keep_freed_memory, prepare_worker

Answer = TypeVar("Answer")


@functools.cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Kept for all runs of a notebook: to start a process, import torch and read the data takes seconds."""
    return ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker)


def map_units(
    function: Callable[..., Answer], units: Sequence[object], processes: int, *shared: object
) -> list[Answer]:
    """function(unit, *shared) for every unit, in order, in this process where there is work for one only."""
    if min(processes, len(units)) <= 1:
        keep_freed_memory()
        return [function(unit, *shared) for unit in units]
    pool = _pool(processes)
    try:
        return list(pool.map(function, units, *map(repeat, shared)))
    except BaseException:  # also Ctrl-C: whatever became of the processes, the next run gets new ones
        _pool.cache_clear()
        pool.shutdown(cancel_futures=True)
        raise
