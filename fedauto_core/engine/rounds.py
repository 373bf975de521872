"""The round loop: broadcast, local work, network, aggregate, evaluate -> `History`.

Many runs (methods x seeds x scenarios) go through the rounds in lockstep, so that one stack holds the local models of
all of them. A lost upload is never trained: no method's state may depend on it, so leaving it out is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.errors import require, require_number
from fedauto_core.methods.base import Arrivals
from fedauto_core.models.model import Model
from fedauto_core.seeding import stream

from .averaging import Averaging
from .lane import Lane
from .local import local_updates, predict
from .lockstep import in_lockstep
from .spec import History, Run, Schedule

STACK = 256  # local models trained per call of the engine; bounds the memory at STACK x P floats
Draws = Mapping[int, np.ndarray]  # seed -> uniform numbers [participants, E, B], which choose the minibatches


class Task(NamedTuple):
    """A run in one round: who is heard (ids [K]) and how many steps each of them takes."""

    lane: Lane
    ids: np.ndarray
    steps: np.ndarray


def _blocks(lanes: Sequence[Lane], schedule: Schedule, round: int) -> Iterator[list[Task]]:
    """Tasks of the runs still moving, grouped so that a group trains about STACK models."""
    block: list[Task] = []
    for lane in lanes:
        if not lane.diverged:
            ids = lane.heard(round)
            block.append(Task(lane, ids, lane.steps(schedule, round, ids)))
            if sum(len(task.ids) for task in block) >= STACK:
                yield block
                block = []
    if block:
        yield block


@dataclass(frozen=True)
class LocalProblems:
    """What M participants minimise, one row each: F_j(w) + <linear_j, w> + prox_j / 2 ||w - reference_j||^2.

    start: [M, P]; terms: lr and prox [M] and, where anyone has such a term, linear and reference [M, P];
    batches: int64 [M, E, B], indices into the training data; steps: [M], how many of the E each takes.
    """

    start: Tensor
    terms: Mapping[str, Tensor]
    batches: np.ndarray
    steps: np.ndarray


def _problems(averaging: Averaging, round: int, tasks: Sequence[Task], draws: Draws) -> LocalProblems:
    """Those of everyone who is heard in `tasks`, at least one in each."""
    work = [task.lane.run.method.local_work(task.lane.state, task.lane.w, task.ids) for task in tasks]
    heard = [len(task.ids) for task in tasks]
    start = torch.cat([averaging.local_start(part.start, round) for part in work])
    numbers = {"lr": [task.lane.run.lr for task in tasks], "prox": [part.prox for part in work]}
    terms = {name: start.new_tensor(np.repeat(values, heard)) for name, values in numbers.items()}
    if any(part.linear is not None for part in work):
        terms["linear"] = torch.cat([torch.zeros_like(p.start) if p.linear is None else p.linear for p in work])
    if any(part.prox for part in work):
        broadcast = torch.cat([task.lane.w.expand(len(task.ids), -1) for task in tasks])
        terms["reference"] = averaging.local_start(broadcast, round)
    batches = np.concatenate([task.lane.batches(task.ids, draws[task.lane.run.seed]) for task in tasks])
    return LocalProblems(start, terms, batches, np.concatenate([task.steps for task in tasks]))


def uploads(averaging: Averaging, round: int, block: Sequence[Task], draws: Draws) -> list[Tensor]:
    """What the server gets, deltas [K, P] for each task of the block, all trained together."""
    busy = [task for task in block if len(task.ids)]
    nothing = block[0].lane.w.new_empty((0, block[0].lane.w.numel()))
    if not busy:
        return [nothing] * len(block)
    # 1. Broadcast: each participant gets its run's model, and what its method would have it minimise.
    local = _problems(averaging, round, busy, draws)
    # 2. Local work: E steps, or as many as a deadline allows; one stack for each number of steps.
    dataset, held = busy[0].lane.run.federation.dataset, averaging.held(round)
    deltas = torch.empty_like(local.start)
    for count in np.unique(local.steps):
        rows = np.flatnonzero(local.steps == count) if (local.steps != count).any() else slice(None)
        terms = {name: term[rows] for name, term in local.terms.items()}
        data = dataset.x_train, dataset.y_train, local.batches[rows, :count]
        deltas[rows] = local_updates(averaging.model, local.start[rows], *data, **terms, frozen=held)
    # 3. Network: that they are heard is settled (`Lane.heard`); they send what the method averages.
    rows = iter(averaging.as_upload(local.start, deltas).split([len(task.ids) for task in busy]))
    return [next(rows) if len(task.ids) else nothing for task in block]


def _evaluate(averaging: Averaging, lanes: Sequence[Lane], schedule: Schedule) -> list[dict[str, float]]:
    """Accuracy, recall of the worst class and cross-entropy of every run's current model."""
    dataset = lanes[0].run.federation.dataset
    used = slice(*(schedule.test or (None,)))
    x, y = dataset.x_test[used], dataset.y_test[used]
    one_hot = functional.one_hot(y, dataset.n_classes).to(x.dtype)
    rows = []
    for chunk in range(0, len(lanes), 16):  # bounds the memory of the scores
        theta = averaging.readable(torch.stack([lane.w for lane in lanes[chunk : chunk + 16]]))
        logits = predict(averaging.model, theta, x)
        right = (logits.argmax(dim=-1) == y).to(x.dtype)
        recall = (right @ one_hot) / one_hot.sum(dim=0)
        loss = functional.cross_entropy(logits.transpose(1, 2), y.expand(len(right), -1), reduction="none").mean(dim=1)
        scores = torch.stack((right.mean(dim=1), recall.min(dim=1).values, loss), dim=1)
        rows += [dict(zip(("accuracy", "worst_class", "loss"), score, strict=True)) for score in scores.tolist()]
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
        require_number(f"run {run.label!r}: step size", run.lr)
        require(
            run.federation.dataset.sha256 == runs[0].federation.dataset.sha256,
            f"run {run.label!r} uses dataset {run.federation.dataset.name!r}",
            allowed=f"the dataset of the first run, {runs[0].federation.dataset.name!r}",
            remedy="simulate each dataset by itself",
        )


def simulate(averaging: Model | Averaging, runs: Sequence[Run], schedule: Schedule) -> History:
    """Run all `runs` in lockstep. Participant j draws the same minibatches in round r under every method of the same
    seed (common random numbers).

    Parameters
    ----------
    averaging : the model, all of whose parameters are fine-tuned, or what is averaged instead (`engine.averaging`)
    runs : on one dataset
    schedule : of all of them

    Returns
    -------
    History : accuracy and losses of every evaluation, and what happened in every round

    Raises
    ------
    InputError : for traces, starts or datasets that do not fit together
    """
    averaging = Averaging(averaging) if isinstance(averaging, Model) else averaging
    _check(averaging.model, runs, schedule)
    lanes = [Lane(averaging, run, schedule) for run in runs]
    participants = max(len(lane.shards) for lane in lanes)
    seeds = sorted({run.seed for run in runs})
    curves, rounds = [], []
    position = {id(lane): index for index, lane in enumerate(lanes)}
    for r in range(schedule.rounds):
        shape = (participants, schedule.steps, schedule.batch)
        draws = {seed: stream(seed, "minibatches", r).random(shape) for seed in seeds}
        for block in _blocks(lanes, schedule, r):
            # 1. Broadcast, 2. local work, 3. network: `uploads`, of those who will be heard.
            deltas = uploads(averaging, r, block, draws)
            arrivals = [Arrivals(r, task.ids, part, task.steps) for task, part in zip(block, deltas, strict=True)]
            # 4. Aggregate: each method steps to its next model, unless that is a sign of divergence.
            steps = [partial(task.lane.step, arrived) for task, arrived in zip(block, arrivals, strict=True)]
            for task, log in zip(block, in_lockstep(steps), strict=True):
                rounds.append({"run": position[id(task.lane)], "round": r + 1} | log)
        # 5. Evaluate the models of all runs on the test images.
        if schedule.evaluates(r):
            scores = _evaluate(averaging, lanes, schedule)
            curves += [
                {"run": index, "round": r + 1, **score, "distance": lane.distance(lane.w), "diverged": lane.diverged}
                for index, (lane, score) in enumerate(zip(lanes, scores, strict=True))
            ]
    return History(pd.DataFrame(curves), pd.DataFrame(rounds))
