"""Fair tuning: the same small grid for every method, its outcome kept in versioned files.

Every method is tried with each client step size and each of the three values of its one knob (`Method.knob`), if it has
one: no method gets a larger grid. Tuning uses seeds and test images that no result uses, and one scenario; the choice
then holds in every scenario, because the network is not known in advance.

A finished grid is kept in `tuned/<dataset>-<model>.csv`, so that a comparison need not repeat it. Rows are found by a
key over everything that was tuned; what the file does not hold is computed. A choice outlives a change of the code, as
a published one would, but says so. FEDAUTO_STORE_TUNING=1 (`make tune`) computes every row anew and stores it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

from fedauto_core.data.datasets import dataset_sha256
from fedauto_core.experiments.running import run
from fedauto_core.experiments.spec import Cell, Experiment
from fedauto_core.experiments.summary import summarise
from fedauto_core.store.files import cache_folder
from fedauto_core.store.keys import core_hash

STORE = Path(__file__).parent / "tuned"


@dataclass(frozen=True)
class _Setting:
    """One point of a label's grid. key: hash of everything that was tuned, whatever it is called."""

    cell: Cell
    knob: str
    value: float
    key: str


def _grid(experiment: Experiment, cell: Cell, lrs: Sequence[float]) -> list[_Setting]:
    """Every client step size with every value of the method's knob."""
    name, values = cell.method.knob or ("", (np.nan,))
    settings = []
    for lr in lrs:
        for value in values:
            method = replace(cell.method, **{name: value}) if name else cell.method
            tried = replace(cell, lr=lr, method=method)
            identity = repr(replace(experiment, cells=(replace(tried, label="", tags=()),), device="any"))
            key = hashlib.sha256(f"{dataset_sha256(experiment.dataset)} {identity}".encode()).hexdigest()[:16]
            settings.append(_Setting(tried, name, float(value), key))
    return settings


def _measure(experiment: Experiment, settings: Sequence[_Setting]) -> pd.DataFrame:
    """Final accuracy in points and number of diverged runs of each setting, over the seeds."""
    cells = tuple(replace(s.cell, tags=(("setting", i),)) for i, s in enumerate(settings))
    summary = summarise(run(replace(experiment, cells=cells)).curves)
    summary["diverged"] = summary["diverged"] > 0
    table = summary.groupby("setting").agg({"points": "mean", "diverged": "sum"}).reset_index(drop=True)
    identity = [
        {"key": s.key, "label": s.cell.label, "lr": s.cell.lr, "knob": s.knob, "value": s.value} for s in settings
    ]
    return pd.DataFrame(identity).join(table).assign(code=core_hash("experiment")[:12]).round({"points": 4})


def _stored(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values={"value": [""]}) if path.exists() else pd.DataFrame()


def _store(path: Path, measured: pd.DataFrame) -> None:
    """Add rows to the file; whole or not at all, and nobody else's rows are lost."""
    path.parent.mkdir(exist_ok=True)
    cache_folder().mkdir(parents=True, exist_ok=True)
    with FileLock(cache_folder() / "tuned.lock"):
        temporary = path.with_suffix(".writing")
        table = pd.concat([_stored(path), measured]).drop_duplicates("key", keep="last")
        table.to_csv(temporary, index=False, lineterminator="\n")
        temporary.replace(path)


def tune(experiment: Experiment, lrs: Sequence[float], store: Path = STORE) -> pd.DataFrame:
    """The grid of every cell of `experiment`, whose own step sizes and knobs do not matter.

    store: folder of the versioned files. Returns one row per label and setting: lr, knob (its name), value, points
    (final accuracy, mean over the seeds), diverged (seeds), chosen (the best of its label), on_edge ("lr", "knob" or
    both, where the choice is an end of the values tried: a wider grid might do better), stored (whether the row comes
    from the versioned file, and whether the code has changed since).
    """
    path = store / f"{experiment.dataset}-{experiment.model}.csv"
    settings = {s.key: s for cell in experiment.cells for s in _grid(experiment, cell, lrs)}
    storing = os.environ.get("FEDAUTO_STORE_TUNING") == "1"
    results = pd.DataFrame() if storing else _stored(path)
    missing = [s for key, s in settings.items() if results.empty or key not in set(results["key"])]
    if len(results):
        unchanged = results["code"] == core_hash("experiment")[:12]
        results["stored"] = np.where(unchanged, "yes", "by older code")
    if missing:
        measured = _measure(experiment, missing)
        results = pd.concat([results, measured.assign(stored="no")])
        if storing:
            _store(path, measured)
    by_key = results.set_index("key")[["points", "diverged", "stored"]]
    rows = [
        {"label": cell.label, "lr": s.cell.lr, "knob": s.knob, "value": s.value, **by_key.loc[s.key]}
        for cell in experiment.cells
        for s in _grid(experiment, cell, lrs)
    ]
    table = pd.DataFrame(rows)
    table["chosen"] = table.index.isin(_best(table, lrs))
    values = table.groupby("label", sort=False)["value"]
    at = pd.DataFrame(
        {
            "lr": table["lr"].isin([min(lrs), max(lrs)]),
            "knob": (table["value"] == values.transform("min")) | (table["value"] == values.transform("max")),
        }
    )
    edges = [" ".join(at.columns[row]) for row in at.to_numpy()]
    table["on_edge"] = np.where(table["chosen"], edges, "")
    return table


def _best(table: pd.DataFrame, lrs: Sequence[float]) -> pd.Index:
    """Row of the best setting of each label: the fewest diverged seeds, then the most points. Ties go to the middle of
    the grid, so that a rule that never moved in the tuning scenario is not judged by an extreme step size."""
    middle = np.log(sorted(lrs)[len(lrs) // 2])
    off = np.abs(np.log(table["lr"]) - middle) + table.groupby("label", sort=False)["value"].transform(
        lambda values: (values.rank(method="dense") - 2).abs().fillna(0)
    )
    by = {"diverged": True, "points": False, "off": True}  # ascending?
    order = table.assign(off=off).sort_values(list(by), ascending=list(by.values()), kind="stable")
    return order.drop_duplicates("label").index


def tuned_cells(cells: Iterable[Cell], table: pd.DataFrame) -> tuple[Cell, ...]:
    """The cells with the client step size and the knob that `tune` chose for their label."""
    chosen = table[table["chosen"]].set_index("label")
    result = []
    for cell in cells:
        best, method = chosen.loc[cell.label], cell.method
        if method.knob:
            name, values = method.knob
            # The table holds floats; the knob's own value keeps its type.
            method = replace(method, **{name: min(values, key=lambda value: abs(value - best["value"]))})
        result.append(replace(cell, lr=float(best["lr"]), method=method))
    return tuple(result)


def sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Best, median and worst final accuracy (points) over the grid of each label, and the number of settings."""
    by = table.groupby("label", sort=False)["points"]
    return by.agg(best="max", median="median", worst="min", settings="size").reset_index()
