"""Fair tuning: the same small grid for every method, its outcome kept in versioned files.

Every method is tried with each client step size and each of the three values of its one knob (`Method.knob`), if it has
one: no method gets a larger grid. Tuning uses seeds and test images that no result uses, and one scenario; the choice
then holds in every scenario, because the network is not known in advance.

A finished grid is kept in `tuned/<dataset>-<model>.csv`, so that a comparison need not repeat it. Rows are found by a
key over everything that was tuned; what the file does not hold is computed. A choice outlives a change of the code, as
a published one would, but says so. FEDAUTO_STORE_TUNING=1 (`make tune`) runs every grid, from
the cache where it can, and stores it.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import compress, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fedauto_core.data.datasets import dataset_sha256
from fedauto_core.store.files import cache_folder
from fedauto_core.store.writing import locked, write_atomically

from .key import method_code
from .running import run
from .spec import Cell, Experiment
from .summary import summarise

STORE = Path(__file__).parent / "tuned"
STORED = dict(key=str, label=str, lr=float, knob=str, value=float, points=float, diverged=int, code=str)
"""Column -> type of the versioned files; value is empty where there is no knob."""


class Trial(NamedTuple):
    """One point of a label's grid. row: what is stored of it besides its outcome; key in it: hash of everything that is
    tried, whatever it is called; code: hash of what computes the outcome."""

    cell: Cell
    row: dict[str, object]


def tune(experiment: Experiment, lrs: Sequence[float], store: Path = STORE) -> pd.DataFrame:
    """The grid of every cell of `experiment`, whose own step sizes and knobs do not matter.

    store: folder of the versioned files. Returns one row per label and trial: lr, knob (its name), value, points
    (final accuracy, mean over the seeds), diverged (seeds), stored (whether the row comes from the versioned file, and
    whether the code has changed since), chosen (the best of its label), on_edge ("lr", "knob" or both, where the
    choice is an end of the values tried: a wider grid might do better).
    """
    path = store / f"{experiment.dataset}-{experiment.model}.csv"
    storing = os.environ.get("FEDAUTO_STORE_TUNING") == "1"
    grid = _grid(experiment, lrs)
    stored = {} if storing else _stored(path)
    measured = _measured(experiment, [trial for trial in grid if trial.row["key"] not in stored])
    if storing:
        _keep(path, measured)
    return _choose(_table(grid, stored, measured), lrs)


def _grid(experiment: Experiment, lrs: Sequence[float]) -> list[Trial]:
    """Every cell with every client step size and every value of its method's knob."""
    trials = []
    for cell in experiment.cells:
        code = method_code(cell.method)[:12]
        knob, values = cell.method.knob or ("", (np.nan,))
        for lr, value in product(lrs, values):
            tried = replace(cell, lr=lr, method=replace(cell.method, **{knob: value}) if knob else cell.method)
            identity = repr(replace(experiment, cells=(replace(tried, label="", tags=()),), device="any"))
            key = hashlib.sha256(f"{dataset_sha256(experiment.dataset)} {identity}".encode()).hexdigest()[:16]
            row = {"key": key, "label": cell.label, "lr": lr, "knob": knob, "value": float(value), "code": code}
            trials.append(Trial(tried, row))
    return trials


def _stored(path: Path) -> dict[str, dict[str, object]]:
    """Key -> row of a versioned file. One that cannot be read as such counts as not there, and is named."""
    if not path.exists():
        return {}
    with suppress(OSError, ValueError):
        missing = {"keep_default_na": False, "na_values": {"value": [""]}}
        table = pd.read_csv(path, usecols=list(STORED), dtype=STORED, **missing)
        if table.drop(columns="value").notna().all(axis=None):
            return {row["key"]: row for row in table.to_dict("records")}
    print(f"fedauto: the stored tuning {path} is damaged; it counts as not there", file=sys.stderr)
    return {}


def _measured(experiment: Experiment, trials: Sequence[Trial]) -> dict[str, dict[str, object]]:
    """Key -> row with the final accuracy in points and the number of diverged runs, over the seeds of `experiment`."""
    if not trials:
        return {}
    cells = tuple(replace(trial.cell, tags=(("trial", i),)) for i, trial in enumerate(trials))
    summary = summarise(run(replace(experiment, cells=cells)).curves)
    by_trial = summary.assign(diverged=summary["diverged"] > 0).groupby("trial")
    outcomes = by_trial.agg({"points": "mean", "diverged": "sum"}).round({"points": 4}).to_dict("records")
    return {trial.row["key"]: trial.row | outcome for trial, outcome in zip(trials, outcomes, strict=True)}


def _keep(path: Path, measured: Mapping[str, Mapping[str, object]]) -> None:
    """Add rows to the file, whole or not at all. Nobody else's rows are lost, not even those of a damaged file."""
    with locked(cache_folder() / "tuned.lock"):
        stored = _stored(path)
        if path.is_file() and not stored:
            path.replace(path.with_suffix(".damaged"))
        table = pd.DataFrame((stored | measured).values(), columns=list(STORED))
        write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _table(grid: Sequence[Trial], stored: Mapping[str, Any], measured: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for trial in grid:
        key, code = trial.row["key"], trial.row["code"]
        found = measured.get(key) or stored[key]
        age = "no" if key in measured else "yes" if found["code"] == code else "by older code"
        rows.append(found | trial.row | {"stored": age})
    return pd.DataFrame(rows, columns=["label", "lr", "knob", "value", "points", "diverged", "stored"])


def _choose(table: pd.DataFrame, lrs: Sequence[float]) -> pd.DataFrame:
    """The table with the best trial of each label marked, and where it lies on an edge of the values tried."""
    values = table.groupby("label", sort=False)["value"]
    at_lr = table["lr"].isin([min(lrs), max(lrs)])
    at_knob = (table["value"] == values.transform("min")) | (table["value"] == values.transform("max"))
    edges = [" ".join(compress(("lr", "knob"), at)) for at in zip(at_lr, at_knob, strict=True)]
    best = table.index.isin(_best(table, lrs))
    return table.assign(chosen=best, on_edge=np.where(best, edges, ""))


def _best(table: pd.DataFrame, lrs: Sequence[float]) -> pd.Index:
    """Row of the best trial of each label: the fewest diverged seeds, then the most points. Ties go to the middle of
    the grid, so that a method that never moved in the tuning scenario is not judged by an extreme step size."""
    middle = np.log(sorted(lrs)[len(lrs) // 2])
    off = np.abs(np.log(table["lr"]) - middle) + table.groupby("label", sort=False)["value"].transform(
        lambda values: (values.rank(method="dense") - 2).abs().fillna(0)
    )
    by = {"diverged": True, "points": False, "off": True}  # ascending?
    order = table.assign(off=off).sort_values(list(by), ascending=list(by.values()), kind="stable")
    return order.drop_duplicates("label").index


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `tune`'s table that were chosen, one per label."""
    return table[table["chosen"]].drop(columns="chosen").reset_index(drop=True)


def tuned_cells(cells: Iterable[Cell], table: pd.DataFrame) -> tuple[Cell, ...]:
    """The cells with the client step size and the knob that `tune` chose for their label."""
    best = chosen(table).set_index("label")
    result = []
    for cell in cells:
        row, method = best.loc[cell.label], cell.method
        if method.knob:
            name, values = method.knob
            # The table holds floats; the knob's own value keeps its type.
            method = replace(method, **{name: min(values, key=lambda value: abs(value - row["value"]))})
        result.append(replace(cell, lr=float(row["lr"]), method=method))
    return tuple(result)


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Best, median and worst final accuracy (points) over the grid of each label; settings: the number of trials."""
    by = table.groupby("label", sort=False)["points"]
    return by.agg(best="max", median="median", worst="min", settings="size").reset_index()
