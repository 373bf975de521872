"""The round loop: broadcast, local work, network, aggregate, evaluate -> `History`.

Many runs (methods x seeds x scenarios) go through the rounds in lockstep, so that one stack holds the local models of
all of them. A lost upload is never trained: no method's state may depend on it (rule R3), so leaving it out is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.engine.averaging import Whole
from fedauto_core.engine.lane import Lane
from fedauto_core.engine.local import local_updates, predict
from fedauto_core.engine.spec import History, Run, Schedule
from fedauto_core.errors import require
from fedauto_core.methods.base import Arrivals
from fedauto_core.models.model import Model
from fedauto_core.seeding import stream

STACK = 256  # local models trained per call of the engine; bounds the memory at STACK x P floats


class _Task(NamedTuple):
    """A run in one round: who is heard (ids [K]) and how many steps each of them takes."""

    lane: Lane
    ids: np.ndarray
    steps: np.ndarray


def _blocks(lanes: Sequence[Lane], schedule: Schedule, round: int) -> Iterator[list[_Task]]:
    """Tasks of the runs still moving, grouped so that a group trains about STACK models."""
    block: list[_Task] = []
    for lane in lanes:
        if not lane.diverged:
            ids = lane.heard(round)
            block.append(_Task(lane, ids, lane.steps(schedule, round, ids)))
            if sum(len(task.ids) for task in block) >= STACK:
                yield block
                block = []
    if block:
        yield block


def _train(way: Whole, round: int, block: list[_Task], draws: dict[int, np.ndarray]) -> list[Tensor]:
    """Deltas [K, P] of each task of the block, all trained as one stack for each number of steps."""
    busy = [task for task in block if len(task.ids)]
    if not busy:
        return [task.lane.w.new_empty((0, task.lane.w.numel())) for task in block]
    work = [task.lane.run.method.local_work(task.lane.state, task.lane.w, task.ids) for task in busy]
    sizes = [len(task.ids) for task in busy]
    start = torch.cat([way.start(part.start, round) for part in work])

    def per_model(values: list[float]) -> Tensor:
        return torch.tensor(np.repeat(values, sizes), dtype=start.dtype, device=start.device)

    linear = reference = None
    if any(part.linear is not None for part in work):
        linear = torch.cat([torch.zeros_like(p.start) if p.linear is None else p.linear for p in work])
    if any(part.prox for part in work):
        reference = way.start(torch.cat([task.lane.w.expand(len(task.ids), -1) for task in busy]), round)
    dataset = busy[0].lane.run.federation.dataset
    batches = np.concatenate([task.lane.batches(task.ids, draws[task.lane.run.seed]) for task in busy])
    lr, prox = per_model([task.lane.run.lr for task in busy]), per_model([part.prox for part in work])
    steps, held = np.concatenate([task.steps for task in busy]), way.held(round)
    deltas = torch.empty_like(start)
    for count in np.unique(steps):
        rows = np.flatnonzero(steps == count) if (steps != count).any() else slice(None)
        deltas[rows] = local_updates(
            way.model,
            start[rows],
            dataset.x_train,
            dataset.y_train,
            batches[rows, :count],
            lr[rows],
            linear=None if linear is None else linear[rows],
            prox=prox[rows] if reference is not None else 0.0,
            reference=None if reference is None else reference[rows],
            frozen=held,
        )
    deltas = way.lift(start, deltas)
    rows_of = iter(deltas.split(sizes))
    return [next(rows_of) if len(task.ids) else deltas[:0] for task in block]


def _evaluate(way: Whole, lanes: Sequence[Lane], schedule: Schedule) -> list[dict[str, float]]:
    """Accuracy, recall of the worst class and cross-entropy of every run's current model."""
    dataset = lanes[0].run.federation.dataset
    used = slice(*(schedule.test or (None,)))
    x, y = dataset.x_test[used], dataset.y_test[used]
    one_hot = functional.one_hot(y, dataset.n_classes).to(x.dtype)
    rows = []
    for chunk in range(0, len(lanes), 16):  # bounds the memory of the scores
        theta = way.readable(torch.stack([lane.w for lane in lanes[chunk : chunk + 16]]))
        logits = predict(way.model, theta, x)
        right = (logits.argmax(dim=-1) == y).to(x.dtype)
        recall = (right @ one_hot) / one_hot.sum(dim=0)
        loss = functional.cross_entropy(logits.transpose(1, 2), y.expand(len(right), -1), reduction="none").mean(dim=1)
        columns = (right.mean(dim=1), recall.min(dim=1).values, loss)
        rows += [
            {"accuracy": a, "worst_class": w, "loss": e}
            for a, w, e in zip(*(column.tolist() for column in columns), strict=True)
        ]
    return rows


def _check(model: Model, runs: Sequence[Run], schedule: Schedule) -> None:
    require(len(runs) > 0, "no runs to simulate", allowed="one run or more", remedy="name at least one method")
    labels = runs[0].federation.dataset.y_test[slice(*(schedule.test or (None,)))].cpu().numpy()
    absent = np.flatnonzero(np.bincount(labels, minlength=model.n_classes) == 0)
    require(
        len(absent) == 0,
        f"no test image of classes {absent.tolist()} among {schedule.test or 'all'}",
        allowed="a range of test images in which every class occurs",
        remedy="use more test images",
    )
    for run in runs:
        wanted = (schedule.rounds, run.federation.n_clients)
        require(
            run.trace.arrived.shape == wanted,
            f"run {run.label!r}: the trace has shape {run.trace.arrived.shape}",
            allowed=f"(rounds, clients) = {wanted}",
            remedy="draw the trace for this schedule and this federation",
        )
        require(
            run.w0.shape == (model.n_parameters,),
            f"run {run.label!r}: the start has shape {tuple(run.w0.shape)}",
            allowed=f"({model.n_parameters},) for model {model.name!r}",
            remedy="take the start from the same model",
        )
        require(
            np.isfinite(run.lr) and run.lr > 0,
            f"run {run.label!r}: step size {run.lr}",
            allowed="finite numbers > 0",
            remedy="choose a positive step size",
        )
        require(
            run.federation.dataset.sha256 == runs[0].federation.dataset.sha256,
            f"run {run.label!r} uses dataset {run.federation.dataset.name!r}",
            allowed=f"the dataset of the first run, {runs[0].federation.dataset.name!r}",
            remedy="simulate each dataset by itself",
        )


def simulate(way: Model | Whole, runs: Sequence[Run], schedule: Schedule) -> History:
    """Run all `runs` in lockstep through `schedule.rounds` rounds.

    way: the model, all of whose parameters are fine-tuned, or what is averaged instead (`engine.averaging`).

    Participant j draws the same minibatches in round r under every method of the same seed (common random numbers).
    Raises InputError for traces, starts or datasets that do not fit together.
    """
    way = Whole(way) if isinstance(way, Model) else way
    _check(way.model, runs, schedule)
    lanes = [Lane(way, run, schedule) for run in runs]
    participants = max(len(lane.shards) for lane in lanes)
    seeds = sorted({run.seed for run in runs})
    curves, rounds = [], []
    position = {id(lane): index for index, lane in enumerate(lanes)}
    for r in range(schedule.rounds):
        shape = (participants, schedule.steps, schedule.batch)
        draws = {seed: stream(seed, "minibatches", r).random(shape) for seed in seeds}
        for block in _blocks(lanes, schedule, r):
            for task, deltas in zip(block, _train(way, r, block, draws), strict=True):
                log = task.lane.step(Arrivals(r, task.ids, deltas, task.steps))
                rounds.append({"run": position[id(task.lane)], "round": r + 1} | log)
        if schedule.evaluates(r):
            scores = _evaluate(way, lanes, schedule)
            curves += [
                {"run": index, "round": r + 1, **score, "distance": lane.distance(lane.w), "diverged": lane.diverged}
                for index, (lane, score) in enumerate(zip(lanes, scores, strict=True))
            ]
    return History(pd.DataFrame(curves), pd.DataFrame(rounds))
