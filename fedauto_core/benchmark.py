"""`python -m fedauto_core.benchmark`: the engine of `training.py` against a plain loop, and the server's side.

The plain loop is what a textbook FedAvg does: a torch.nn.Module, torch.optim.SGD, one client after another, with two
threads. Both sides train on the very same minibatches and take turns within one run; printed are the medians and the
largest difference between the resulting parameters.

The float32 difference of the CNN grows with the step size: where two candidates of a maximum agree to the last bits,
rounding decides which of them gets the gradient. The small step keeps it below MAX_DIFFERENCE; that both sides compute
the same is checked in float64 as well, to DOUBLE_TOLERANCE. A larger difference ends the program with an error.

The server's side is one aggregation of every rule (`costs.measured`) beside a plain weighted mean of the same updates.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context

from fedauto_core.architectures import CHANNELS_PER_GROUP
from fedauto_core.costs import measured
from fedauto_core.data import load_dataset
from fedauto_core.errors import InputError
from fedauto_core.methods import METHODS, make_method
from fedauto_core.models import Model, build_model
from fedauto_core.seeding import stream
from fedauto_core.training import local_updates, prepare_worker

CLIENTS, SAMPLES, BATCH, LR = 20, 500, 32, 0.005
CORES = 2
MAX_DIFFERENCE, DOUBLE_TOLERANCE = 1e-4, 1e-10
INPUT_SHAPE = (1, 28, 28)
REPETITIONS = {"mlp": 15, "cnn": 5}
SERVER_CLIENTS, SERVER_PARAMETERS, CLASSES = 100, 1_000_000, 10


def plain_mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def plain_cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, bias=False),
        nn.MaxPool2d(2),
        nn.GroupNorm(16 // CHANNELS_PER_GROUP, 16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, bias=False),
        nn.MaxPool2d(2),
        nn.GroupNorm(32 // CHANNELS_PER_GROUP, 32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 10),
    )


PLAIN: dict[str, Callable[[], nn.Sequential]] = {"mlp": plain_mlp, "cnn": plain_cnn}


def plain_round(network: nn.Module, w: dict[str, Tensor], x: Tensor, y: Tensor, batches: Tensor) -> list[Tensor]:
    """Every client in turn: load w, one SGD step per minibatch of batches [M, E, B]; flat end weights per client."""
    ends = []
    for client in batches:
        network.load_state_dict(w)
        optimiser = torch.optim.SGD(network.parameters(), lr=LR)
        for index in client:
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(network(x[index]), y[index])
            loss.backward()
            optimiser.step()
        ends.append(torch.cat([part.detach().flatten() for part in network.parameters()]))
    return ends


def plain_state(model: Model, network: nn.Module, theta: Tensor) -> dict[str, Tensor]:
    """theta [P] as the state of the plain twin, which stores a dense layer as [n_out, n_in] and, in the classifier
    behind a convolution, orders its inputs by channel first."""
    state = {}
    parts = model.unflatten(theta[None]).items()
    for (name, part), (key, target) in zip(parts, network.state_dict().items(), strict=True):
        value = part[0]
        if name == "head.weight" and model.name == "cnn":
            value = value.view(4, 4, 32, -1).permute(2, 0, 1, 3).flatten(0, 2)
        state[key] = (value.T if value.ndim == 2 else value).reshape(target.shape).contiguous()
    return state


_shared: tuple[Tensor, Tensor, dict[str, Tensor]]  # of a worker process: images, labels, where the deltas go


def _start_worker(x: Tensor, y: Tensor, deltas: dict[str, Tensor]) -> None:
    global _shared
    prepare_worker()
    _shared = x, y, deltas


def _worker_updates(model: str, theta: np.ndarray, batches: np.ndarray, first: int) -> None:
    x, y, deltas = _shared
    start = torch.from_numpy(theta).expand(len(batches), -1)
    rows = slice(first, first + len(batches))
    deltas[model][rows] = local_updates(build_model(model, INPUT_SHAPE, 10), start, x, y, batches, LR)


def engine_round(pool: ProcessPoolExecutor, model: str, theta: Tensor, batches: np.ndarray) -> None:
    """One round, the clients shared out evenly among the worker processes; the deltas end up in shared memory."""
    share = math.ceil(CLIENTS / CORES)
    firsts = range(0, CLIENTS, share)
    jobs = [pool.submit(_worker_updates, model, theta.numpy(), batches[k : k + share], k) for k in firsts]
    for job in jobs:
        job.result()


def _epoch_of_batches() -> np.ndarray:
    """One epoch per client as full minibatches [M, E, B]; the last is filled up from the beginning of the epoch."""
    rng = stream(0, "minibatches")
    steps = math.ceil(SAMPLES / BATCH)
    orders = [client * SAMPLES + np.resize(rng.permutation(SAMPLES), steps * BATCH) for client in range(CLIENTS)]
    return np.stack(orders).reshape(CLIENTS, steps, BATCH)


def largest_difference(model: Model, network: nn.Module, theta: Tensor, deltas: Tensor, ends: list[Tensor]) -> float:
    """Largest absolute difference between theta + deltas [M, P] and the plain loop's end weights."""
    ours = [plain_state(model, network, theta + delta).values() for delta in deltas]
    flat = [torch.cat([part.flatten() for part in parts]) for parts in ours]
    return max(float((one - end).abs().max()) for one, end in zip(flat, ends, strict=True))


def check_in_double(model: Model, theta: Tensor, x: Tensor, y: Tensor, batches: Tensor) -> None:
    """ArithmeticError unless both sides agree in float64, where rounding cannot hide or fake a difference."""
    theta, x, network = theta.double(), x.double(), PLAIN[model.name]().double()
    ends = plain_round(network, plain_state(model, network, theta), x, y, batches)
    deltas = local_updates(model, theta.expand(len(batches), -1), x, y, batches, LR)
    difference = largest_difference(model, network, theta, deltas, ends)
    if difference > DOUBLE_TOLERANCE:
        raise ArithmeticError(f"{model.name}: engine and plain loop differ by {difference:.0e} in float64")


def compare(name: str, pool: ProcessPoolExecutor, x: Tensor, y: Tensor, deltas: Tensor) -> str:
    """Result line of one model; deltas [M, P] is the shared memory the engine writes to."""
    model, network = build_model(name, INPUT_SHAPE, 10), PLAIN[name]()
    theta = model.init(stream(0, "initial model"))
    state = plain_state(model, network, theta)
    batches = _epoch_of_batches()
    check_in_double(model, theta, x, y, torch.from_numpy(batches[:CORES]))
    engine_round(pool, name, theta, batches[:, :1])
    seconds: dict[str, list[float]] = {"engine": [], "loop": []}
    for _ in range(REPETITIONS[name]):
        begin = time.perf_counter()
        engine_round(pool, name, theta, batches)
        middle = time.perf_counter()
        ends = plain_round(network, state, x, y, torch.from_numpy(batches))
        seconds["engine"].append(middle - begin)
        seconds["loop"].append(time.perf_counter() - middle)
    difference = largest_difference(model, network, theta, deltas, ends)
    if difference > MAX_DIFFERENCE:
        raise ArithmeticError(f"{name}: engine and plain loop differ by {difference:.1e} in float32")
    engine, loop = (1000 * float(np.median(seconds[side])) for side in ("engine", "loop"))
    return f"{name:<4} engine {engine:.1f} ms  loop {loop:.1f} ms  {loop / engine:.2f}x  max|diff| {difference:.0e}"


def server_side() -> None:
    """One line per rule that the network touches, the cheapest first."""
    print(
        f"one aggregation at the server, N = {SERVER_CLIENTS}, P = {SERVER_PARAMETERS:,}, all arrived, {CORES} threads"
    )
    methods = {name: make_method(name) for name in METHODS if METHODS[name].participation == "network"}
    times = measured(methods, SERVER_CLIENTS, SERVER_PARAMETERS, CLASSES)
    for row in times.sort_values("ratio").itertuples():
        plain = f"plain weighted mean {1000 * row.plain_seconds:.0f} ms"
        print(f"{row.label:<20} {1000 * row.seconds:6.0f} ms  {row.ratio:6.2f}x  {plain}")


def main() -> None:
    torch.set_num_threads(CORES)
    dataset = load_dataset("fashion_mnist")
    x, y = dataset.x_train[: CLIENTS * SAMPLES], dataset.y_train[: CLIENTS * SAMPLES]
    print(
        f"Fashion-MNIST, {CLIENTS} clients x {SAMPLES} samples, batch {BATCH}, one epoch; "
        f"engine: {CORES} processes x 1 thread, loop: {CORES} threads; load before: {os.getloadavg()[0]:.2f}"
    )
    sizes = {name: build_model(name, INPUT_SHAPE, 10).n_parameters for name in PLAIN}
    deltas = {name: torch.empty(CLIENTS, size).share_memory_() for name, size in sizes.items()}
    shared = (x.clone().share_memory_(), y.clone().share_memory_(), deltas)
    with ProcessPoolExecutor(CORES, get_context("spawn"), _start_worker, shared) as pool:
        for name in PLAIN:
            print(compare(name, pool, x, y, deltas[name]), flush=True)
    server_side()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
