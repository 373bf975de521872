"""An experiment = a frozen spec -> tidy frames, cached by content.

The cache key holds the spec, the source code of every module that can influence a number, the data hashes, the traces,
the package versions and the thread count, so a stale result cannot be served: change anything and the key changes. The
network is in the key by what it did, not by its code: a run meets it through the trace alone.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedauto_core.data.datasets import (
    Dataset,
    Federation,
    FederationSpec,
    build_federation,
    dataset_sha256,
    load_dataset,
)
from fedauto_core.engine.averaging import Whole, adapted_way, aggregation, initial_vector
from fedauto_core.engine.local import in_chunks, prepare_worker
from fedauto_core.engine.pretraining import Pretraining, checkpoint_key, pretrained, with_fresh_head
from fedauto_core.engine.rounds import Run, Schedule, simulate
from fedauto_core.errors import require
from fedauto_core.methods.base import Method
from fedauto_core.models.model import Adapted, LoRA, Model, adapt, build_model
from fedauto_core.network import Scenario, Trace, draw_trace
from fedauto_core.seeding import stream
from fedauto_core.store.files import cache_folder, cached_array
from fedauto_core.store.keys import core_hash, file_hash, versions

SCRATCH = None
"""`Experiment.start` for a randomly initialised model."""


@dataclass(frozen=True)
class Cell:
    """One line of the comparison, run once per seed. epsilon: privacy of the reported label histograms (inf: exact);
    tags: extra columns of the frames, as (name, value) pairs."""

    label: str
    method: Method
    scenario: Scenario
    federation: FederationSpec
    lr: float
    with_server: bool = True
    epsilon: float = float("inf")
    tags: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True)
class Experiment:
    """Everything that determines the numbers. start: pre-training whose features are kept (fresh head), or SCRATCH."""

    dataset: str
    model: str
    start: Pretraining | None
    schedule: Schedule
    cells: tuple[Cell, ...]
    seeds: tuple[int, ...]
    device: str = "cpu"

    def __post_init__(self) -> None:
        require(
            len(self.cells) > 0 and len(self.seeds) > 0,
            f"{len(self.cells)} cells and {len(self.seeds)} seeds",
            allowed="at least one of each",
            remedy="name at least one method and one seed",
        )
        keys = [(cell.label, cell.scenario.name, cell.with_server, cell.tags) for cell in self.cells]
        twins = sorted({str(key) for key in keys if keys.count(key) > 1})
        require(
            not twins,
            f"cells that cannot be told apart: {', '.join(twins)}",
            allowed="one cell per label, scenario, with_server and tags",
            remedy="give them different labels",
        )


@dataclass(frozen=True, kw_only=True)
class AdapterExperiment(Experiment):
    """The same with LoRA on the frozen model, its factors averaged by `aggregation` (`fedauto_core.engine.averaging`)."""

    lora: LoRA
    aggregation: str = "factor"

    def __post_init__(self) -> None:
        super().__post_init__()
        aggregation(self.aggregation)


@dataclass(frozen=True)
class Result:
    """Frames of every run with the columns label, method, scenario, seed, with_server, lr, trace and the tags."""

    curves: pd.DataFrame
    rounds: pd.DataFrame
    key: str


def initial_model(checkpoint: np.ndarray | None, model: Model, seed: int) -> Tensor:
    """w_0 [P] of a seed: the features of a checkpoint [P] under a fresh head, or (None) a random initialisation."""
    rng = stream(seed, "initial model")
    return model.init(rng) if checkpoint is None else with_fresh_head(model, torch.from_numpy(checkpoint), rng)


@functools.cache
def _checkpoint(start: Pretraining) -> Tensor:
    """The checkpoint, read (or trained, if FEDAUTO_FRESH asks for that) once per process."""
    return pretrained(start)


@functools.cache
def _dataset(name: str, device: str) -> Dataset:
    dataset = load_dataset(name)
    tensors = {name: getattr(dataset, name).to(device) for name in ("x_train", "y_train", "x_test", "y_test")}
    return replace(dataset, **tensors)


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


def _units(experiment: Experiment) -> list[Experiment]:
    """The experiment as pieces that run in lockstep by themselves: one seed of one scenario each.

    The pieces do not depend on how many processes share them, so neither do the numbers.
    """
    scenarios = dict.fromkeys(cell.scenario for cell in experiment.cells)
    cells = {scenario: tuple(c for c in experiment.cells if c.scenario == scenario) for scenario in scenarios}
    return [replace(experiment, cells=cells[s], seeds=(seed,)) for seed in experiment.seeds for s in scenarios]


def _trace(unit: Experiment, federation: Federation) -> Trace:
    """The trace that all cells of the unit with this federation share."""
    (seed,), (scenario,) = unit.seeds, {cell.scenario for cell in unit.cells}
    return draw_trace(scenario, rounds=unit.schedule.rounds, histograms=federation.alpha[1:], seed=seed)


@functools.lru_cache(maxsize=64)
def _federation(dataset: str, spec: FederationSpec, seed: int) -> Federation:
    return build_federation(_dataset(dataset, "cpu"), spec, seed)


def _simulate(unit: Experiment, checkpoint: np.ndarray | None) -> list[pd.DataFrame]:
    """Curves and rounds of one unit. Federations and traces are shared by the cells that ask for the same one."""
    (seed,) = unit.seeds
    dataset = _dataset(unit.dataset, unit.device)
    model = build_model(unit.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
    w0 = initial_model(checkpoint, model, seed).to(unit.device)
    way: Whole = Whole(model)
    if isinstance(unit, AdapterExperiment):
        adapted = adapt(model, w0, unit.lora, offsets=aggregation(unit.aggregation).offsets)
        way = adapted_way(unit.aggregation, adapted, unit.lora, seed)
        w0, dataset = initial_vector(way, w0, model), _behind_trunk(unit, dataset, adapted)
    federations = {spec: build_federation(dataset, spec, seed) for spec in {c.federation for c in unit.cells}}
    traces = {spec: _trace(unit, federation) for spec, federation in federations.items()}
    runs = [
        Run(
            c.label,
            c.method,
            federations[c.federation],
            traces[c.federation],
            w0,
            seed,
            c.lr,
            c.with_server,
            c.epsilon,
        )
        for c in unit.cells
    ]
    history = simulate(way, runs, unit.schedule)
    described = pd.DataFrame(
        [_describe(cell, seed, run.trace.sha256) for cell, run in zip(unit.cells, runs, strict=True)]
    )
    return [
        described.join(frame.set_index("run"), how="right").reset_index(drop=True)
        for frame in (history.curves, history.rounds)
    ]


def _behind_trunk(unit: AdapterExperiment, dataset: Dataset, adapted: Adapted) -> Dataset:
    """The dataset as the first adapted step sees it. The frozen steps before it run once for all that share their
    weights; the activations are kept in the cache folder, unless the start is drawn anew for each seed."""
    if not adapted.n_frozen:
        return dataset
    if unit.start is SCRATCH:
        return _activations(dataset, adapted)
    key = (unit.dataset, unit.start, unit.device, adapted.n_frozen)
    if key not in _BEHIND_TRUNK:
        identity = [dataset_sha256(unit.dataset), checkpoint_key(unit.start), adapted.n_frozen, unit.device]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:24]
        path = cache_folder() / "activations" / f"{unit.model}-{name}.npy.sha256"

        def computed() -> np.ndarray:
            behind = _activations(dataset, adapted)
            return torch.cat([behind.x_train, behind.x_test]).cpu().numpy()

        x = torch.from_numpy(cached_array(path, computed)).to(unit.device)
        train = len(dataset.x_train)
        _BEHIND_TRUNK.clear()  # one at a time: they are large
        _BEHIND_TRUNK[key] = replace(dataset, x_train=x[:train], x_test=x[train:])
    return _BEHIND_TRUNK[key]


_BEHIND_TRUNK: dict[object, Dataset] = {}


def _activations(dataset: Dataset, adapted: Adapted) -> Dataset:
    parts = {name: in_chunks(adapted.trunk, getattr(dataset, name)) for name in ("x_train", "x_test")}
    return replace(dataset, **parts)


def content_key(experiment: Experiment) -> str:
    """SHA-256 over everything the numbers depend on."""
    return _joint_key(_unit_key(unit) for unit in _units(experiment))


def _joint_key(keys: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()


def _unit_key(unit: Experiment) -> str:
    specs = dict.fromkeys(cell.federation for cell in unit.cells)
    parts = [
        repr(unit),
        dataset_sha256(unit.dataset),
        "" if unit.start is SCRATCH else checkpoint_key(unit.start),
        [_trace(unit, _federation(unit.dataset, spec, *unit.seeds)).identity for spec in specs],
        core_hash("experiment"),
        versions(),
        torch.get_num_threads(),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def run(experiment: Experiment) -> Result:
    """The frames of `experiment`; what was computed before, exactly so, comes from the cache.

    Works in units (one seed of one scenario), each cached as soon as it is done, on FEDAUTO_PROCESSES processes (set by
    the batch; 1 without it). FEDAUTO_FRESH=1 computes all of it again. A damaged entry is reported and recomputed.
    """
    keys = {unit: _unit_key(unit) for unit in _units(experiment)}
    folders = {unit: cache_folder() / "experiments" / key[:32] for unit, key in keys.items()}
    fresh = os.environ.get("FEDAUTO_FRESH") == "1"
    frames = {unit: None if fresh else _cached(folder) for unit, folder in folders.items()}
    todo = [unit for unit, found in frames.items() if found is None]
    places = [folders[unit] for unit in todo]
    checkpoint = None if experiment.start is SCRATCH or not todo else _checkpoint(experiment.start).numpy()
    processes = int(os.environ.get("FEDAUTO_PROCESSES", "1"))
    if min(processes, len(todo)) > 1:
        _in_pool(processes, todo, places, checkpoint)
    else:
        prepare_worker(torch.get_num_threads())
        for unit, folder in zip(todo, places, strict=True):
            _compute(unit, folder, checkpoint)
    frames |= {unit: _read(folder) for unit, folder in zip(todo, places, strict=True)}
    curves, rounds = zip(*frames.values(), strict=True)
    return Result(pd.concat(curves, ignore_index=True), pd.concat(rounds, ignore_index=True), _joint_key(keys.values()))


@functools.cache
def _pool(processes: int) -> ProcessPoolExecutor:
    """Kept for all runs of a notebook: to start a process, import torch and read the data takes seconds."""
    return ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker, (torch.get_num_threads(),))


def _in_pool(processes: int, units: list[Experiment], folders: list[Path], checkpoint: np.ndarray | None) -> None:
    pool = _pool(processes)
    try:
        list(pool.map(_compute, units, folders, repeat(checkpoint)))
    except BaseException:  # also Ctrl-C: whatever became of the processes, the next run gets new ones
        _pool.cache_clear()
        pool.shutdown(cancel_futures=True)
        raise


def _cached(folder: Path) -> tuple[pd.DataFrame, ...] | None:
    frames = _read(folder)
    if folder.exists() and frames is None:
        print(f"fedauto: cached experiment {folder} is damaged; computing it again", file=sys.stderr)
    return frames


def _compute(unit: Experiment, folder: Path, checkpoint: np.ndarray | None) -> None:
    curves, rounds = _simulate(unit, checkpoint)
    _write(folder, {"curves": curves, "rounds": rounds})


def _write(folder: Path, frames: dict[str, pd.DataFrame]) -> None:
    """Write to a temporary folder beside the target and rename: another process sees all or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    try:
        for name, frame in frames.items():
            frame.to_csv(temporary / f"{name}.csv", index=False)
        hashes = {f"{name}.csv": file_hash(temporary / f"{name}.csv") for name in frames}
        (temporary / "hashes.json").write_text(json.dumps(hashes))
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(folder: Path) -> tuple[pd.DataFrame, ...] | None:
    """curves and rounds, or None if the entry is incomplete or damaged."""
    try:
        hashes = json.loads((folder / "hashes.json").read_text())
    except (OSError, json.JSONDecodeError):
        return None
    names = ("curves.csv", "rounds.csv")
    if any(not (folder / n).exists() or file_hash(folder / n) != hashes.get(n) for n in names):
        return None
    return tuple(pd.read_csv(folder / n) for n in names)


def _mean_over_rounds(curve: pd.DataFrame) -> float:
    """Area under the curve, by trapezoids, divided by the rounds it spans."""
    rounds, accuracy = curve["round"].to_numpy(), curve["accuracy"].to_numpy()
    return float(np.trapezoid(accuracy, rounds) / (rounds[-1] - rounds[0])) if len(rounds) > 1 else float(accuracy[0])


def summarise(curves: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """One row per run: points and worst_class (accuracy and recall of the worst class in percentage points, means over
    the last 10 % of the rounds), loss, area (mean accuracy over the rounds between the first and the last evaluation,
    points), diverged (round or 0),
    distance (||w - w_0|| at the end; where diverged, of the last sound model), rounds_to_target (first evaluation with
    accuracy >= target; NaN if never)."""
    measured = ("round", "accuracy", "worst_class", "loss", "distance", "diverged")
    keys = [c for c in curves.columns if c not in measured]
    last = curves["round"] > 0.9 * curves["round"].max()
    grouped, at_end = (frame.groupby(keys, sort=False, dropna=False) for frame in (curves, curves[last]))
    summary = pd.DataFrame(
        {
            "points": 100 * at_end["accuracy"].mean(),
            "worst_class": 100 * at_end["worst_class"].mean(),
            "loss": at_end["loss"].mean(),
            "area": 100 * grouped[["round", "accuracy"]].apply(_mean_over_rounds),
            "diverged": grouped["diverged"].max(),
            "distance": grouped["distance"].last(),
        }
    )
    if target is not None:
        there = curves[curves["accuracy"] >= target].groupby(keys, sort=False, dropna=False)
        summary["rounds_to_target"] = there["round"].min()
    return summary.reset_index()


def in_every_scenario(frame: pd.DataFrame, labels: Iterable[str], scenarios: Iterable[str]) -> pd.DataFrame:
    """Copy the rows of `labels` (methods that no network can touch, run in one scenario) to all `scenarios`."""
    bounds = frame[frame["label"].isin(list(labels))]
    others = [bounds.assign(scenario=name) for name in scenarios if name not in set(bounds["scenario"])]
    return pd.concat([frame, *others], ignore_index=True)
