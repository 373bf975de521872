"""An experiment is run in units, each cached by content as soon as it is done."""

import functools
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from fedauto_core.engine.pretraining import Pretraining, pretrained
from fedauto_core.store.arrays import asked_fresh
from fedauto_core.store.files import cache_folder
from fedauto_core.store.frames import read_frames, write_frames

from .key import drawn_key, joint_key, known_key
from .pool import map_units
from .spec import SCRATCH, Experiment, Result, units
from .unit import build_world, simulate_unit

FRAMES = ("curves", "rounds")


def run(experiment: Experiment) -> Result:
    """Run an experiment; what was computed before, exactly so, comes from the cache and needs no data.

    Works in units (one seed of one scenario), on FEDAUTO_PROCESSES processes (set by the batch; 1 without it).
    FEDAUTO_FRESH=1 computes all of it again. A damaged entry is reported and recomputed.

    Parameters
    ----------
    experiment : what is run

    Returns
    -------
    Result : its frames, and its key
    """
    fresh = asked_fresh()
    keys = {unit: None if fresh else known_key(unit) for unit in units(experiment)}
    frames = {unit: _cached(key) if key else None for unit, key in keys.items()}
    todo = [unit for unit, found in frames.items() if found is None]
    if todo:
        checkpoint = None if experiment.start is SCRATCH else _checkpoint(experiment.start).numpy()
        processes = int(os.environ.get("FEDAUTO_PROCESSES", "1"))
        keys |= dict(zip(todo, map_units(_complete, todo, processes, checkpoint, fresh), strict=True))
        frames |= {unit: _cached(keys[unit]) for unit in todo}
    if None in frames.values():
        raise RuntimeError("a result was replaced by another process while it was read; run this again")
    curves, rounds = zip(*frames.values(), strict=True)
    return Result(pd.concat(curves, ignore_index=True), pd.concat(rounds, ignore_index=True), joint_key(keys.values()))


@functools.cache
def _checkpoint(start: Pretraining) -> Tensor:
    """The checkpoint, read (or trained, if FEDAUTO_FRESH asks for that) once per process."""
    return pretrained(start)


def _complete(unit: Experiment, checkpoint: np.ndarray | None, fresh: bool) -> str:
    """Compute a unit, unless its result turns out to be there once its traces are drawn; returns its key."""
    world = build_world(unit)
    key = drawn_key(unit, world)
    if fresh or _cached(key) is None:
        write_frames(_folder(key), simulate_unit(unit, world, checkpoint))
    return key


def _folder(key: str) -> Path:
    return cache_folder() / "experiments" / key[:32]


def _cached(key: str) -> tuple[pd.DataFrame, ...] | None:
    folder = _folder(key)
    frames = read_frames(folder, FRAMES)
    if folder.exists() and frames is None:
        print(f"fedauto: cached experiment {folder} is damaged; computing it again", file=sys.stderr)
    return frames
