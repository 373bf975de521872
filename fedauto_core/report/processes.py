"""The processes of this machine that run notebooks."""

import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor


class Processes(Executor):
    """Runs every notebook in a process of its own, kept for the next one. One that is killed breaks its own future
    (BrokenExecutor) and no other, and another one takes its place."""

    def __init__(self, initializer: Callable[..., None]) -> None:
        """initializer: run in each process with a connection whose other end closes when it should leave."""
        self._context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads can hang
        self._follower, self._leader = self._context.Pipe(duplex=False)
        self._initializer = initializer
        self._pools: set[ProcessPoolExecutor] = set()
        self._idle: list[ProcessPoolExecutor] = []

    def submit(self, function: Callable[..., object], /, *arguments: object, **named: object) -> Future:
        while True:
            pool = self._idle.pop() if self._idle else self._another()
            try:
                future = pool.submit(function, *arguments, **named)
            except BrokenExecutor:  # killed while it had nothing to do
                self._pools.discard(pool)
                continue
            future.add_done_callback(functools.partial(self._free, pool))
            return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """The processes stop their kernels and leave; they do so as well if this process dies."""
        self._leader.close()
        for pool in list(self._pools):
            pool.shutdown(wait, cancel_futures=cancel_futures)
        self._follower.close()

    def _another(self) -> ProcessPoolExecutor:
        pool = ProcessPoolExecutor(1, self._context, self._initializer, (self._follower,))
        self._pools.add(pool)
        return pool

    def _free(self, pool: ProcessPoolExecutor, done: Future) -> None:
        if done.cancelled() or not isinstance(done.exception(), BrokenExecutor):
            self._idle.append(pool)
        else:
            self._pools.discard(pool)
