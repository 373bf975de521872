"""The engine of `engine/local.py`, two processes with a thread each, against the loop of `plain.py` with two threads.

Both sides train on the very same minibatches and take turns within one run; printed are the medians and the largest
difference between the resulting parameters. With LoRA the engine works behind the frozen steps, whose activations
`models.adapt` computes once: what that takes is printed beside the time of a round, the loop passes through all steps.

The float32 difference of the CNN grows with the step size: where two candidates of a maximum agree to the last bits,
rounding decides which of them gets the gradient. The small step keeps it below MAX_DIFFERENCE; that both sides compute
the same is checked in float64 as well, to DOUBLE_TOLERANCE. A larger difference ends the program with an error.
"""

import functools
import math
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.nn.utils import parameters_to_vector

from fedauto_core.engine.local import in_chunks, local_updates, prepare_worker
from fedauto_core.models.adapters import Adapted, LoRA, adapt
from fedauto_core.models.model import Model
from fedauto_core.seeding import stream

from .plain import Case, plain_network, plain_round, plain_state

CLIENTS, BATCH, LR = 20, 32, 0.005
CORES = 2
MAX_DIFFERENCE, DOUBLE_TOLERANCE = 1e-4, 1e-10

REPETITIONS = {
    Case("mlp", "mlp", 500): 15,
    Case("cnn", "cnn", 500): 5,
    Case("cnn_small", "cnn_small", 500): 9,
    Case("head, 1,280 features, 8 methods", "softmax", 160, features=1280, methods=8): 5,
    Case("head, 256 features, 8 methods", "softmax", 160, features=256, methods=8): 5,
    Case("head, 256 features, 1 method", "softmax", 160, features=256): 15,
    Case("vit, LoRA on attention of all layers", "vit", 160, LoRA(4, 8.0, ("layer*.qkv", "layer*.out"))): 7,
    Case("vit, LoRA on attention of the last", "vit", 160, LoRA(4, 8.0, ("layer3.qkv", "layer3.out"))): 7,
}


@functools.cache
def trained(case: Case, dtype: torch.dtype = torch.float32) -> Adapted:
    """The model that local training trains, behind `n_frozen` steps: trunk(images) are its inputs."""
    model, theta = case.base()
    return Adapted(model, lambda x: x, {}, 0) if case.lora is None else adapt(model, theta.to(dtype), case.lora)


_shared: tuple[dict[Case, Tensor], Tensor, dict[Case, Tensor]]  # of a worker: inputs, labels, where the deltas go


def _start_worker(inputs: dict[Case, Tensor], y: Tensor, deltas: dict[Case, Tensor]) -> None:
    global _shared
    prepare_worker()
    _shared = inputs, y, deltas


def _worker_updates(case: Case, theta: np.ndarray, batches: np.ndarray, first: int) -> None:
    inputs, y, deltas = _shared
    start = torch.from_numpy(theta).expand(len(batches), -1)
    rows = slice(first, first + len(batches))
    deltas[case][rows] = local_updates(trained(case).model, start, inputs[case], y, batches, LR)


def engine_round(pool: ProcessPoolExecutor, case: Case, theta: Tensor, batches: np.ndarray) -> None:
    """One round on batches [M, E, B], the clients shared out evenly among the worker processes; the deltas end up in
    shared memory."""
    share = math.ceil(CLIENTS / CORES) * case.methods
    firsts = range(0, len(batches), share)
    jobs = [pool.submit(_worker_updates, case, theta.numpy(), batches[k : k + share], k) for k in firsts]
    for job in jobs:
        job.result()


def _epoch_of_batches(samples: int) -> np.ndarray:
    """One epoch per client as full minibatches [M, E, B]; the last is filled up from the beginning of the epoch."""
    rng = stream(0, "minibatches")
    steps = math.ceil(samples / BATCH)
    orders = [client * samples + np.resize(rng.permutation(samples), steps * BATCH) for client in range(CLIENTS)]
    return np.stack(orders).reshape(CLIENTS, steps, BATCH)


def largest_difference(model: Model, network: nn.Module, theta: Tensor, deltas: Tensor, ends: list[Tensor]) -> float:
    """Largest absolute difference between theta + deltas [M, P] and the plain loop's end weights."""
    ours = [parameters_to_vector(plain_state(model, network, theta + delta).values()) for delta in deltas]
    return max(float((one - end).abs().max()) for one, end in zip(ours, ends, strict=True))


def difference_in_double(case: Case, theta: Tensor, x: Tensor, y: Tensor, batches: Tensor) -> float:
    """Largest difference in float64, where rounding cannot hide or fake one; x: images, theta [P]: what is trained."""
    theta, x, network = theta.double(), x.double(), plain_network(case).double()
    model, trunk, *_ = trained(case, torch.float64)
    ends = plain_round(network, plain_state(model, network, theta), x, y, batches, LR)
    deltas = local_updates(model, theta.expand(len(batches), -1), trunk(x), y, batches, LR)
    return largest_difference(model, network, theta, deltas, ends)


def compare(case: Case, pool: ProcessPoolExecutor, x: Tensor, y: Tensor, deltas: Tensor) -> str:
    """Result line of one case; x: images; deltas [M, P] is the shared memory the engine writes to."""
    model, network = trained(case).model, plain_network(case)
    theta = model.init(stream(0, "initial model"))
    state = plain_state(model, network, theta)
    batches = _epoch_of_batches(case.samples)
    few = slice(0, CORES * case.samples)
    difference = difference_in_double(case, theta, x[few], y[few], torch.from_numpy(batches[:CORES]))
    if difference > DOUBLE_TOLERANCE:
        raise ArithmeticError(f"{case.label}: engine and plain loop differ by {difference:.0e} in float64")
    batches = np.repeat(batches, case.methods, axis=0)
    engine_round(pool, case, theta, batches[:, :1])
    seconds = []
    for _ in range(REPETITIONS[case]):
        begin = time.perf_counter()
        engine_round(pool, case, theta, batches)
        middle = time.perf_counter()
        ends = plain_round(network, state, x, y, torch.from_numpy(batches), LR)
        seconds.append((middle - begin, time.perf_counter() - middle))
    difference = largest_difference(model, network, theta, deltas, ends)
    if difference > MAX_DIFFERENCE:
        raise ArithmeticError(f"{case.label}: engine and plain loop differ by {difference:.1e} in float32")
    engine, loop = 1000 * np.median(seconds, axis=0)
    label = f"{case.label}, {case.samples} samples"
    times = f"engine {engine:7.1f} ms  loop {loop:7.1f} ms  {loop / engine:5.2f}x"
    return f"{label:<49} {times}  max|diff| {difference:.0e}"


def _raw(case: Case, x: Tensor) -> Tensor:
    """What all clients hold: the first of the images x, or random features."""
    n = CLIENTS * case.samples
    if not case.features:
        return x[:n]
    return torch.from_numpy(stream(0, "theory", n).standard_normal((n, *case.input_shape), dtype=np.float32))


def print_engine(x: Tensor, y: Tensor) -> None:
    """One line per case; x, y: images and labels, enough for the largest."""
    raw = {case: _raw(case, x) for case in REPETITIONS}
    inputs, once = {}, {}
    for case in REPETITIONS:
        begin = time.perf_counter()
        inputs[case] = in_chunks(trained(case).trunk, raw[case]).share_memory_()
        once[case] = 1000 * (time.perf_counter() - begin)
    sizes = {case: (CLIENTS * case.methods, trained(case).model.n_parameters) for case in REPETITIONS}
    deltas = {case: torch.empty(size).share_memory_() for case, size in sizes.items()}
    shared = (inputs, y.clone().share_memory_(), deltas)
    with ProcessPoolExecutor(CORES, get_context("spawn"), _start_worker, shared) as pool:
        for case in REPETITIONS:
            steps = trained(case).n_frozen
            kept = f"  (part of the gain: {steps} frozen step(s) kept, once {once[case]:.0f} ms)" if steps else ""
            print(compare(case, pool, raw[case], y, deltas[case]) + kept, flush=True)
