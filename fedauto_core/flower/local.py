"""Flower without its network: an app tried out, or a deployment run again, inside one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from uuid import uuid4

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

RAISED = 2  # Flower's error code of a client that raises
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's own runners do before a ServerApp


class LocalGrid(Grid):
    """Nodes in this process, which run real ClientApps on real Messages, one after the other.

    apps: node -> ClientApp, of those that are connected (it may change between rounds); a node's partition-id is what
    is left of its number divided by 100; run_config: what the apps see of it; `reaches(node, message)`: whether its
    answer arrives. An app that raises answers with the error that Flower makes of it.
    """

    def __init__(
        self,
        apps: Mapping[int, ClientApp],
        reaches: Callable[[int, Message], bool] = lambda node, message: True,
        run_config: Mapping[str, object] | None = None,
    ) -> None:
        self.apps, self.reaches, self.run_config = apps, reaches, dict(run_config or {})

    run = set_run = create_message = push_messages = pull_messages = None  # a strategy has no use for them

    def get_node_ids(self) -> list[int]:
        return list(self.apps)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return [self._answer(message) for message in messages if self.reaches(message.metadata.dst_node_id, message)]

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = str(uuid4())
        try:
            context = Context(0, node, {"partition-id": node % 100}, RecordDict(), self.run_config)
            return self.apps[node](message, context)
        except Exception as error:
            return Message(Error(RAISED, str(error)), reply_to=message)


def trains(message: Message) -> bool:
    return message.metadata.message_type == MessageType.TRAIN
