"""A round of the server in Flower: FedAuto's strategy beside Flower's FedAvg, on the same replies.

All clients answer; the public data's training takes no time, so that only the strategies are measured. FedAuto takes
part with public data, and a class that no client holds makes it compensate. Needs the extra [flower].
"""

import logging
import time
from collections.abc import Iterable, Sequence

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from flwr.supercore.task_identity import TaskIdentity

from fedauto_core.flower import FedAutoStrategy, ServerData
from fedauto_core.seeding import stream

from .plain import CLASSES

REPLIES, SHAPES = 50, {"weight": (1000, 999), "bias": (1000,)}
PARAMETERS = sum(int(np.prod(shape)) for shape in SHAPES.values())
REPETITIONS = 31


class _Answering(Grid):
    """Nodes 1..n that are asked for their label counts: nobody holds class 0."""

    def __init__(self, n: int) -> None:
        self.counts = stream(0, "theory", n).integers(1, 100, (n, CLASSES))
        self.counts[:, 0] = 0

    run = set_run = create_message = push_messages = pull_messages = None  # no strategy here has use for them

    def get_node_ids(self) -> list[int]:
        return [*range(1, len(self.counts) + 1)]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        nodes = [(message, self.counts[message.metadata.dst_node_id - 1].tolist()) for message in messages]
        return [_reply(message, {"metrics": MetricRecord({"label-counts": counts})}) for message, counts in nodes]


def _reply(message: Message, records: dict) -> Message:
    message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)  # as a link gives it one
    return Message(RecordDict(records), reply_to=message)


def _arrays(key: int) -> ArrayRecord:
    rng = stream(0, "theory", key)
    return ArrayRecord({name: Array(rng.standard_normal(shape, dtype=np.float32)) for name, shape in SHAPES.items()})


def _trained(messages: Sequence[Message], arrays: Sequence[ArrayRecord], counts: np.ndarray) -> list[Message]:
    told = [MetricRecord({"num-examples": int(row.sum())}) for row in counts]
    return [
        _reply(message, {"arrays": own, "metrics": metrics})
        for message, own, metrics in zip(messages, arrays, told, strict=True)
    ]


def _clocks() -> np.ndarray:
    """Seconds of the wall and of the processor, which a busy machine lengthens less."""
    return np.array([time.perf_counter(), time.process_time()])


def server_rounds(repetitions: int = REPETITIONS) -> dict[str, np.ndarray]:
    """Seconds of `configure_train` and `aggregate_train`, on the wall and of the processor, [repetitions, 2, 2], by
    strategy, taken in turns."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's runners do before a ServerApp
    grid, start = _Answering(REPLIES), _arrays(0)
    sent = [_arrays(node) for node in grid.get_node_ids()]
    public = ServerData(np.full(CLASSES, 30), lambda parameters, classes, steps, config: parameters)
    strategies: dict[str, Strategy] = {"FedAvg": FedAvg(), "FedAuto": FedAutoStrategy(public)}
    seconds: dict[str, list] = {name: [] for name in strategies}
    for round in range(1, repetitions + 2):
        for name, strategy in strategies.items():
            begin = _clocks()
            asked = list(strategy.configure_train(round, start, ConfigRecord({"lr": 0.1}), grid))
            middle = _clocks()
            asked.sort(key=lambda message: message.metadata.dst_node_id)
            replies = _trained(asked, sent, grid.counts)
            last = _clocks()
            arrays, _ = strategy.aggregate_train(round, replies)
            seconds[name].append((middle - begin, _clocks() - last))
            if arrays is None:
                raise RuntimeError(f"{name} has refused its step")
    return {name: np.array(taken[1:]) for name, taken in seconds.items()}  # the first round asks who is who


def print_strategies() -> None:
    """Milliseconds of each strategy, medians, and what FedAuto takes of FedAvg's time."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # an error is raised as well
    taken = {name: 1000 * seconds for name, seconds in server_rounds().items()}
    logger.setLevel(level)
    size = f"{PARAMETERS:,} parameters, {REPLIES} replies"
    own, plain = taken["FedAuto"], taken["FedAvg"]
    for label, part in (("aggregate_train", np.s_[:, 1:]), ("with configure_train", np.s_[:])):
        for clock, unit in enumerate(("ms", "ms of the processor")):
            a, b = own[part].sum(axis=1)[:, clock], plain[part].sum(axis=1)[:, clock]
            medians = f"{np.median(a):.0f} and {np.median(b):.0f} {unit}, {np.median(a / b):.2f}x"
            print(f"{label} of FedAuto against Flower's FedAvg, {size}: {medians}")
