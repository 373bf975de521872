"""Whole rounds as a user sees them, evaluation included: `simulate` against the plain loop doing the same rounds.

Same arrivals, minibatches, steps and methods on both sides. The plain loop trains its torch.nn twin with torch.optim,
one participant after another, and passes the test images through it in turn; what a method makes of the uploads
(`aggregate`) is the same code on both. Either side gets one process of one thread for each seed, and they take turns.
"""

import functools
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from fedauto_core.data.dataset import Dataset
from fedauto_core.data.datasets import load_dataset
from fedauto_core.data.federation import build_federation
from fedauto_core.data.partition import FederationSpec
from fedauto_core.engine.local import prepare_worker
from fedauto_core.engine.rounds import simulate
from fedauto_core.engine.spec import Run, Schedule
from fedauto_core.methods.base import Arrivals, Context
from fedauto_core.methods.registry import make_method
from fedauto_core.models.model import Model, build_model
from fedauto_core.network import draw_trace, scenario
from fedauto_core.seeding import stream

from .engine import BATCH, CLIENTS, CORES
from .plain import TWINS, plain_round, plain_state, trainable

SPEC = FederationSpec(CLIENTS, 500, 300, "classes", classes_per_client=2)
SCHEDULE = Schedule(rounds=10, batch=BATCH, test=(0, 2000))
SEEDS = tuple(range(CORES))
REPETITIONS = 3
MAX_DIFFERENCE = 1e-3  # of the two sides' test losses


@dataclass(frozen=True)
class Work:
    """One experiment: `methods` under the failures `network`, in rounds of `schedule`."""

    label: str
    dataset: str
    model: str
    lr: float
    network: str = "F7"
    methods: tuple[str, ...] = ("fedavg", "fedauto")
    with_server: bool = True
    schedule: Schedule = SCHEDULE


WORKS = (
    Work("mlp", "fashion_mnist", "mlp", 0.1),
    Work("cnn_small", "fashion_mnist", "cnn_small", 0.1),
    Work("head", "cifar10_mobilenetv2-256", "softmax", 0.3),
)


@functools.cache
def _dataset(name: str) -> Dataset:
    return load_dataset(name)


@functools.cache
def prepared(work: Work, seed: int) -> tuple[Model, list[Run]]:
    """The model of `work`, and a run of each of its methods."""
    dataset = _dataset(work.dataset)
    model = build_model(work.model, tuple(dataset.x_train.shape[1:]), dataset.n_classes)
    federation, w0 = build_federation(dataset, SPEC, seed), model.init(stream(seed, "initial model"))
    failures = scenario(work.network, work.schedule.rounds)
    trace = draw_trace(failures, rounds=work.schedule.rounds, histograms=federation.alpha[1:], seed=seed)
    shared = federation, trace, w0, seed, work.lr, work.with_server
    return model, [Run(name, make_method(name), *shared) for name in work.methods]


def minibatches(run: Run, schedule: Schedule, round: int) -> np.ndarray:
    """Those of all participants in `round`, server first, int64 [N + 1, E, B]: uniform, with replacement."""
    shards = run.federation.shards
    draws = stream(run.seed, "minibatches", round).random((len(shards), schedule.steps, schedule.batch))
    return np.stack([shard[(u * len(shard)).astype(np.int64)] for shard, u in zip(shards, draws, strict=True)])


class Score(NamedTuple):
    """Of a run's last model: test accuracy and cross-entropy, and how far from the start it is."""

    accuracy: float
    loss: float
    distance: float


class PlainServer:
    """What FedAvg and FedAuto ask of the server (`methods.base.Server`), trained by the plain loop."""

    def __init__(self, network: nn.Module, run: Run, schedule: Schedule) -> None:
        dataset, shard = run.federation.dataset, run.federation.shards[0]
        self.network, self.run, self.schedule = network, run, schedule
        self.x, self.labels = dataset.x_train[shard], dataset.y_train[shard]
        self.counts_per_class = run.federation.class_counts[0]
        self.round, self.lr = 0, run.lr

    def train(self, w: Tensor, steps: int, classes: Sequence[int]) -> Tensor:
        pool = np.flatnonzero(np.isin(self.labels.numpy(), classes))
        draws = stream(self.run.seed, "server minibatches", self.round, 0).random((steps, self.schedule.batch))
        batches = torch.from_numpy(pool[(draws * len(pool)).astype(np.int64)])[None]
        (end,) = plain_round(self.network, as_state(self.network, w), self.x, self.labels, batches, self.lr)
        return end - w


def as_state(network: nn.Module, w: Tensor) -> dict[str, Tensor]:
    """w [P], the twin's parameters one behind the other, as a state dict."""
    parameters = trainable(network)
    parts = w.split([parameter.numel() for parameter in parameters.values()])
    return {name: part.view_as(parameters[name]) for name, part in zip(parameters, parts, strict=True)}


@torch.no_grad()
def plain_evaluation(network: nn.Module, w: Tensor, dataset: Dataset, schedule: Schedule) -> tuple[float, float]:
    """Test accuracy and cross-entropy of w [P], 100 images at a time."""
    used = slice(*(schedule.test or (None,)))
    y = dataset.y_test[used]
    network.load_state_dict(as_state(network, w))
    logits = torch.cat([network(part) for part in dataset.x_test[used].split(100)])
    return float((logits.argmax(dim=1) == y).float().mean()), float(F.cross_entropy(logits, y))


def plain_rounds(model: Model, run: Run, schedule: Schedule) -> Score:
    """All rounds of one run, plain."""
    network = TWINS[model.name](model).to(run.w0.dtype)
    federation, dataset = run.federation, run.federation.dataset
    start = w = parameters_to_vector(plain_state(model, network, run.w0).values())
    numbers = federation.counts, federation.alpha, federation.target, schedule.steps, run.lr, run.with_server
    state, server = run.method.init(Context(*numbers, start, run.seed)), PlainServer(network, run, schedule)
    for r in range(schedule.rounds):
        clients = 1 + np.flatnonzero(run.trace.arrived[r])
        ids = np.append(0, clients) if run.with_server else clients
        batches = torch.from_numpy(minibatches(run, schedule, r)[ids])
        lr = server.lr = run.lr * schedule.rate(r)
        ends = plain_round(network, as_state(network, w), dataset.x_train, dataset.y_train, batches, lr)
        deltas = torch.stack([end - w for end in ends]) if ends else w.new_empty((0, len(w)))
        server.round = r
        arrivals = Arrivals(r, ids, deltas, np.full(len(ids), schedule.steps), lr)
        w, state = run.method.aggregate(state, w, arrivals, server)
        if schedule.evaluates(r):
            scores = plain_evaluation(network, run.method.judged(state, w), dataset, schedule)
    return Score(*scores, float((w - start).norm()))


def engine_rounds(model: Model, runs: Sequence[Run], schedule: Schedule) -> list[Score]:
    """The same by `simulate`, all runs in lockstep."""
    last = simulate(model, runs, schedule).curves.groupby("run").last()
    return [Score(row.accuracy, row.loss, row.distance) for row in last.itertuples()]


def _plain_side(model: Model, runs: Sequence[Run], schedule: Schedule) -> list[Score]:
    return [plain_rounds(model, run, schedule) for run in runs]


SIDES = {"engine": engine_rounds, "loop": _plain_side}


def _start_worker(works: Sequence[Work]) -> None:
    prepare_worker()
    for work in works:
        for seed in SEEDS:
            prepared(work, seed)


def _one_seed(side: str, work: Work, seed: int) -> list[Score]:
    model, runs = prepared(work, seed)
    return SIDES[side](model, runs, work.schedule)


def workers(works: Sequence[Work]) -> ProcessPoolExecutor:
    """One process of one thread per seed; each makes what `works` need when it starts."""
    return ProcessPoolExecutor(len(SEEDS), get_context("spawn"), _start_worker, (works,))


def both_sides(work: Work, pool: ProcessPoolExecutor) -> tuple[dict[str, float], dict[str, list[Score]]]:
    """Seconds (median of REPETITIONS) that each side takes for all seeds at once, and its scores: those of the first
    seed's runs, then the next one's. ArithmeticError if the two sides do not end at the same test losses."""
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores = {}
    for _ in range(REPETITIONS):
        for side, taken in seconds.items():
            begin = time.perf_counter()
            jobs = [pool.submit(_one_seed, side, work, seed) for seed in SEEDS]
            scores[side] = [score for job in jobs for score in job.result()]
            taken.append(time.perf_counter() - begin)
    difference = max(abs(ours.loss - theirs.loss) for ours, theirs in zip(*scores.values(), strict=True))
    if difference > MAX_DIFFERENCE:
        raise ArithmeticError(f"{work.label}: the test losses of engine and plain loop differ by {difference:.1e}")
    return {side: float(np.median(taken)) for side, taken in seconds.items()}, scores


def compare_rounds(work: Work, pool: ProcessPoolExecutor) -> str:
    """Result line of one experiment."""
    seconds, scores = both_sides(work, pool)
    engine, loop = seconds.values()
    ours, theirs = (np.reshape([score.accuracy for score in found], (len(SEEDS), -1)) for found in scores.values())
    ends = zip(work.methods, ours.mean(axis=0), theirs.mean(axis=0), strict=True)
    accuracy = ", ".join(f"{name} {one:.4f} (loop {other:.4f})" for name, one, other in ends)
    times = f"engine {1000 * engine:7.0f} ms  loop {1000 * loop:7.0f} ms  {loop / engine:5.2f}x"
    return f"{work.label:<10} {times}  accuracy {accuracy}"


def print_rounds() -> None:
    """One line per experiment."""
    first = WORKS[0]
    size = f"{CLIENTS} clients, {first.network}, {' and '.join(first.methods)}, {SCHEDULE.rounds} rounds"
    work = f"{SCHEDULE.steps} steps of batch {BATCH}, evaluated every {SCHEDULE.evaluate_every}"
    print(f"whole rounds: {size}, {work}; {len(SEEDS)} seeds at once, a process of one thread each on both sides")
    with workers(WORKS) as pool:
        for work in WORKS:
            print(compare_rounds(work, pool), flush=True)
