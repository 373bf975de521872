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

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedauto_core.errors import require_number
from fedauto_core.methods.base import Method
from fedauto_core.methods.fedauto import FedAuto
from fedauto_core.methods.registry import make_method
from fedauto_core.seeding import stream
from fedauto_core.server.coordinator import Coordinator, Lost
from fedauto_core.server.public import ServerData

from .uploads import Upload, identity, means, read

LOG = logging.getLogger("flwr.fedauto")  # a child of Flower's own, so that `flwr log` shows it


class MethodStrategy(Strategy):
    """A method of `methods/` as a strategy of Flower; `METHODS` are made by `make_method`.

    In each round all nodes that are connected are asked, and those that answer before the deadline (`timeout` of
    `start`) are heard; clients who have not said who they are get as long once more, before and after the training.
    Lost, and named in the log, is also an update that is not finite, has other names or shapes, tells no positive
    "num-examples" or comes twice, or whose client has not been identified. A step that is not finite or leads far off
    is refused (`methods.guard`). Where the config that clients are sent holds an "lr", it is the round's step size.

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
        require_number("fraction_evaluate", fraction_evaluate, high=1, strict=False)
        self.core = Coordinator(method, data, steps, with_server, LOG.warning)
        self.fraction_evaluate, self.timeout = fraction_evaluate, 3600.0
        self._begin()

    def _begin(self) -> None:
        self.core.forget()
        self.roster = self.core.roster
        self.uploads: list[Upload] = []
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
        LOG.info("\t├──> Method: %r", self.core.method)
        LOG.info("\t├──> Public samples of each class: %s", self.core.data.counts_per_class.tolist())
        LOG.info("\t└──> The server takes part: %s", "yes" if self.core.with_server else "no")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Everyone connected gets the model; whoever is new is asked for its name and label counts first."""
        nodes = sorted(grid.get_node_ids())
        self._grid = grid
        self._identify([node for node in nodes if node not in self.roster.ids and node not in self._silent], grid)
        config["server-round"], self._asked = server_round, nodes
        self.core.open(server_round, {name: array.numpy() for name, array in arrays.items()}, config, len(nodes))
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

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The method's step from what arrived; also from nothing."""
        self.core.train()
        replies = list(replies)
        nodes = {reply.metadata.src_node_id for reply in replies} & {*self._asked}
        self._identify(sorted(nodes - self.roster.ids.keys()), self._grid)  # a slow start missed the question
        metrics = self._take(server_round, replies)
        arrays, log = self.core.close()
        told = MetricRecord({"arrived": len(metrics), **{k: float(v) for k, v in log.items()}} | means(metrics))
        return arrays and ArrayRecord({name: Array(array) for name, array in arrays.items()}), told

    def _take(self, server_round: int, replies: Iterable[Message]) -> list[MetricRecord]:
        """The updates among `replies` into the round, what became of everyone asked into `uploads`; the metrics that
        came with the updates."""
        metrics, causes = [], dict.fromkeys(self._asked, "silent")
        # Others are the link, which says that somebody is silent, or nobody.
        asked = [(reply.metadata.src_node_id, reply) for reply in replies if reply.metadata.src_node_id in causes]
        for node, reply in sorted(asked, key=lambda one: self.roster.ids.get(one[0], 0)):
            self._silent.discard(node)  # it can be asked again who it is
            try:
                if node not in self.roster.ids:
                    raise Lost("it has not told yet who it is")
                arrays, told = read(reply)
                self.core.take(self.roster.ids[node], arrays, told.get("num-examples"))
            except ValueError as fault:
                name = self.roster.name_of(node)
                LOG.warning("round %d: an update of %s is lost: %s", server_round, name, fault)
                causes[node] = causes[node] and str(fault)
                continue
            causes[node] = ""
            metrics.append(told)
        for node, cause in causes.items():
            self.uploads.append(Upload(server_round, self.roster.name_of(node), not cause, cause))
            if cause == "silent":
                LOG.warning("round %d: nothing from %s", server_round, self.roster.name_of(node))
        return metrics

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
