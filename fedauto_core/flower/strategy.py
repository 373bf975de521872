"""Flower's side of it: what is asked of whom, what of the replies counts as an upload, and the method's step.

Written against the message API of Flower 1.42 (Beutel et al. 2020, arXiv 2007.14390). Clients are those of Flower's
FedAvg: they get arrays and a config, and reply with arrays and metrics, "num-examples" among them. Before its first
round each is asked for its label counts by a QUERY, once:

    @app.query()
    def query(message, context):
        counts = MetricRecord({"label-counts": np.bincount(labels, minlength=n_classes).tolist()})
        return Message(RecordDict({"metrics": counts}), reply_to=message)

A client that does not know this question answers with an error and takes part all the same, under a uniform guess. A
reply may also carry ConfigRecord({"name": ...}), under which a client is known again when it was started anew.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from torch import Tensor

from fedauto_core.errors import require, require_number
from fedauto_core.methods.base import Method, State
from fedauto_core.methods.fedauto import FedAuto
from fedauto_core.methods.guard import is_sound
from fedauto_core.methods.registry import METHODS, make_method
from fedauto_core.seeding import stream

from .arrays import Layout, Parameters
from .public import ServerData
from .roster import Roster, with_context
from .uploads import Lost, Round, Upload, identity, means, read

LOG = logging.getLogger("flwr.fedauto")  # a child of Flower's own, so that `flwr log` shows it


def obstacle(method: Method) -> str:
    """Why `method` cannot run with plain clients and a server that trains, or ""."""
    if method.client_support:
        return f"it needs the support of clients: {method.client_support}"
    if type(method).judged != Method.judged:
        return "it judges another model than the one that it sends"
    if method.participation != "network":
        return "it does not average what arrives"
    if method.needs_network_knowledge:
        return "it must know the network"
    if method.needs_scores:
        return "it must evaluate models on the public data"
    return ""


class _Server:
    """The public data as a method sees them: the `PublicTraining` of the contract."""

    def __init__(self, data: ServerData, round: Round) -> None:
        self.data, self.round, self.counts_per_class = data, round, data.counts_per_class

    def trained(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Parameters:
        parameters = self.round.layout.unflatten(w.numpy().copy())  # which it may change
        return self.data.train(parameters, classes, steps, self.round.config)

    def train(self, w: Tensor, steps: int, classes: Sequence[int] | None = None) -> Tensor:
        return torch.from_numpy(self.round.layout.flatten(self.trained(w, steps, classes))) - w


class MethodStrategy(Strategy):
    """A method of `methods/` as a strategy of Flower; `METHODS` are made by `make_method`.

    In each round all nodes that are connected are asked, and those that answer before the deadline (`timeout` of
    `start`) are heard; nobody is waited for. Lost, and named in the log, is also an update that is not finite, has
    other names or shapes, tells no positive "num-examples" or comes twice, or whose client has not been identified. A
    step that is not finite or leads far off is refused (`methods.guard`). Where the config that clients are sent holds
    an "lr", it is the round's step size.

    Parameters
    ----------
    method : its clients must be plain
    data : the server's; `torch_data` for a torch module
    steps : of the server's own training, E; as many as a client takes
    with_server : whether the server takes part with the public data, if it has any
    fraction_evaluate : of the nodes that are connected, in federated evaluation

    Raises
    ------
    InputError : for a method that needs the support of clients, or public data that are not there

    Attributes
    ----------
    uploads : what became of everyone asked, in every round
    """

    def __init__(
        self,
        method: Method,
        data: ServerData,
        *,
        steps: int = 5,
        with_server: bool = True,
        fraction_evaluate: float = 1.0,
    ) -> None:
        fitting = ", ".join(name for name, cls in METHODS.items() if not obstacle(cls()))
        why = obstacle(method)
        remedy = "use one of these, or simulate it"
        require(not why, f"method {method.name!r}: {why}", allowed=fitting, remedy=remedy)
        counts = np.asarray(data.counts_per_class)
        require(
            counts.ndim == 1 and len(counts) > 0 and bool(np.isfinite(counts).all() and (counts >= 0).all()),
            f"public samples of each class {counts.tolist()}",
            allowed="one number >= 0 for each class",
            remedy="count the labels of the public samples, np.bincount(y, minlength=n_classes)",
        )
        require(
            (data.train is not None) == bool(counts.any()),
            f"{counts.sum():g} public samples, and {'no' if data.train is None else 'a'} function that trains on them",
            allowed="both or neither",
            remedy="give ServerData(counts_per_class, train), or ServerData(np.zeros(n_classes)) for none",
        )
        require(
            data.train is not None or method.public_data == Method.public_data,
            f"method {method.name!r} without public data",
            allowed="public data and a function that trains on them",
            remedy="give ServerData(counts_per_class, train), or use fedavg",
        )
        require_number("steps", steps, low=1, strict=False, whole=True)
        require_number("fraction_evaluate", fraction_evaluate, high=1, strict=False)
        self.method, self.data, self.steps = method, data._replace(counts_per_class=counts), steps
        self.with_server, self.fraction_evaluate = with_server and data.train is not None, fraction_evaluate
        self.timeout = 3600.0
        self._begin()

    def _begin(self) -> None:
        self.roster = Roster(self.data.counts_per_class)
        self.uploads: list[Upload] = []
        self._round: Round | None = None
        self._state: State | None = None
        self._silent: set[int] = set()  # nodes that were asked who they are, and have not been heard since

    def start(
        self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, timeout: float = 3600, **more: Any
    ) -> Result:
        """As Flower's; `timeout` is also how long messages are valid, so that nobody works on a round that is over."""
        require_number("timeout", timeout)
        self.timeout = float(timeout)
        self._begin()
        return super().start(grid, initial_arrays, num_rounds, timeout, **more)

    def summary(self) -> None:
        LOG.info("\t├──> Method: %r", self.method)
        LOG.info("\t├──> Public samples of each class: %s", self.data.counts_per_class.tolist())
        LOG.info("\t└──> The server takes part: %s", "yes" if self.with_server else "no")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Everyone connected gets the model; whoever is new is asked for its name and label counts first."""
        nodes = sorted(grid.get_node_ids())
        self._grid = grid
        self._identify([node for node in nodes if node not in self.roster.ids and node not in self._silent], grid)
        named = {name: array.numpy() for name, array in arrays.items()}
        layout = Layout.of(named)
        config["server-round"] = server_round
        rows = self._memory(1 + len(nodes), layout)
        self._round = Round(server_round, config, layout, layout.flatten(named), nodes, rows)
        return self._messages(nodes, MessageType.TRAIN, RecordDict({"arrays": arrays, "config": config}))

    def _messages(self, nodes: Iterable[int], kind: str, content: RecordDict) -> list[Message]:
        return [Message(content, node, kind, ttl=self.timeout) for node in nodes]

    def _identify(self, nodes: Sequence[int], grid: Grid) -> None:
        """Enrol those of `nodes` that answer, be it that they do not know the question."""
        if not nodes:
            return
        questions = self._messages(nodes, MessageType.QUERY, RecordDict())
        answers = {a.metadata.src_node_id: a for a in grid.send_and_receive(questions, timeout=self.timeout)}
        self._silent |= {*nodes} - answers.keys()
        for node in nodes:
            if node in answers:
                name, labels = identity(answers[node])
                name = name or f"node {node}"
                if why := self.roster.enrol(node, name, labels):
                    LOG.warning("%s: %s", name, why)

    def _memory(self, count: int, layout: Layout) -> np.ndarray:
        """Of the last round, [count, P], where it fits: to get new memory takes as long as to average."""
        last = self._round and self._round.rows
        fits = last is not None and (last.shape, last.dtype) == ((count, layout.size), layout.dtype)
        return last if fits else np.empty((count, layout.size), layout.dtype)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The method's step from what arrived; also from nothing."""
        round = self._round
        lr, w = float(round.config.get("lr", 1.0)), torch.from_numpy(round.w)
        server = _Server(self.data, round)
        # 1. The server's own update, if it takes part.
        if self.with_server:
            try:
                round.take(0, server.trained(w, self.steps))
            except Lost as why:
                LOG.warning("round %d: the server's own update is left out: %s", server_round, why)
        # 2. Network: what of the replies is an upload, and what became of everyone else.
        replies = list(replies)
        nodes = {reply.metadata.src_node_id for reply in replies} & {*round.asked}
        self._identify(sorted(nodes - self.roster.ids.keys()), self._grid)  # a slow start missed the question
        self._take(replies)
        if not (self.roster.names or self.with_server or self.method.public_data != Method.public_data):
            return None, MetricRecord({"arrived": 0})  # nobody is known, and the method has nothing of its own
        # 3. Aggregate, unless the step is a sign of divergence.
        state = self._known(w, lr)
        w, state = self.method.aggregate(state, w, round.arrivals(self.steps, lr), server)
        told = {"arrived": len(round.metrics), **{name: float(value) for name, value in state.log.items()}}
        log = MetricRecord(told | means(round.metrics))
        layout = round.layout
        with np.errstate(over="ignore"):
            sent = layout.rounded(w.numpy())
        if not is_sound(torch.from_numpy(sent)[layout.floats], state.context.w0[layout.floats]):
            LOG.error("round %d: the step diverges and is refused; the model stays as it was", server_round)
            return None, log
        self._state, arrays = state, layout.unflatten(sent)
        return ArrayRecord({name: Array(array) for name, array in arrays.items()}), log

    def _take(self, replies: Iterable[Message]) -> None:
        """The updates among `replies` into the round, and what became of everyone asked into `uploads`."""
        round = self._round
        causes = dict.fromkeys(round.asked, "silent")
        # Others are the link, which says that somebody is silent, or nobody.
        asked = [(reply.metadata.src_node_id, reply) for reply in replies if reply.metadata.src_node_id in causes]
        for node, reply in sorted(asked, key=lambda one: self.roster.ids.get(one[0], 0)):
            self._silent.discard(node)  # it can be asked again who it is
            try:
                if node not in self.roster.ids:
                    raise Lost("it has not told yet who it is")
                participant, (arrays, told) = self.roster.ids[node], read(reply)
                round.take(participant, arrays)
            except ValueError as fault:
                name = self.roster.name_of(node)
                LOG.warning("round %d: an update of %s is lost: %s", round.number, name, fault)
                causes[node] = causes[node] and str(fault)
                continue
            causes[node] = ""
            round.metrics.append(told)
            self.roster.counts[participant - 1] = float(told["num-examples"])
        for node, cause in causes.items():
            self.uploads.append(Upload(round.number, self.roster.name_of(node), not cause, cause))
            if cause == "silent":
                LOG.warning("round %d: nothing from %s", round.number, self.roster.name_of(node))

    def _known(self, w: Tensor, lr: float) -> State:
        """The method's state, with what is known by now."""
        first = self._state.context if self._state else None
        w0, lr = (first.w0, first.lr) if first else (w, lr)
        context = self.roster.context(w0, self.steps, lr, self.with_server)
        return with_context(self.method, self._state, context) if self._state else self.method.init(context)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A share of everyone connected gets the model."""
        nodes = sorted(grid.get_node_ids())
        drawn = stream(0, "selection", server_round).permutation(len(nodes))
        chosen = sorted(drawn[: round(self.fraction_evaluate * len(nodes))])
        config["server-round"] = server_round
        content = RecordDict({"arrays": arrays, "config": config})
        return self._messages([nodes[index] for index in chosen], MessageType.EVALUATE, content)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Means of what the clients measured, weighted by "num-examples"."""
        contents = [reply.content for reply in replies if reply.has_content()]
        told = means([record for content in contents for record in content.metric_records.values()])
        return MetricRecord(told) if told else None


class FedAutoStrategy(MethodStrategy):
    """`MethodStrategy` with FedAuto; the arguments are those of both.

    data : the server's, on which it takes part and stands in for classes that are missing
    **hyper : fields of `FedAuto`, such as lam
    """

    def __init__(
        self,
        data: ServerData,
        *,
        steps: int = 5,
        with_server: bool = True,
        fraction_evaluate: float = 1.0,
        **hyper: Any,
    ) -> None:
        method = make_method(FedAuto.name, **hyper)
        super().__init__(method, data, steps=steps, with_server=with_server, fraction_evaluate=fraction_evaluate)
