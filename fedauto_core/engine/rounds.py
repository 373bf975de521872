"""The round loop: broadcast, local work, network, aggregate, evaluate -> `History`.

Many runs (methods x seeds x scenarios) go through the rounds in lockstep, so that one stack holds the local models of
all of them. A lost upload is never trained: no method's state may depend on it (rule R3), so leaving it out is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from fedauto_core.data.datasets import Federation, reported, share_public
from fedauto_core.engine.averaging import Whole
from fedauto_core.engine.local import local_updates, predict
from fedauto_core.errors import require
from fedauto_core.methods.base import Arrivals, Context, Method, State
from fedauto_core.models.model import Model
from fedauto_core.network import Trace
from fedauto_core.seeding import stream

STACK = 256  # local models trained per call of the engine; bounds the memory at STACK x P floats
FARTHEST = 100.0  # a model this many times farther from the start than the start from zero has diverged


@dataclass(frozen=True)
class Run:
    """One method on one federation under one trace. label names it in the results; w0: start, shape [P], of the vectors
    that the rule averages (`lora.Whole`: the weights).

    epsilon: privacy of the label histograms that clients report (`fedauto_core.data.datasets.reported`); inf: exact.
    """

    label: str
    method: Method
    federation: Federation
    trace: Trace
    w0: Tensor
    seed: int
    lr: float
    with_server: bool
    epsilon: float = float("inf")


@dataclass(frozen=True)
class Schedule:
    """rounds T, local steps E, minibatch size B, rounds between evaluations.

    least_steps: clients take between this many and E steps, drawn anew in every round (a deadline cuts slow ones
    short); 0: always E. test: first and one past the last test image that is used (None: all); tuning and results use
    different ones.
    """

    rounds: int
    steps: int = 5
    batch: int = 32
    evaluate_every: int = 5
    test: tuple[int, int] | None = None
    least_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "steps", "batch", "evaluate_every"):
            require(
                getattr(self, name) >= 1,
                f"{name} = {getattr(self, name)}",
                allowed="integers >= 1",
                remedy=f"raise {name} to at least 1",
            )
        require(
            0 <= self.least_steps <= self.steps,
            f"least_steps = {self.least_steps}",
            allowed=f"integers 1..{self.steps} (the local steps E), or 0 for always E",
            remedy="lower least_steps or raise steps",
        )

    def evaluates(self, round: int) -> bool:
        """Every `evaluate_every` rounds, and in each of the last 10 %, over which final values are averaged."""
        return (round + 1) % self.evaluate_every == 0 or round + 1 > 0.9 * self.rounds


@dataclass(frozen=True)
class History:
    """Tidy frames keyed by `run` (position in the list of runs).

    curves: one row per run and evaluation (round counted from 1; accuracy, worst_class, loss; distance: ||w_r - w_0||;
    diverged: the round whose step was refused, or 0; the run then stands still at its last sound model).
    rounds: one row per run and round (arrived clients, server_samples: gradient samples at the server, method's log).
    """

    curves: pd.DataFrame
    rounds: pd.DataFrame


class PublicData:
    """The server's public data, and nobody else's, and what it can do with them (the `Server` of the contract).

    samples: gradient samples since the start of the round; trained: what the first training of the round returned.
    """

    def __init__(self, way: Whole, run: Run, schedule: Schedule) -> None:
        dataset, shard = run.federation.dataset, run.federation.shards[0]
        self.x, self.labels = dataset.x_train[shard], dataset.y_train[shard]
        self.classes = self.labels.cpu().numpy()
        self.counts_per_class = np.bincount(self.classes, minlength=dataset.n_classes)
        self.way, self.lr, self.batch, self.seed = way, run.lr, schedule.batch, run.seed
        self.start_round(0)

    def start_round(self, round: int) -> None:
        self.round, self.calls, self.samples = round, 0, 0
        self.trained: Tensor | None = None

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        pool = np.arange(len(self.classes)) if classes is None else np.flatnonzero(np.isin(self.classes, classes))
        require(
            len(pool) > 0,
            f"the server holds no sample of the classes {list(classes or [])}",
            allowed=f"classes {np.flatnonzero(self.counts_per_class).tolist()}",
            remedy="ask only for classes with counts_per_class > 0",
        )
        batches = torch.from_numpy(pool[(self._draws(steps) * len(pool)).astype(np.int64)])[None]
        theta, held = self.way.start(w[None], self.round), self.way.held(self.round)
        delta = local_updates(self.way.model, theta, self.x, self.labels, batches, self.lr, frozen=held)
        uploaded = self.way.lift(theta, delta)[0]
        self.trained = uploaded if self.trained is None else self.trained
        return uploaded

    def _draws(self, steps: int) -> np.ndarray:
        """Uniform numbers [steps, B], keyed by round and call: every method that asks the same question gets the same
        minibatches."""
        draws = stream(self.seed, "server minibatches", self.round, self.calls).random((steps, self.batch))
        self.calls, self.samples = self.calls + 1, self.samples + draws.size
        return draws

    def gradient(self, w: Tensor, targets: Tensor | None = None) -> Tensor:
        rows = torch.from_numpy((self._draws(1)[0] * len(self.classes)).astype(np.int64)).to(w.device)
        leaf = w.detach()[None].requires_grad_()
        model = self.way.model
        logits = model.forward(model.unflatten(self.way.readable(leaf)), self.x[rows][None])[0]
        loss = functional.cross_entropy(logits, (self.labels if targets is None else targets)[rows])
        return torch.autograd.grad(loss, leaf)[0][0]

    def logits(self, w: Tensor) -> Tensor:
        scores = predict(self.way.model, self.way.readable(w if w.ndim == 2 else w[None]), self.x)
        return scores if w.ndim == 2 else scores[0]


class _Lane:
    """A run on its way: current model, method state, and the round in which it diverged (0: none)."""

    def __init__(self, way: Whole, run: Run, schedule: Schedule) -> None:
        self.way, self.run, self.w, self.diverged = way, run, run.w0, 0
        self.server_work = schedule.steps * schedule.batch  # as a participant, per round
        self.server = PublicData(way, run, schedule)
        federation, oracle = run.federation, run.method.needs_network_knowledge
        if run.method.public_share:
            federation = share_public(federation, run.method.public_share, run.seed)
        self.shards = [*federation.shards, np.concatenate(run.federation.shards)]
        alpha = reported(federation, run.epsilon, run.seed)
        self.state: State = run.method.init(
            Context(
                counts=federation.counts,
                alpha=alpha,
                target=federation.counts @ alpha / federation.counts.sum(),
                steps=schedule.steps,
                lr=run.lr,
                with_server=run.with_server,
                w0=run.w0,
                seed=run.seed,
                success_probability=run.trace.success_probability if oracle else None,
                long_run_probability=run.trace.stationary if oracle else None,
            )
        )

    def heard(self, round: int) -> np.ndarray:
        """Ids of those whose update reaches the rule in this round, ascending, 0 = server."""
        run = self.run
        if run.method.participation in ("server", "pooled"):
            return np.zeros(1, dtype=np.int64)
        if run.method.participation == "ideal":
            clients = np.arange(1, run.federation.n_clients + 1)
        else:
            clients = 1 + np.flatnonzero(run.trace.arrived[round])
        return np.concatenate([[0], clients]) if run.with_server else clients

    def batches(self, ids: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Indices [K, E, B] into the training data: uniform with replacement from each participant's shard."""
        rows = [len(self.shards) - 1] if self.run.method.participation == "pooled" else ids
        return np.stack([self.shards[j][(draws[j] * len(self.shards[j])).astype(np.int64)] for j in rows])

    def steps(self, schedule: Schedule, round: int, ids: np.ndarray) -> np.ndarray:
        """SGD steps that each of `ids` takes in this round, [K]; the server and one learner on all data take E."""
        if not schedule.least_steps:
            return np.full(len(ids), schedule.steps)
        rng = stream(self.run.seed, "local work", round)
        drawn = rng.integers(schedule.least_steps, schedule.steps, self.run.federation.n_clients + 1, endpoint=True)
        return np.where(ids == 0, schedule.steps, drawn[ids])

    def step(self, arrivals: Arrivals) -> dict[str, float]:
        """Aggregate; a step that is not finite or leads far off is refused and the run stands still from then on."""
        round, ids = arrivals.round, arrivals.ids
        self.server.start_round(round)
        if 0 in ids and self.run.method.participation != "pooled":
            self.server.samples += self.server_work
        w, state = self.run.method.aggregate(self.state, self.w, arrivals, self.server)
        if self.distance(w) <= FARTHEST * (1 + float(self.run.w0.norm())):  # false for nan as well
            log = self._log(state, arrivals)
            self.w, self.state = self.way.land(self.w, w, round), state
        else:
            self.diverged, log = round + 1, {}
        heard = {"arrived": float(np.count_nonzero(ids)), "server_samples": float(self.server.samples)}
        return heard | state.log | log

    def _log(self, state: State, arrivals: Arrivals) -> dict[str, float]:
        """What the way of averaging says of the step, given the weights of all that was averaged in it; and, as
        "plain_...", of the step that weights n_j / n_A would have made of the same uploads."""
        weights, deltas = state.weights, arrivals.deltas
        if weights is None:
            return {}
        counts = self.run.federation.counts[arrivals.ids]
        plain = self.way.log(self.w, counts / counts.sum(), deltas)
        if len(weights) > len(deltas):
            deltas = torch.cat([deltas, self.server.trained[None]])
        own = self.way.log(self.w, weights, deltas)
        return own | {f"plain_{name}": value for name, value in plain.items()}

    def distance(self, w: Tensor) -> float:
        return float((w - self.run.w0).norm())


class _Task(NamedTuple):
    """A run in one round: who is heard (ids [K]) and how many steps each of them takes."""

    lane: _Lane
    ids: np.ndarray
    steps: np.ndarray


def _blocks(lanes: Sequence[_Lane], schedule: Schedule, round: int) -> Iterator[list[_Task]]:
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


def _evaluate(way: Whole, lanes: Sequence[_Lane], schedule: Schedule) -> list[dict[str, float]]:
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

    way: the model, all of whose parameters are fine-tuned, or what is averaged instead (`fedauto_core.engine.averaging`).

    Participant j draws the same minibatches in round r under every method of the same seed (common random numbers).
    Raises InputError for traces, starts or datasets that do not fit together.
    """
    way = Whole(way) if isinstance(way, Model) else way
    _check(way.model, runs, schedule)
    lanes = [_Lane(way, run, schedule) for run in runs]
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
