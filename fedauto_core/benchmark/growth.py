"""How seconds and memory of a simulated run of FedAuto grow with each size of the problem, all others fixed.

Expected is a cost that follows the updates that arrive and nothing else: in seconds exponent 1 in arrivals A, rounds T
and, where the model is large, parameters P, in memory in A and P alone; 0 in the number of clients N at a fixed number
of arrivals. Every point has a process of its own, see `memory`.
"""

import mmap
import sys
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context

import numpy as np
import pandas as pd
import torch
from scipy import stats

from fedauto_core.engine.rounds import simulate
from fedauto_core.engine.spec import Run, Schedule
from fedauto_core.methods.registry import make_method
from fedauto_core.models.model import Model, build_model
from fedauto_core.network import Cause, Trace
from fedauto_core.network.traces import make_trace
from fedauto_core.seeding import stream

from .memory import MB, made_up, peak_growth

BASE: Mapping[str, int] = {"N": 100, "A": 10, "side": 16, "C": 10, "T": 5}
"""Clients, arrivals per round, side of the images (an "mlp" of P = 128 side^2 + ... parameters), classes, rounds."""
SMALLEST: Mapping[str, int] = {"N": 1, "A": 1, "side": 8, "C": 2, "T": 1}
RANGES: Mapping[str, tuple[int, int]] = {"N": (10, 1000), "A": (5, 80), "side": (8, 64), "C": (2, 100), "T": (2, 40)}


def rotating_trace(rounds: int, clients: int, arrivals: int) -> Trace:
    """Exactly `arrivals` of the clients in each round, in turns."""
    arrived = np.zeros((rounds, clients), dtype=bool)
    for r in range(rounds):
        arrived[r, (r * arrivals + np.arange(arrivals)) % clients] = True
    share = np.full(arrived.shape, arrivals / clients)
    return make_trace(arrived, Cause.TIMETABLE, share, share[0])


def _work(sizes: Mapping[str, int]) -> tuple[Model, list[Run], Schedule]:
    """What `simulate` takes for one run."""
    shape = 1, sizes["side"], sizes["side"]
    federation, model = made_up(sizes["N"], shape, sizes["C"]), build_model("mlp", shape, sizes["C"])
    trace = rotating_trace(sizes["T"], sizes["N"], sizes["A"])
    w0 = model.init(stream(0, "initial model"))
    run = Run("fedauto", make_method("fedauto"), federation, trace, w0, 0, 0.01, True)
    return model, [run], Schedule(rounds=sizes["T"], evaluate_every=sizes["T"])


def point(sizes: Mapping[str, int], repetitions: int) -> dict[str, float]:
    """P, seconds (median over `repetitions`) and megabytes (peak over what data and program take) of one run."""
    torch.set_num_threads(1)
    simulate(*_work(SMALLEST))  # loads the compiled loops, some 100 MB
    work = _work(sizes)

    taken = []
    memory = peak_growth(lambda: simulate(*work)) if sys.platform == "linux" else np.nan
    for _ in range(repetitions):
        begin = time.perf_counter()
        simulate(*work)
        taken.append(time.perf_counter() - begin)
    return {"P": work[0].n_parameters, "seconds": float(np.median(taken)), "megabytes": max(memory, mmap.PAGESIZE) / MB}


def measured(points: int, repetitions: int = 5) -> pd.DataFrame:
    """`point` at `points` values over the range of each size: columns varied (N, A, P, C or T) and size (its value; the
    side varies P), then what `point` gives."""
    context = get_context("forkserver" if "forkserver" in get_all_start_methods() else "spawn")
    context.set_forkserver_preload([__name__])  # imports once for all points
    rows = []
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        for name, ends in RANGES.items():
            for value in np.geomspace(*ends, points).round().astype(int).tolist():
                found = pool.submit(point, {**BASE, name: value}, repetitions).result()
                varied, size = ("P", found["P"]) if name == "side" else (name, value)
                rows.append({"varied": varied, "size": size} | found)
    return pd.DataFrame(rows)


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Slope of log cost on log size, with its 95 % t-interval over the points, by size and cost ("seconds",
    "megabytes"); NaN intervals where two points leave nothing to judge by."""
    rows = []
    for varied, group in points.groupby("varied", sort=False):
        for cost in ("seconds", "megabytes"):
            fit = stats.linregress(np.log(group["size"]), np.log(group[cost]))
            half = fit.stderr * stats.t.ppf(0.975, len(group) - 2) if len(group) > 2 else np.nan
            low, high = fit.slope - half, fit.slope + half
            found = {"exponent": fit.slope, "low": low, "high": high}
            rows.append({"varied": varied, "cost": cost} | found)
    return pd.DataFrame(rows)
