"""The key of a result: everything its numbers depend on, so that a stale one cannot be served.

It holds the spec, the code that computes it (`store.keys`), the data hashes, the traces and the package
versions. A run meets the network only through its trace, so the trace is in the key and the network's code is not;
it meets the store only through content whose hash was checked. Drawing a trace needs the labels of the data; therefore
each trace's hash is remembered, and a result that is there is found without loading data.
"""

import functools
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from fedauto_core.data.datasets import dataset_sha256
from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.pretraining import checkpoint_key
from fedauto_core.errors import InputError
from fedauto_core.methods.base import Method, classes
from fedauto_core.network import PROCESSES, Scenario
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import ROOT, code_hash, file_hash, imported, versions
from fedauto_core.store.writing import write_atomically

from .spec import SCRATCH, Experiment
from .unit import World, federation_specs

NETWORK, STORE = "fedauto_core.network", "fedauto_core.store"


@functools.cache
def cell_code(method: type[Method]) -> str:
    """SHA-256 of the code that can change the numbers of a cell, given the trace. Of a method from outside the core: of
    the file (or notebook cell) that defines it, and of what that imports; InputError if there is no such text."""
    module, own = method.__module__, ""
    if module.partition(".")[0] != ROOT:
        try:
            path = Path(inspect.getsourcefile(method) or "")
            own = path.read_text(encoding="utf-8") if path.is_file() else inspect.getsource(method)
        except (OSError, TypeError) as error:
            raise InputError(
                f"the code of method {method.__name__} cannot be read: {error}",
                allowed="classes that are defined in a file or in a notebook cell",
                remedy="write the class into a file",
            ) from error
    modules = {"fedauto_core.experiments.unit", *(imported(own) if own else [module])}
    return _sha256(own, code_hash(modules, without=[NETWORK, STORE], wording=False))


def method_code(method: Method) -> str:
    """`cell_code` of the method's class, or one SHA-256 of those of all that it is composed of."""
    first, *others = (cell_code(kind) for kind in classes(method))
    return _sha256(first, *others) if others else first


def unit_key(unit: Experiment, traces: Iterable[str]) -> str:
    """SHA-256 of a unit whose traces have these identities, in the order of `federation_specs`."""
    return _sha256(
        repr(unit),
        dataset_sha256(unit.dataset),
        "" if unit.start is SCRATCH else checkpoint_key(unit.start),
        list(traces),
        sorted({cell_code(kind) for cell in unit.cells for kind in classes(cell.method)}),
        versions(),
    )


def known_key(unit: Experiment) -> str | None:
    """The unit's key, from what is remembered of its traces; None where one of them has never been drawn."""
    places = [_remembered(unit, spec) for spec in federation_specs(unit)]
    remembered = [place and _read(place) for place in places]
    return unit_key(unit, remembered) if all(remembered) else None


def drawn_key(unit: Experiment, world: World) -> str:
    """The unit's key, from the traces themselves, whose identities are remembered."""
    identities = {spec: trace.identity for spec, trace in world.traces.items()}
    for spec, identity in identities.items():
        if place := _remembered(unit, spec):
            write_atomically(place, identity)
    return unit_key(unit, identities.values())


def joint_key(keys: Iterable[str]) -> str:
    """One key for many, in their order."""
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()


def _remembered(unit: Experiment, spec: FederationSpec) -> Path | None:
    """Where the identity of a trace is kept, by all that determines it: recordings count with their content. None with
    a failure process from outside the core, whose code is not known."""
    (seed,), (scenario,) = unit.seeds, {cell.scenario for cell in unit.cells}
    if not of_the_core(scenario):
        return None
    paths = (Path(value) for value in _inside(scenario) if isinstance(value, str | os.PathLike))
    files = (file_hash(path) for path in paths if path.is_file())
    parts = [repr((spec, scenario, unit.schedule.rounds, seed)), *files]
    name = _sha256(dataset_sha256(unit.dataset), parts, _trace_code(), versions())
    return cache_folder() / "traces" / name[:32]


def of_the_core(scenario: Scenario) -> bool:
    """Whether all failure processes that the scenario names are the core's own."""
    processes = [PROCESSES.get(value.process) for value in _inside(scenario) if isinstance(value, Scenario)]
    return all(getattr(process, "__module__", "").startswith(NETWORK) for process in processes)


def _inside(value: object) -> Iterator[object]:
    """A scenario, the values of its options, and so on for those that are scenarios or tuples."""
    yield value
    for part in value.options if isinstance(value, Scenario) else value if isinstance(value, tuple) else ():
        yield from _inside(part)


@functools.cache
def _trace_code() -> str:
    return code_hash(["fedauto_core.data.federation", NETWORK], wording=False)


def _read(path: Path) -> str | None:
    """A remembered identity; anything else in its place counts as none."""
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return None
    return text if re.fullmatch("[0-9a-f]{64}", text) else None


def _sha256(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
