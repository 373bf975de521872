"""An experiment is run in units, each cached by content as soon as it is done."""

import functools
import os
import sys
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fedauto_core.engine.pretraining import Pretraining, pretrained
from fedauto_core.errors import require, require_number
from fedauto_core.methods.base import classes
from fedauto_core.store.arrays import asked_fresh
from fedauto_core.store.cores import cpus
from fedauto_core.store.files import cache_folder
from fedauto_core.store.frames import read_frames, write_frames
from fedauto_core.store.saved import keep_seconds, kept_seconds, tell_saved

from .key import drawn_key, joint_key, known_key, of_the_core
from .pool import map_units
from .spec import SCRATCH, Experiment, Result, groups, units
from .unit import build_world, simulate_units

FRAMES = ("curves", "rounds")


def run(experiment: Experiment) -> Result:
    """Run an experiment; what was computed before, exactly so, comes from the cache and needs no data.

    Works in units (one seed of one scenario), on as many processes as `available` says.
    FEDAUTO_FRESH=1 computes all of it again. A damaged entry is reported and recomputed.

    Parameters
    ----------
    experiment : what is run

    Returns
    -------
    Result : its frames, and its key

    Raises
    ------
    InputError : for a GPU that is not there
    """
    fresh = asked_fresh()
    keys = {unit: None if fresh else known_key(unit) for unit in units(experiment)}
    frames = {unit: _cached(key) if key else None for unit, key in keys.items()}
    todo = [unit for unit, found in frames.items() if found is None]
    if cached := [unit for unit, found in frames.items() if found is not None]:
        tell_saved(sum(kept_seconds(_folder(keys[unit])) for unit in cached) / available(cached))
    if todo:
        require(
            experiment.device == "cpu" or torch.cuda.is_available(),
            f"device {experiment.device!r}: torch finds no GPU here",
            allowed="cpu",
            remedy="leave device at cpu, or install a torch that finds the GPU",
        )
        checkpoint = None if experiment.start is SCRATCH else _checkpoint(experiment.start).numpy()
        together = groups(todo)
        processes = available(todo)
        done = map_units(_complete, together, processes, checkpoint, fresh, processes)
        keys |= dict(zip(chain(*together), chain(*done), strict=True))
        frames |= {unit: _cached(keys[unit]) for unit in todo}
    if None in frames.values():
        raise RuntimeError("a result was replaced by another process while it was read; run this again")
    curves, rounds = zip(*frames.values(), strict=True)
    return Result(pd.concat(curves, ignore_index=True), pd.concat(rounds, ignore_index=True), joint_key(keys.values()))


def available(todo: Sequence[Experiment]) -> int:
    """Processes for these units: FEDAUTO_PROCESSES, which the batch sets, else one for each core.

    One on a GPU, which all units share, and where another process could not find what the units name (a method or a
    failure process that a notebook cell defines), or would start by running the user's script again. InputError for a
    FEDAUTO_PROCESSES that is no number of processes.
    """
    asked = os.environ.get("FEDAUTO_PROCESSES")
    processes = cpus() if asked is None else int(asked) if asked.isdecimal() else asked
    remedy = "set it to the cores you can spare, or not at all"
    require_number("FEDAUTO_PROCESSES", processes, low=1, strict=False, whole=True, remedy=remedy)
    script = asked is None and hasattr(sys.modules["__main__"], "__file__")
    cells = [cell for unit in todo for cell in unit.cells]
    kinds = {kind for cell in cells for kind in classes(cell.method)}
    of_a_notebook = any(kind.__module__ == "__main__" for kind in kinds) or not all(
        of_the_core(cell.scenario) for cell in cells
    )
    return 1 if script or of_a_notebook or any(unit.device != "cpu" for unit in todo) else processes


@functools.cache
def _checkpoint(start: Pretraining) -> Tensor:
    """The checkpoint, read (or trained, if FEDAUTO_FRESH asks for that) once per process."""
    return pretrained(start)


def _complete(group: Sequence[Experiment], checkpoint: np.ndarray | None, fresh: bool, processes: int) -> list[str]:
    """Compute units, but those whose results turn out to be there once their traces are drawn; returns their keys."""
    worlds = {unit: build_world(unit) for unit in group}
    keys = {unit: drawn_key(unit, world) for unit, world in worlds.items()}
    todo = {unit: worlds[unit] for unit, key in keys.items() if fresh or _cached(key) is None}
    if found := [key for unit, key in keys.items() if unit not in todo]:
        tell_saved(sum(kept_seconds(_folder(key)) for key in found) / processes)
    if todo:
        started = time.monotonic()
        done = simulate_units(todo, checkpoint)
        seconds = (time.monotonic() - started) / len(todo)
        for unit, frames in zip(todo, done, strict=True):
            write_frames(_folder(keys[unit]), frames)
            keep_seconds(_folder(keys[unit]), seconds)
    return list(keys.values())


def _folder(key: str) -> Path:
    return cache_folder() / "experiments" / key[:32]


def _cached(key: str) -> tuple[pd.DataFrame, ...] | None:
    folder = _folder(key)
    frames = read_frames(folder, FRAMES)
    if folder.exists() and frames is None:
        print(f"fedauto: cached experiment {folder} is damaged; computing it again", file=sys.stderr)
    return frames
