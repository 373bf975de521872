"""An experiment = a frozen spec -> tidy frames, cached by content.

The cache key holds the spec, the source code of every module that can influence a number, the data hashes, the package
versions and the thread count, so a stale result cannot be served: change anything and the key changes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedauto_core.data import Dataset, FederationSpec, build_federation, cache_folder, load_dataset
from fedauto_core.errors import require
from fedauto_core.methods.base import Method
from fedauto_core.models import Model, build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.pretraining import Pretraining, pretrained, with_fresh_head
from fedauto_core.provenance import core_hash, file_hash, versions
from fedauto_core.seeding import stream
from fedauto_core.simulation import Run, Schedule, simulate
from fedauto_core.training import prepare_worker

SCRATCH = None
"""`Experiment.start` for a randomly initialised model."""


@dataclass(frozen=True)
class Cell:
    """One line of the comparison, run once per seed. tags: extra columns of the frames, as (name, value) pairs."""

    label: str
    method: Method
    scenario: Scenario
    federation: FederationSpec
    lr: float
    with_server: bool = True
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
        keys = [(cell.label, cell.scenario.name, cell.tags) for cell in self.cells]
        twins = sorted({str(key) for key in keys if keys.count(key) > 1})
        require(
            not twins,
            f"cells that cannot be told apart: {', '.join(twins)}",
            allowed="one cell per label, scenario and tags",
            remedy="give them different labels",
        )


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
    """The checkpoint, read once per process: finding it means loading the source data."""
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


def _simulate(unit: Experiment, checkpoint: np.ndarray | None) -> list[pd.DataFrame]:
    """Curves and rounds of one unit. Federations and traces are shared by the cells that ask for the same one."""
    experiment, (seed,), dataset = unit, unit.seeds, _dataset(unit.dataset, unit.device)
    model = build_model(experiment.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
    w0 = initial_model(checkpoint, model, seed).to(experiment.device)
    federations = {spec: build_federation(dataset, spec, seed) for spec in {c.federation for c in experiment.cells}}
    traces = {
        (scenario, spec): draw_trace(
            scenario, rounds=experiment.schedule.rounds, histograms=federations[spec].alpha[1:], seed=seed
        )
        for scenario, spec in {(c.scenario, c.federation) for c in experiment.cells}
    }
    runs = [
        Run(
            c.label,
            c.method,
            federations[c.federation],
            traces[c.scenario, c.federation],
            w0,
            seed,
            c.lr,
            c.with_server,
        )
        for c in experiment.cells
    ]
    history = simulate(model, runs, experiment.schedule)
    described = pd.DataFrame(
        [_describe(cell, seed, run.trace.sha256) for cell, run in zip(experiment.cells, runs, strict=True)]
    )
    return [
        described.join(frame.set_index("run"), how="right").reset_index(drop=True)
        for frame in (history.curves, history.rounds)
    ]


def _in_processes(units: Sequence[Experiment], checkpoint: np.ndarray | None) -> list[list[pd.DataFrame]]:
    """`_simulate` of every unit, on FEDAUTO_PROCESSES processes (set by the batch; 1 without it)."""
    processes = min(int(os.environ.get("FEDAUTO_PROCESSES", "1")), len(units))
    if processes == 1:
        prepare_worker(torch.get_num_threads())
        return [_simulate(unit, checkpoint) for unit in units]
    with ProcessPoolExecutor(processes, get_context("spawn"), prepare_worker, (torch.get_num_threads(),)) as pool:
        return list(pool.map(_simulate, units, repeat(checkpoint)))


def content_key(experiment: Experiment, dataset: Dataset) -> str:
    """SHA-256 over everything the numbers depend on."""
    parts = [repr(experiment), dataset.sha256, core_hash("experiment"), json.dumps(versions()), torch.get_num_threads()]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


def run(experiment: Experiment) -> Result:
    """The frames of `experiment`, from the cache if exactly this was computed before.

    The environment variable FEDAUTO_FRESH=1 recomputes. A damaged cache entry is reported and recomputed.
    """
    key = content_key(experiment, _dataset(experiment.dataset, experiment.device))
    folder = cache_folder() / "experiments" / key[:32]
    if os.environ.get("FEDAUTO_FRESH") != "1" and folder.exists():
        frames = _read(folder)
        if frames:
            return Result(*frames, key)
        print(f"fedauto: cached experiment {folder} is damaged; computing it again", file=sys.stderr)
    checkpoint = None if experiment.start is SCRATCH else _checkpoint(experiment.start).numpy()
    parts = _in_processes(_units(experiment), checkpoint)
    curves, rounds = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    _write(folder, {"curves": curves, "rounds": rounds})
    return Result(*_read(folder), key)


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


def summarise(curves: pd.DataFrame, target: float | None = None) -> pd.DataFrame:
    """One row per run: accuracy and worst_class (means over the last 10 % of the rounds), area (mean accuracy over the
    evaluations), rounds_to_target (first evaluation with accuracy >= target; NaN if never), diverged (round or 0)."""
    keys = [c for c in curves.columns if c not in ("round", "accuracy", "worst_class", "loss", "diverged")]
    last = curves["round"] > 0.9 * curves["round"].max()
    summary = curves[last].groupby(keys, sort=False)[["accuracy", "worst_class", "loss"]].mean()
    grouped = curves.groupby(keys, sort=False)
    summary["area"] = grouped["accuracy"].mean()
    summary["diverged"] = grouped["diverged"].max()
    if target is not None:
        summary["rounds_to_target"] = curves[curves["accuracy"] >= target].groupby(keys, sort=False)["round"].min()
    return summary.reset_index()


def tune(experiment: Experiment, lrs: Sequence[float]) -> pd.DataFrame:
    """The same step-size grid for every cell: mean final accuracy per (label, lr), `chosen` marks each label's best.

    Use separate tuning seeds and one scenario, and keep the choice for all scenarios.
    """
    cells = tuple(replace(cell, lr=lr, tags=(*cell.tags, ("grid", lr))) for cell in experiment.cells for lr in lrs)
    summary = summarise(run(replace(experiment, cells=cells)).curves)
    table = summary.groupby(["label", "lr"], sort=False)["accuracy"].mean().reset_index()
    table["chosen"] = table.index.isin(table.groupby("label", sort=False)["accuracy"].idxmax())
    return table


def with_lrs(cells: Iterable[Cell], tuned: pd.DataFrame) -> tuple[Cell, ...]:
    """The cells with the step size that `tune` chose for their label."""
    chosen = tuned[tuned["chosen"]].set_index("label")["lr"]
    return tuple(replace(cell, lr=float(chosen[cell.label])) for cell in cells)
