"""Fair tuning: the same small grid and the same choice for every method, its outcome kept in versioned files.

Every method is tried with each client step size and each of the three values of its one knob (`Method.knob`), if it has
one: no method gets a larger grid. Tuning uses seeds and test images that no result uses, and one scenario; the choice
then holds in every scenario, because the network is not known in advance.

Methods whose local work is the same (`same_local_work`) share one step size, chosen for their mean: a difference that
is the noise of tuning must not decide a comparison. The choice takes the largest step size that is as good as the best
(`as_good`: within one standard error), then of the knob's values that are as good as the best the cheapest: the fewest
server samples, then the nearest to the method's default. A step size on an end of the grid widens it once, by one step
size for all that share it.

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
from fedauto_core.methods.base import Method
from fedauto_core.store.files import cache_folder
from fedauto_core.store.writing import locked, write_atomically

from .key import method_code
from .running import run
from .spec import Cell, Experiment
from .summary import summarise

STORE = Path(__file__).parent / "tuned"
STORED = dict(key=str, label=str, lr=float, knob=str, value=float, points=str, samples=float, diverged=int, code=str)
"""Column -> type of the versioned files. value is empty where there is no knob; points: one for each seed, separated by
blanks; samples: gradient samples of the server in a round; diverged: seeds."""


class Trial(NamedTuple):
    """One point of a label's grid. row: what is stored of it besides its outcome; key in it: hash of everything that is
    tried, whatever it is called; code: hash of what computes the outcome. off: how far its knob is from the default."""

    cell: Cell
    row: dict[str, object]
    off: float


def tune(experiment: Experiment, lrs: Sequence[float], store: Path = STORE) -> pd.DataFrame:
    """The grid of every cell of `experiment`, whose own step sizes and knobs do not matter but for ties (`knob`: the
    nearest to the cell's own).

    store: folder of the versioned files. Returns one row per label and trial: lr, knob (its name), value, points
    (final accuracy, mean over the seeds; none for a seed that diverged), error (its standard error over the seeds),
    samples (gradient samples of the server in a round), diverged (seeds), stored (whether the row comes from the
    versioned file, and whether the code has changed since), step ("shared" or "own" step size), chosen, on_edge ("lr",
    "knob" or both: the choice is an end of the values tried, and for a knob none further inside is as good: a
    still wider grid might do better).
    """
    path = store / f"{experiment.dataset}-{experiment.model}.csv"
    grid = {cell.label: sorted({*lrs}) for cell in experiment.cells}
    tried = _tried(experiment, grid, path)
    table = _choose(tried)
    at_end = table.loc[table["chosen"] & table["on_edge"].str.contains("lr"), ["label", "lr"]]
    if len({*lrs}) > 1 and len(at_end):
        beyond = {label: [_beyond(grid[label], lr)] for label, lr in at_end.itertuples(index=False)}
        table = _choose(pd.concat([tried, _tried(experiment, beyond, path)], ignore_index=True))
    return table.drop(columns=["key", "code", "off"])


def same_local_work(method: Method) -> bool:
    """Whether its clients do what FedAvg's do: plain SGD from the broadcast model on their own data. Such methods
    differ only in what the server makes of the same updates."""
    return method.plain_work and method.public_share == 0 and method.participation in ("network", "ideal")


def _beyond(lrs: Sequence[float], end: float) -> float:
    """One step size more, beyond that end of the ascending `lrs`: their geometric continuation, to two digits."""
    neighbour = lrs[1] if end == lrs[0] else lrs[-2]
    return float(f"{end * end / neighbour:.2g}")


def _tried(experiment: Experiment, lrs: Mapping[str, Sequence[float]], path: Path) -> pd.DataFrame:
    """One row per trial of the labels in `lrs`, unchosen; points: a tuple, one for each seed."""
    storing = os.environ.get("FEDAUTO_STORE_TUNING") == "1"
    grid = _grid(experiment, lrs)
    stored = {} if storing else _stored(path)
    measured = _measured(experiment, [trial for trial in grid if trial.row["key"] not in stored])
    if storing:
        _keep(path, measured)
    return _table(grid, stored, measured)


def _grid(experiment: Experiment, lrs: Mapping[str, Sequence[float]]) -> list[Trial]:
    """Every cell named in `lrs` with each of its client step sizes and every value of its method's knob."""
    trials = []
    for cell in experiment.cells:
        code = method_code(cell.method)[:12]
        knob, values = cell.method.knob or ("", (np.nan,))
        for lr, value in product(lrs.get(cell.label, ()), values):
            tried = replace(cell, lr=lr, method=replace(cell.method, **{knob: value}) if knob else cell.method)
            identity = repr(replace(experiment, cells=(replace(tried, label="", tags=()),), device="cpu"))
            key = hashlib.sha256(f"{dataset_sha256(experiment.dataset)} {identity}".encode()).hexdigest()[:16]
            row = {"key": key, "label": cell.label, "lr": lr, "knob": knob, "value": float(value), "code": code}
            trials.append(Trial(tried, row, abs(value - getattr(cell.method, knob)) if knob else 0.0))
    return trials


def _stored(path: Path) -> dict[str, dict[str, object]]:
    """Key -> row of a versioned file. One that cannot be read as such counts as not there, and is named."""
    if not path.exists():
        return {}
    with suppress(OSError, ValueError):
        missing = {"keep_default_na": False, "na_values": {"value": [""]}}
        table = pd.read_csv(path, usecols=list(STORED), dtype=STORED, **missing)
        if table.drop(columns="value").notna().all(axis=None):
            table["points"] = [tuple(map(float, text.split())) for text in table["points"]]
            if all(table["points"]):
                return {row["key"]: row for row in table.to_dict("records")}
    print(f"fedauto: the stored tuning {path} is damaged; it counts as not there", file=sys.stderr)
    return {}


def _measured(experiment: Experiment, trials: Sequence[Trial]) -> dict[str, dict[str, object]]:
    """Key -> row with the final accuracy in points of each seed of `experiment` (0 where it diverged), the server's
    gradient samples in a round, and the number of diverged runs."""
    if not trials:
        return {}
    cells = tuple(replace(trial.cell, tags=(("trial", i),)) for i, trial in enumerate(trials))
    result = run(replace(experiment, cells=cells))
    summary = summarise(result.curves).sort_values("seed", kind="stable")
    diverged = (summary["diverged"] > 0).groupby(summary["trial"]).sum()
    sound = summary["points"].where(summary["diverged"] == 0, 0.0).round(4)
    points = sound.groupby(summary["trial"]).agg(tuple)
    samples = result.rounds.groupby("trial")["server_samples"].mean().round(4)
    outcomes = pd.DataFrame({"points": points, "samples": samples, "diverged": diverged}).to_dict("records")
    return {trial.row["key"]: trial.row | outcome for trial, outcome in zip(trials, outcomes, strict=True)}


def _keep(path: Path, measured: Mapping[str, Mapping[str, object]]) -> None:
    """Add rows to the file, whole or not at all. Nobody else's rows are lost, not even those of a damaged file; but
    what older code made of the same labels goes."""
    codes = {row["label"]: row["code"] for row in measured.values()}
    with locked(cache_folder() / "tuned.lock"):
        stored = _stored(path)
        if path.is_file() and not stored:
            path.replace(path.with_suffix(".damaged"))
        current = {key: row for key, row in stored.items() if codes.get(row["label"], row["code"]) == row["code"]}
        table = pd.DataFrame((current | measured).values(), columns=list(STORED))
        table["points"] = [" ".join(f"{points:g}" for points in by_seed) for by_seed in table["points"]]
        write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _table(grid: Sequence[Trial], stored: Mapping[str, Any], measured: Mapping[str, Any]) -> pd.DataFrame:
    rows = []
    for trial in grid:
        key, code = trial.row["key"], trial.row["code"]
        found = measured.get(key) or stored[key]
        age = "no" if key in measured else "yes" if found["code"] == code else "by older code"
        step = "shared" if same_local_work(trial.cell.method) else "own"
        rows.append(found | trial.row | {"stored": age, "step": step, "off": trial.off})
    return pd.DataFrame(rows)


def as_good(points: np.ndarray) -> np.ndarray:
    """Which settings are within one standard error of the best, bool [K]; points [K, S] of K settings on S seeds.

    The standard error over the seeds is the smaller of two, that of the paired difference and that of the best itself:
    a setting that collapses on one seed has a large one of the first kind, and is not as good for it. With one
    seed, those that equal the best.
    """
    best = points[points.mean(axis=1).argmax()]
    behind = best - points
    error = np.minimum(_error(behind), _error(best[None]))
    return behind.mean(axis=1) <= error


def _error(points: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the seeds, [K, S] -> [K]; 0 with one seed."""
    seeds = points.shape[1]
    return points.std(axis=1, ddof=1) / np.sqrt(seeds) if seeds > 1 else np.zeros(len(points))


def _choose(tried: pd.DataFrame) -> pd.DataFrame:
    """The rows with points and error as numbers, the choice of each label marked, and where it is on an end."""
    by_seed = np.array(tried["points"].tolist())
    table = tried.assign(points=by_seed.mean(axis=1), error=_error(by_seed), chosen=False, on_edge="")
    sharing = table["label"].where(table["step"] == "own", "")  # no label is empty
    for _, rows in table.groupby(sharing, sort=False):
        lr = _step_size(rows, by_seed)
        for _, values in rows[rows["lr"] == lr].groupby("label", sort=False):
            good = values[as_good(by_seed[values.index])]
            best = good.sort_values(["samples", "off"], kind="stable").index[0]
            ends = [values["value"].min(), values["value"].max()] if values["knob"].any() else []
            at = (lr in (rows["lr"].min(), rows["lr"].max()), good["value"].isin(ends).all())
            table.loc[best, ["chosen", "on_edge"]] = True, " ".join(compress(("lr", "knob"), at))
    return table.sort_values("label", key=lambda labels: pd.factorize(labels)[0], kind="stable", ignore_index=True)


def _step_size(rows: pd.DataFrame, by_seed: np.ndarray) -> float:
    """The largest client step size that is as good as the best in the mean over the labels, each at its best knob."""
    best = rows.loc[rows.groupby(["lr", "label"])["points"].idxmax()]
    means = {lr: by_seed[at.index].mean(axis=0) for lr, at in best.groupby("lr")}
    return max(compress(means, as_good(np.array(list(means.values())))))


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
