"""Peak memory of simulated federated fine-tuning with LoRA, for few and many clients.

Expected is a growth by a few copies of each client's adapter, not of its model: the frozen base is kept once. That the
measurement would see copies of the model shows the same with all parameters trained.

Every measurement has a process of its own and counts from its resident memory after imports and data. Linux keeps the
peak per process as VmHWM; ru_maxrss would not do, as it survives fork and exec and so may be the parent's.
"""

import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedauto_core.data.dataset import Dataset
from fedauto_core.data.federation import Federation
from fedauto_core.engine.averaging import Averaging, initial_vector, lora_averaging
from fedauto_core.engine.rounds import simulate
from fedauto_core.engine.spec import Run, Schedule
from fedauto_core.methods.registry import make_method
from fedauto_core.models.adapters import LoRA, adapt
from fedauto_core.models.mobilenet import SIDE
from fedauto_core.models.mobilenet_stack import CHAIN
from fedauto_core.models.model import build_model
from fedauto_core.network import Scenario, draw_trace
from fedauto_core.seeding import stream

MODEL, IMAGES, CLASSES = "mobilenet_v2", (3, 32, 32), 10
ACTIVATIONS = (SIDE // 32, SIDE // 32, CHAIN[-1].n_out)  # of the last convolution's inputs
ADAPTER = LoRA(4, 8.0, ("last",))
CASES = (
    ("LoRA, fedavg", "fedavg", ADAPTER, (10, 100)),
    ("LoRA, mifa", "mifa", ADAPTER, (10, 100)),
    ("all parameters, fedavg", "fedavg", None, (10, 30)),  # more would take gigabytes
)
SCHEDULE = Schedule(rounds=2, steps=2, batch=2, evaluate_every=2)
EVERYBODY = Scenario("everybody", "bernoulli", (("probability", 1.0),))
SAMPLES, BYTES, MB = 5, 4, 1e6


def peak_growth(work: Callable[[], object]) -> int:
    """Bytes by which the process's peak resident memory during `work` exceeds what is resident before (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == f"{name}:")


def made_up(n: int, shape: tuple[int, ...], classes: int = CLASSES) -> Federation:
    """n clients and a server with SAMPLES random inputs each."""
    x = torch.from_numpy(stream(0, "theory", n).standard_normal(((n + 1) * SAMPLES, *shape), dtype=np.float32))
    y = torch.arange(len(x)) % classes
    names = tuple(map(str, range(classes)))
    data = Dataset("made up", x, y, x[:classes], y[:classes], names, "")
    return Federation(data, tuple(np.arange(len(x)).reshape(n + 1, SAMPLES)))


def averaging_and_start(lora: LoRA | None) -> tuple[Averaging, Tensor]:
    """What is averaged, and its start."""
    model = build_model(MODEL, IMAGES, CLASSES)
    w0 = model.init(stream(0, "initial model"))
    if lora is None:
        return Averaging(model), w0
    averaging = lora_averaging("factor", adapt(model, w0, lora), lora, 0)
    return averaging, initial_vector(averaging, w0, model)


def simulated(method: str, lora: LoRA | None, n: int) -> int:
    """`peak_growth` of a run with n clients, all of whom are heard."""
    torch.set_num_threads(1)
    federation = made_up(n, IMAGES if lora is None else ACTIVATIONS)
    trace = draw_trace(EVERYBODY, rounds=SCHEDULE.rounds, histograms=federation.alpha[1:], seed=0)

    def work() -> None:
        averaging, w0 = averaging_and_start(lora)
        simulate(averaging, [Run(method, make_method(method), federation, trace, w0, 0, 0.01, False)], SCHEDULE)

    return peak_growth(work)


def print_memory() -> None:
    """One line per case and number of clients, and its growth from the fewest to the most."""
    if sys.platform != "linux":
        print("peak memory: measured on Linux alone")
        return
    model, adapter = (BYTES * averaging_and_start(lora)[1].numel() / MB for lora in (None, ADAPTER))
    what = f"LoRA of rank {ADAPTER.rank} on {', '.join(ADAPTER.targets)} with head {adapter:.3f} MB"
    print(f"peak memory of a simulated run over its process's own, {MODEL}: model {model:.2f} MB, {what}")
    for label, method, lora, clients in CASES:
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            peaks = [pool.submit(simulated, method, lora, n).result() / MB for n in clients]
        for n, peak in zip(clients, peaks, strict=True):
            copies = f"N adapters {n * adapter:5.1f} MB, N models {n * model:5.0f} MB"
            print(f"{label:<23} N = {n:>3} {peak:7.1f} MB   {copies}")
        each = (peaks[-1] - peaks[0]) / (clients[-1] - clients[0])
        growth = f"each client {each:5.2f} MB = {each / adapter:.1f} adapters = {each / model:.2f} models"
        print(f"{'':<23} {growth}", flush=True)
