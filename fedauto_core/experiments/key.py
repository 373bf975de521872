"""The key of a result: everything its numbers depend on, so that a stale one cannot be served.

It holds the spec, the code that computes it (`store.keys`), the data hashes, the traces, the package versions and the
thread count. The network is in it by what it did, not by its code: a run meets it through the trace alone. To draw a
trace takes the labels of the data, so what a trace was is remembered, and a result that is there is found without data.
"""

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from fedauto_core.data.datasets import dataset_sha256
from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.pretraining import checkpoint_key
from fedauto_core.network import Scenario
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import code_hash, file_hash, versions
from fedauto_core.store.writing import write_atomically

from .spec import SCRATCH, Experiment, units
from .unit import World, build_world, federation_specs

NETWORK = "fedauto_core.network"


@functools.cache
def cell_code(method: str) -> str:
    """SHA-256 of the code that can change the numbers of a cell, given the trace; method: the module of its class."""
    return code_hash(["fedauto_core.experiments.unit", method], without=[NETWORK], wording=False)


def unit_key(unit: Experiment, traces: Iterable[str]) -> str:
    """SHA-256 of a unit whose traces have these identities, in the order of `federation_specs`."""
    return _sha256(
        repr(unit),
        dataset_sha256(unit.dataset),
        "" if unit.start is SCRATCH else checkpoint_key(unit.start),
        list(traces),
        sorted({cell_code(type(cell.method).__module__) for cell in unit.cells}),
        versions(),
        torch.get_num_threads(),
    )


def known_key(unit: Experiment) -> str | None:
    """The unit's key, from what is remembered of its traces; None where one of them has never been drawn."""
    remembered = [_read(_remembered(unit, spec)) for spec in federation_specs(unit)]
    return unit_key(unit, remembered) if all(remembered) else None


def drawn_key(unit: Experiment, world: World) -> str:
    """The unit's key, from the traces themselves, whose identities are remembered."""
    identities = {spec: trace.identity for spec, trace in world.traces.items()}
    for spec, identity in identities.items():
        write_atomically(_remembered(unit, spec), identity)
    return unit_key(unit, identities.values())


def content_key(experiment: Experiment) -> str:
    """SHA-256 over everything the numbers of all units depend on."""
    return joint_key(known_key(unit) or drawn_key(unit, build_world(unit)) for unit in units(experiment))


def joint_key(keys: Iterable[str]) -> str:
    """One key for many, in their order."""
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()


def _remembered(unit: Experiment, spec: FederationSpec) -> Path:
    """Where the identity of a trace is kept, by all that determines it: recordings count with their content."""
    (seed,), (scenario,) = unit.seeds, {cell.scenario for cell in unit.cells}
    recordings = [Path(text) for text in _texts(scenario) if Path(text).is_file()]
    parts = [repr((spec, scenario, unit.schedule.rounds, seed)), *map(file_hash, recordings)]
    name = _sha256(dataset_sha256(unit.dataset), parts, _trace_code(), versions())
    return cache_folder() / "traces" / name[:32]


def _texts(value: object) -> Iterator[str]:
    """Every text in the options of a scenario, those of the scenarios that it is made of included."""
    if isinstance(value, Scenario):
        yield from _texts(value.options)
    elif isinstance(value, tuple):
        for part in value:
            yield from _texts(part)
    elif isinstance(value, str):
        yield value


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
