"""A run's rounds as lines of a CSV file, written while it goes on, for whoever watches from outside."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from .strategy import MethodStrategy

COLUMNS = ("round", "client", "arrived", "cause", "seconds", "round_seconds", "accuracy")
Evaluate = Callable[[int, ArrayRecord], MetricRecord]


class Diary:
    """`Diary(path, strategy, grid).of(evaluate)` is an `evaluate_fn` that notes each round when it is over.

    One line for each client that was asked, in the columns `COLUMNS`: round (from 1; round 0 is the start, and has one
    line without a client), client (its name), arrived (0 or 1), cause (why not), seconds (from the start of the round
    until its reply was there, as coarse as the grid's asking, three seconds in Flower), round_seconds, accuracy (what
    `evaluate` measured after the round).
    """

    def __init__(self, path: str, strategy: MethodStrategy, grid: Grid) -> None:
        self.path, self.strategy = Path(path), strategy
        self.came: dict[int, float] = {}  # node -> seconds
        self.began = time.monotonic()
        self._pull, grid.pull_messages = grid.pull_messages, self._pulled
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerow(COLUMNS)

    def of(self, evaluate: Evaluate) -> Evaluate:
        def noted(server_round: int, arrays: ArrayRecord) -> MetricRecord:
            measured = evaluate(server_round, arrays)
            self._note(server_round, float(measured["accuracy"]))
            return measured

        return noted

    def _pulled(self, message_ids: Iterable[str]) -> list[Message]:
        replies, now = list(self._pull(message_ids)), time.monotonic()
        for reply in replies:
            if reply.metadata.message_type == MessageType.TRAIN:
                self.came[reply.metadata.src_node_id] = now - self.began
        return replies

    def _note(self, server_round: int, accuracy: float) -> None:
        now = time.monotonic()
        whole = (f"{now - self.began:.1f}", f"{accuracy:.4f}")
        came = {self.strategy.roster.name_of(node): f"{seconds:.1f}" for node, seconds in self.came.items()}
        rows = [
            (server_round, u.client, int(u.arrived), u.cause, came[u.client] if u.arrived else "", *whole)
            for u in self.strategy.uploads
            if u.round == server_round
        ]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows or [(server_round, "", 0, "", "", *whole)])
        self.came, self.began = {}, now
