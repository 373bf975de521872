"""Tasks for the workers of a Dask cluster. Before each task its worker looks whether it has the sender's files, code
and packages; so one that joins late is no exception. One that has others leaves, and another one does its work.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from .files import cache_folder
from .keys import ROOT, code_hash, versions
from .writing import write_atomically

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as Sent

TOPIC = "fedauto"
"""Of Dask's events, under which a worker that leaves says why."""
SCHEDULER = "FEDAUTO_SCHEDULER"
"""Variable of a kernel: the address of the cluster that takes its experiment units."""
COMPUTING = (ROOT, f"{ROOT}.methods", f"{ROOT}.experiments.running")
"""What a unit may load: all that users import, every method, the compiled kernels, and how experiments run."""
LARGE = 1_000_000
"""Bytes from which on an argument is sent once, not with every task."""


@dataclass(frozen=True)
class Wanted:
    """What a worker must have. files: path -> content, of files that lie here; code: SHA-256 of all that `modules`
    load; packages: their versions as text, those that are `optional` included."""

    files: Mapping[str, str]
    modules: Sequence[str]
    optional: Sequence[str]
    code: str
    packages: str

    @classmethod
    def as_here(cls, files: Sequence[Path], modules: Sequence[str], optional: Sequence[str] = ()) -> "Wanted":
        """What this process has."""
        contents = {str(path): path.read_text(encoding="utf-8") for path in files}
        return cls(contents, [*modules], [*optional], code_hash(modules), repr(versions(optional)))

    @property
    def questions(self) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        """The arguments of `look_around`."""
        return [*self.files], self.modules, self.optional

    @property
    def answers(self) -> dict[str, str]:
        """What `look_around` has to answer."""
        return {**self.files, "code": self.code, "packages": self.packages}


def look_around(files: Sequence[str], modules: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    """Run by a worker, perhaps one without this package: what it reads at each path, its "code", its "packages", or why
    it cannot tell. A module that was written after the worker had begun may not be what it has loaded."""
    found = {}
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                found[path] = file.read()
        except OSError as error:
            found[path] = str(error)
    try:
        import psutil

        from fedauto_core.store import keys

        loaded = [sys.modules[module].__file__ for module in keys.used_modules(modules) if module in sys.modules]
        begun = psutil.Process().create_time()
        edited = [path for path in loaded if os.path.getmtime(path) > begun]
        code = f"{edited[0]} as it was before it was written" if edited else keys.code_hash(modules)
        return found | {"code": code, "packages": repr(keys.versions(optional))}
    except Exception as error:  # whatever it is, this worker has not the code that is asked for
        return found | {"code": f"{type(error).__name__}: {error}", "packages": ""}


def by_value(function: Callable[..., object]) -> Callable[..., object]:
    """A function of this module in a form that a worker without this package can run."""
    import cloudpickle

    here = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(here)
    try:
        content = cloudpickle.dumps(function)
    finally:
        cloudpickle.unregister_pickle_by_value(here)

    def run(*arguments: object) -> object:
        import pickle

        return pickle.loads(content)(*arguments)

    return run


def identity(folder: Path) -> Path:
    """A file that tells this folder from all others, written when it is first asked for."""
    path = folder / "identity"
    if not path.exists():
        write_atomically(path, uuid4().hex)
    return path


class Workers(Executor):
    """The workers of a cluster. A task whose worker is lost runs again on another one."""

    def __init__(self, client: "Client", wanted: Wanted, variables: Mapping[str, str] | None = None) -> None:
        """wanted: of a worker, before each task; variables: of its environment meanwhile; with some, a worker does one
        such task at a time, whatever threads it has."""
        self._client, self._wanted, self._variables = client, wanted, dict(variables or {})
        self._shared: dict[str, Sent] = {}
        self._sent: set[Sent] = set()

    def submit(self, function: Callable[..., object], /, *arguments: object) -> Future:
        """The future of function(*arguments), which travel as pickles: `Wanted` must cover what they name."""
        parts = [self._part(value) for value in (function, self._variables, *arguments)]
        questions, answers = self._wanted.questions, self._wanted.answers
        sent = self._client.submit(by_value(_checked), questions, answers, *parts, pure=False)
        self._sent.add(sent)  # Dask drops a task whose future nobody holds
        future: Future = Future()
        sent.add_done_callback(functools.partial(self._hand_over, future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel what has not started; what runs is left alone."""
        self._client.cancel([*self._sent])

    def _part(self, value: object) -> "bytes | Sent":
        content = pickle.dumps(value)
        if len(content) < LARGE:
            return content
        name = hashlib.sha256(content).hexdigest()
        if name not in self._shared:
            import dask

            # A task of its own, unlike scattered data, is made anew when its workers are lost.
            with dask.config.set({"distributed.admin.large-graph-warning-threshold": len(content) * 2}):
                self._shared[name] = self._client.submit(bytes, content)
        return self._shared[name]

    def _hand_over(self, future: Future, sent: "Sent") -> None:
        self._sent.discard(sent)
        try:
            if sent.status == "finished":
                future.set_result(sent.result())
            elif sent.status == "error":
                future.set_exception(sent.exception())
            else:
                raise ConnectionError(f"{sent.status} by the cluster; does its scheduler still run?")
        except BaseException as error:  # Dask would log it, and who waits would do so for ever
            future.set_exception(error)


@functools.cache
def of_the_batch() -> Workers | None:
    """The workers that take the experiment units of this notebook, whose batch names their scheduler; None without."""
    if not (address := os.environ.get(SCHEDULER)):
        return None
    from distributed import Client

    cache = cache_folder().resolve()
    wanted = Wanted.as_here([identity(cache)], COMPUTING)
    variables = {"FEDAUTO_DATA": str(cache), "FEDAUTO_FRESH": os.environ.get("FEDAUTO_FRESH", "")}
    return Workers(Client(address), wanted, variables)


def step_aside() -> None:
    """Run by a worker: give the thread of this task, which will mostly wait, to others."""
    import distributed

    distributed.secede()


def _checked(questions: Sequence[Sequence[str]], answers: Mapping[str, str], *parts: bytes) -> object:
    """Run by a worker: a task of `Workers`, or none any more if something is other here than where it comes from."""
    import distributed

    found = look_around(*questions)
    if found == answers:
        from fedauto_core.store import workers

        return workers.run_here(answers, *parts)
    worker = distributed.get_worker()
    other = "; ".join(f"{name}: {found[name]}" for name in answers if found[name] != answers[name])
    here = sys.modules.get("fedauto_core.store.workers")
    if here is not None and answers in here.passed:
        raise RuntimeError(f"changed on worker {worker.address} since this began ({other}); start it again")
    worker.log_event(TOPIC, f"worker {worker.address} leaves: it has other files, code or packages ({other})")
    worker.loop.add_callback(worker.close_gracefully, reason=other)
    raise distributed.Reschedule


passed: list[Mapping[str, str]] = []
"""Answers that this worker has given: what differs from them now was changed in the meantime."""
_alone = threading.Lock()


def run_here(answers: Mapping[str, str], function: bytes, variables: bytes, *arguments: bytes) -> object:
    """Run by a worker that has what is wanted: the task itself."""
    if answers not in passed:
        passed.append(answers)
    with _environment(pickle.loads(variables)):
        return pickle.loads(function)(*map(pickle.loads, arguments))


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """With these variables, which are the whole process's; without any at once."""
    if not variables:
        yield
        return
    with _alone:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
