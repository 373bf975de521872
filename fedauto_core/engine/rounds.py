"""The round loop: broadcast, local work, network, aggregate, evaluate -> `History`.

Many runs (methods x seeds x scenarios) go through the rounds in lockstep, so that one stack holds the local models of
all of them. A lost upload is never trained: no method's state may depend on it, so leaving it out is exact. An upload
that is not finite counts as lost; what a method trains at the server in its own step is none.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.data.dataset import Dataset
from fedauto_core.errors import require, require_number
from fedauto_core.methods.base import Arrivals
from fedauto_core.methods.guard import finite
from fedauto_core.models.model import Model
from fedauto_core.seeding import stream

from .averaging import Averaging
from .lane import Lane
from .local import local_updates, one_thread, predict
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
    """Tasks of the runs still moving, grouped so that a group trains about STACK models. Those without `plain_work`
    have groups of their own: a term of one takes time in all steps of its group."""
    moving = [lane for lane in lanes if not lane.diverged]
    for plain in (True, False):
        block: list[Task] = []
        for lane in moving:
            if lane.run.method.plain_work is plain:
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
    batches: for each its minibatches, int64 [its steps, B], indices into the training data.
    """

    start: Tensor
    terms: Mapping[str, Tensor]
    batches: Sequence[np.ndarray]


def _identity(w: Tensor) -> object:
    """Equal for models [P] that are equal to the bit; on a GPU, which this would wait for, for the same memory only,
    which no other model has while this one is in use."""
    return hashlib.sha256(w.numpy()).digest() if w.device.type == "cpu" else _address(w)


def _address(w: Tensor) -> int:
    return w.data_ptr()


def _problems(
    averaging: Averaging, round: int, tasks: Sequence[Task], draws: Draws
) -> tuple[LocalProblems, np.ndarray]:
    """Those of everyone who is heard in `tasks`, at least one in each, and for each of them the row that is theirs.

    Methods share a row where nothing distinguishes the work: the broadcast model, step size and minibatches are the
    same to the bit and no term is added. That is most of the first round, and much of every round without failures.
    """
    row_of: list[int] = []
    rows: dict[object, int] = {}
    starts, linears, references, batches = [], [], [], []
    numbers: dict[str, list[float]] = {"lr": [], "prox": []}
    for task in tasks:
        lane, lr = task.lane, task.lane.lr(round)
        part = lane.run.method.local_work(lane.state, lane.w, task.ids)
        drawn = lane.batches(task.ids, draws[lane.run.seed])
        shared = part.linear is None and not part.prox and part.start.stride(0) == 0
        model = _identity(part.start[0]) if shared else None
        mine = []
        for k, count in enumerate(task.steps):
            problem = (model, lr, drawn[k, :count].tobytes()) if shared else len(row_of)
            if problem not in rows:
                mine.append(k)
            row_of.append(rows.setdefault(problem, len(rows)))
        starts.append(part.start[: len(mine)])  # all rows of `mine` are rows of one model, or they are all rows
        linears.append(part.linear)
        references.append(lane.w.expand(len(mine), -1))
        batches += [drawn[k, : task.steps[k]] for k in mine]
        numbers["lr"] += [lr] * len(mine)
        numbers["prox"] += [part.prox] * len(mine)
    received = [averaging.local_start(one, round) for one in starts if len(one)]
    start = torch.cat(received) if len(received) > 1 else received[0]
    terms = {name: start.new_tensor(values) for name, values in numbers.items()}
    if any(linear is not None for linear in linears):
        pairs = zip(linears, starts, strict=True)
        terms["linear"] = torch.cat([torch.zeros_like(one) if linear is None else linear for linear, one in pairs])
    if any(numbers["prox"]):
        terms["reference"] = averaging.local_start(torch.cat(references), round)
    return LocalProblems(start, terms, batches), np.array(row_of)


def _trained(model: Model, dataset: Dataset, local: LocalProblems, held: Collection[str]) -> Tensor:
    """Deltas [M, P] of everyone's local work, one stack for each number of steps."""
    stacks: dict[int, list[int]] = {}
    for row, batches in enumerate(local.batches):
        stacks.setdefault(len(batches), []).append(row)

    def of(rows: slice | list[int], batches: Sequence[np.ndarray]) -> Tensor:
        terms = {name: term[rows] for name, term in local.terms.items()}
        data = dataset.x_train, dataset.y_train, np.stack(batches)
        return local_updates(model, local.start[rows], *data, **terms, frozen=held)

    if len(stacks) == 1:
        return of(slice(None), local.batches)
    deltas = torch.empty_like(local.start)
    for rows in stacks.values():
        deltas[rows] = of(rows, [local.batches[row] for row in rows])
    return deltas


def uploads(averaging: Averaging, round: int, block: Sequence[Task], draws: Draws) -> list[Arrivals]:
    """What the server gets for each task of the block, all trained together."""
    busy = [task for task in block if len(task.ids)]
    if not busy:
        return _arrivals(round, block, block[0].lane.w.new_empty((0, block[0].lane.w.numel())), np.zeros(0, bool))
    # 1. Broadcast: each participant gets its run's model, and what its method would have it minimise.
    local, row_of = _problems(averaging, round, busy, draws)
    # 2. Local work: E steps, or as many as a deadline allows.
    dataset, held = busy[0].lane.run.federation.dataset, averaging.held(round)
    deltas = _trained(averaging.model, dataset, local, held)
    # 3. Network: that they are heard is settled (`Lane.heard`); they send what the method averages.
    sent = averaging.as_upload(local.start, deltas)
    #    One that is not finite is lost as if the trace had said so.
    sound = finite(sent).cpu().numpy()[row_of]
    if len(sent) < len(row_of):
        sent = sent[row_of]
    return _arrivals(round, block, sent, sound)


def _arrivals(round: int, block: Sequence[Task], sent: Tensor, sound: np.ndarray) -> list[Arrivals]:
    """The uploads sent [M, P] of all tasks, one behind the other, as each task's own: those that are `sound` [M]."""
    arrivals, begin = [], 0
    for task in block:
        mine = slice(begin, begin + len(task.ids))
        kept, deltas = sound[mine], sent[mine]
        if not kept.all():
            deltas = deltas[torch.from_numpy(kept)]
        arrivals.append(Arrivals(round, task.ids[kept], deltas, task.steps[kept], task.lane.lr(round)))
        begin = mine.stop
    return arrivals


def _evaluate(averaging: Averaging, lanes: Sequence[Lane], schedule: Schedule) -> list[dict[str, float]]:
    """Accuracy, recall of the worst class, cross-entropy and distance from the start of every run's judged model."""
    dataset = lanes[0].run.federation.dataset
    used = slice(*(schedule.test or (None,)))
    x, y = dataset.x_test[used], dataset.y_test[used]
    one_hot = functional.one_hot(y, dataset.n_classes).to(x.dtype)
    judged = [lane.judged() for lane in lanes]
    identities = [_identity(w) for w in judged]
    models = dict(zip(identities, judged, strict=True))
    distinct, rows = list(models.values()), []
    for chunk in range(0, len(distinct), 16):  # bounds the memory of the scores
        theta = averaging.readable(torch.stack(distinct[chunk : chunk + 16]))
        logits = predict(averaging.model, theta, x)
        right = (logits.argmax(dim=-1) == y).to(x.dtype)
        recall = (right @ one_hot) / one_hot.sum(dim=0)
        loss = functional.cross_entropy(logits.transpose(1, 2), y.expand(len(right), -1), reduction="none").mean(dim=1)
        scores = torch.stack((right.mean(dim=1), recall.min(dim=1).values, loss), dim=1)
        rows += [dict(zip(("accuracy", "worst_class", "loss"), score, strict=True)) for score in scores.tolist()]
    scores_of = dict(zip(models, rows, strict=True))
    distances = [lane.distance(w) for lane, w in zip(lanes, judged, strict=True)]
    return [scores_of[i] | {"distance": distance} for i, distance in zip(identities, distances, strict=True)]


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


@one_thread()
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
            arrivals = uploads(averaging, r, block, draws)
            # 4. Aggregate: each method steps to its next model, unless that is a sign of divergence.
            steps = [partial(task.lane.step, arrived) for task, arrived in zip(block, arrivals, strict=True)]
            for task, arrived, log in zip(block, arrivals, in_lockstep(steps), strict=True):
                lost = {"nonfinite": float(len(task.ids) - len(arrived.ids))}
                rounds.append({"run": position[id(task.lane)], "round": r + 1} | lost | log)
        # 5. Evaluate the models of all runs on the test images.
        if schedule.evaluates(r):
            scores = _evaluate(averaging, lanes, schedule)
            curves += [
                {"run": index, "round": r + 1, **score, "diverged": lane.diverged}
                for index, (lane, score) in enumerate(zip(lanes, scores, strict=True))
            ]
    history = History(pd.DataFrame(curves), pd.DataFrame(rounds))
    lost = history.rounds.groupby("run")["nonfinite"].sum()
    if lost.any():
        told = ", ".join(f"{runs[index].label!r} {count:.0f}" for index, count in lost[lost > 0].items())
        logging.getLogger(__name__).warning("uploads that were not finite were left out, by run: %s", told)
    return history
