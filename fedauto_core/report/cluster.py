"""The workers of a Dask cluster as the batch's executor, once it is known that they can do the work."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path

from fedauto_core.errors import InputError, require
from fedauto_core.store.keys import OPTIONAL_PACKAGES, code_hash, versions

from .progress import token_file

ANSWER_S = 20
"""Seconds in which a scheduler must answer, and in which at least one worker must have reached it."""


@contextlib.contextmanager
def cluster(address: str, report: Path, modules: Sequence[str]) -> Iterator[Executor]:
    """The executor of the Dask cluster at `address`. InputError unless there are workers, and all of them see `report`,
    which holds the batch's token, and have the same code in `modules` and the same packages as this process."""
    try:
        import cloudpickle
        from distributed import Client
    except ImportError:
        raise InputError(
            f"--scheduler {address}: Dask is not installed",
            allowed="an environment with the extra [cluster]",
            remedy="pip install -e '.[cluster]', or leave --scheduler out",
        ) from None
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
                remedy=f"start some: `dask worker {address}`",
            ) from None
        here = sys.modules[__name__]
        cloudpickle.register_pickle_by_value(here)  # a worker without the package must be able to say so
        try:
            answers = client.run(look_around, str(token_file(report)), list(modules), list(OPTIONAL_PACKAGES))
        finally:
            cloudpickle.unregister_pickle_by_value(here)
        own = {"token": token_file(report).read_text(encoding="utf-8"), "code": code_hash(modules)}
        own["packages"] = repr(versions(OPTIONAL_PACKAGES))
        for worker, answer in answers.items():
            _require_same(worker, answer, own, report)
        executor = client.get_executor()
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)  # cancels what has not started; what runs sees that the token is gone


def look_around(token: str, modules: list[str], packages: list[str]) -> dict[str, str]:
    """Run by a worker: what it reads in the token's place, its code, its packages, or why it cannot tell."""
    try:
        with open(token, encoding="utf-8") as file:
            found = file.read()
    except OSError as error:
        found = str(error)
    try:
        from fedauto_core.store import keys

        return {"token": found, "code": keys.code_hash(modules), "packages": repr(keys.versions(packages))}
    except Exception as error:  # whatever it is, this worker has not the code that is asked for
        return {"token": found, "code": f"{type(error).__name__}: {error}", "packages": ""}


def _require_same(worker: str, answer: dict[str, str], own: dict[str, str], report: Path) -> None:
    require(
        answer["token"] == own["token"],
        f"worker {worker} does not see the report folder {report} ({answer['token']})",
        allowed="workers that share the file system with this machine, at the same path",
        remedy="name a folder that all see with --out, or stop that worker",
    )
    require(
        answer["code"] == own["code"],
        f"worker {worker} has other code of fedauto_core than this machine: {answer['code']} instead of {own['code']}",
        allowed="the same code everywhere",
        remedy="start that worker from this checkout, in its environment",
    )
    require(
        answer["packages"] == own["packages"],
        f"worker {worker} has the packages {answer['packages']} instead of {own['packages']}",
        allowed="the same versions everywhere",
        remedy="start that worker in the same environment",
    )
