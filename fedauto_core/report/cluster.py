"""The workers of a Dask cluster as the batch's executor, once it is known that they can do the work."""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path

from fedauto_core.errors import InputError, require
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import OPTIONAL_PACKAGES
from fedauto_core.store.workers import SCHEDULER, TOPIC, Wanted, Workers, by_value, identity, look_around

from .progress import token_file

ANSWER_S = 20
"""Seconds in which a scheduler must answer, and in which at least one worker must have reached it."""
NO_FILE = (
    "does not see {} as this machine does",
    "workers that share the file system with this machine, at the same path",
    "name folders that all see with --out and FEDAUTO_DATA, or stop that worker",
)
REFUSALS = {
    "code": (
        "has other code of fedauto_core than this machine",
        "the same code everywhere",
        "start that worker anew, from this checkout, in its environment",
    ),
    "packages": (
        "has other packages than this machine",
        "the same versions everywhere",
        "start that worker in the same environment",
    ),
}
"""What is other on a worker, a file or one of these -> what is said of it, what is allowed, the remedy."""


@contextlib.contextmanager
def cluster(address: str, report: Path, modules: Sequence[str]) -> Iterator[Executor]:
    """The executor of the Dask cluster at `address`. InputError unless there are workers, and all of them see the cache
    and `report`, which holds the batch's token, and have this process's code in `modules` and its packages. A worker
    that joins later and has others leaves, and a line says so."""
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"--scheduler {address}: Dask is not installed",
            allowed="an environment with the extra [cluster]",
            remedy="pip install -e '.[cluster]', or leave --scheduler out",
        ) from None
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what goes wrong is told once, by the batch
    try:
        client = Client(address, timeout=ANSWER_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: {error}",
            allowed="the address of a running Dask scheduler, tcp://host:port",
            remedy="start `dask scheduler` and its workers, then use the address it prints",
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=ANSWER_S)
        except TimeoutError:
            raise InputError(
                f"--scheduler {address}: no worker has come within {ANSWER_S} seconds",
                allowed="a cluster with at least one worker",
                remedy=f"start some: `dask worker {address} --nthreads 1`",
            ) from None
        wanted = Wanted.as_here([token_file(report), _identity()], modules, OPTIONAL_PACKAGES)
        for worker, found in client.run(by_value(look_around), *wanted.questions).items():
            _require_same(worker, found, wanted)
        client.subscribe_topic(TOPIC, lambda event: print(event[1], flush=True))
        executor = Workers(client, wanted)
        try:
            yield executor
        finally:
            executor.shutdown()  # what runs sees that the token is gone


def _identity() -> Path:
    try:
        return identity(cache_folder().resolve())
    except OSError as error:
        raise InputError(
            f"cannot use the cache {cache_folder()}: {error}",
            allowed="a folder that this user may write",
            remedy="set FEDAUTO_DATA to such a folder",
        ) from None


def variables(address: str, parallel: bool) -> dict[str, str]:
    """Of the environment of a notebook there: all share this machine's cache, and the units of a `parallel` one are
    tasks of the cluster too."""
    shared = {"FEDAUTO_DATA": str(cache_folder().resolve())}
    return shared | {SCHEDULER: address} if parallel else shared


def _require_same(worker: str, found: Mapping[str, str], wanted: Wanted) -> None:
    for name, own in wanted.answers.items():
        what, allowed, remedy = REFUSALS.get(name, NO_FILE)
        text = f"worker {worker} {what.format(name)}: {found[name]} instead of {own}"
        require(found[name] == own, text, allowed=allowed, remedy=remedy)
