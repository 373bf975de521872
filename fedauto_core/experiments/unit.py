"""The units of an experiment (a seed in a scenario each), whose cells run in lockstep."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedauto_core.data.dataset import Dataset
from fedauto_core.data.datasets import dataset_sha256, load_dataset
from fedauto_core.data.federation import Federation, build_federation
from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.averaging import Averaging, aggregation, initial_vector, lora_averaging
from fedauto_core.engine.local import in_chunks, one_thread
from fedauto_core.engine.pretraining import checkpoint_key, with_fresh_head
from fedauto_core.engine.rounds import simulate
from fedauto_core.engine.spec import Run
from fedauto_core.models.adapters import Adapted, adapt
from fedauto_core.models.model import Model, build_model
from fedauto_core.network import Trace, draw_trace
from fedauto_core.seeding import stream
from fedauto_core.store.arrays import asked_fresh, cached_array
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import code_hash

from .spec import SCRATCH, AdapterExperiment, Cell, Experiment


def initial_model(checkpoint: np.ndarray | None, model: Model, seed: int) -> Tensor:
    """w_0 [P] of a seed: the features of a checkpoint [P] under a fresh head, or (None) a random initialisation."""
    rng = stream(seed, "initial model")
    return model.init(rng) if checkpoint is None else with_fresh_head(model, torch.from_numpy(checkpoint), rng)


@functools.cache
def _dataset(name: str, device: str) -> Dataset:
    dataset = load_dataset(name)
    tensors = {name: getattr(dataset, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
    return replace(dataset, **tensors)


@functools.lru_cache(maxsize=64)
def _federation(dataset: str, spec: FederationSpec, seed: int) -> Federation:
    return build_federation(_dataset(dataset, "cpu"), spec, seed)


@dataclass(frozen=True, eq=False)
class World:
    """What the cells of a unit share: for each specification the federation and the trace."""

    federations: Mapping[FederationSpec, Federation]
    traces: Mapping[FederationSpec, Trace]


def build_world(unit: Experiment) -> World:
    """The federations and traces of a unit, built once for its key and its runs."""
    (seed,), (scenario,) = unit.seeds, {cell.scenario for cell in unit.cells}
    federations = {spec: _federation(unit.dataset, spec, seed) for spec in federation_specs(unit)}
    traces = {
        spec: draw_trace(scenario, rounds=unit.schedule.rounds, histograms=federation.alpha[1:], seed=seed)
        for spec, federation in federations.items()
    }
    return World(federations, traces)


def federation_specs(unit: Experiment) -> tuple[FederationSpec, ...]:
    """Every specification that a cell of the unit asks for, once."""
    return tuple(dict.fromkeys(cell.federation for cell in unit.cells))


def _describe(cell: Cell, seed: int, trace_hash: str) -> dict[str, object]:
    return {
        "label": cell.label,
        "method": cell.method.name,
        "scenario": cell.scenario.name,
        "seed": seed,
        "with_server": cell.with_server,
        "lr": cell.lr,
        "trace": trace_hash[:12],
        **dict(cell.tags),
    }


@one_thread()
def simulate_units(worlds: Mapping[Experiment, World], checkpoint: np.ndarray | None) -> list[dict[str, pd.DataFrame]]:
    """The frames "curves" and "rounds" of each unit, all in lockstep: units of one experiment, of one seed with LoRA.

    checkpoint: the pre-trained start [P].
    """
    first = next(iter(worlds))
    dataset = _dataset(first.dataset, first.device)
    model = build_model(first.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
    starts = {seed: initial_model(checkpoint, model, seed).to(first.device) for unit in worlds for seed in unit.seeds}
    averaging = Averaging(model)
    if isinstance(first, AdapterExperiment):
        ((seed, w0),) = starts.items()
        adapted = adapt(model, w0, first.lora, offsets=aggregation(first.aggregation).offsets)
        averaging = lora_averaging(first.aggregation, adapted, first.lora, seed)
        starts, dataset = {seed: initial_vector(averaging, w0, model)}, _behind_trunk(first, dataset, adapted)
    runs = [run for unit, world in worlds.items() for run in _runs(unit, world, starts, dataset)]
    history = simulate(averaging, runs, first.schedule)
    cells = [cell for unit in worlds for cell in unit.cells]
    told = [_describe(cell, run.seed, run.trace.sha256) for cell, run in zip(cells, runs, strict=True)]
    described = pd.DataFrame(told)
    frames, begin = [], 0
    for unit in worlds:
        mine = described[begin : begin + len(unit.cells)]
        begin += len(unit.cells)
        frames.append({"curves": _joined(mine, history.curves), "rounds": _joined(mine, history.rounds)})
    return frames


def _runs(unit: Experiment, world: World, starts: Mapping[int, Tensor], dataset: Dataset) -> list[Run]:
    (seed,) = unit.seeds
    federations = {spec: replace(federation, dataset=dataset) for spec, federation in world.federations.items()}
    return [
        Run(
            label=cell.label,
            method=cell.method,
            federation=federations[cell.federation],
            trace=world.traces[cell.federation],
            w0=starts[seed],
            seed=seed,
            lr=cell.lr,
            with_server=cell.with_server,
            epsilon=cell.epsilon,
        )
        for cell in unit.cells
    ]


def _joined(described: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame` that belong to these runs, with what describes them."""
    mine = frame[frame["run"].isin(described.index)]
    return described.join(mine.set_index("run"), how="right").reset_index(drop=True)


def _behind_trunk(unit: AdapterExperiment, dataset: Dataset, adapted: Adapted) -> Dataset:
    """The dataset as the first adapted step sees it. The frozen steps before it run once for all that share their
    weights; the activations are kept in the cache folder, unless the start is drawn anew for each seed."""
    if not adapted.n_frozen:
        return dataset
    if unit.start is SCRATCH:
        return _activations(dataset, adapted)
    key = (unit.dataset, unit.start, unit.device, adapted.n_frozen)
    if key not in _BEHIND_TRUNK:
        code = code_hash(["fedauto_core.models.adapters", "fedauto_core.engine.local"], wording=False)
        identity = [dataset_sha256(unit.dataset), checkpoint_key(unit.start), adapted.n_frozen, unit.device, code]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        path = cache_folder() / "activations" / f"{unit.model}-{name}.npy.sha256"

        def computed() -> np.ndarray:
            behind = _activations(dataset, adapted)
            return torch.cat([behind.x_train, behind.x_test]).cpu().numpy()

        x = torch.from_numpy(cached_array(path, computed, fresh=asked_fresh())).to(unit.device)
        train = len(dataset.x_train)
        _BEHIND_TRUNK.clear()  # one at a time: they are large
        _BEHIND_TRUNK[key] = replace(dataset, x_train=x[:train], x_test=x[train:])
    return _BEHIND_TRUNK[key]


_BEHIND_TRUNK: dict[object, Dataset] = {}


def _activations(dataset: Dataset, adapted: Adapted) -> Dataset:
    parts = {name: in_chunks(adapted.trunk, getattr(dataset, name)) for name in ("x_train", "x_test")}
    return replace(dataset, **parts)
