"""Flower without its network: a Grid in this process, whose nodes run real ClientApps on real Messages."""

from uuid import uuid4

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # as Flower's own runners do before a ServerApp
RAISED, UNAVAILABLE, LINK = 2, 3, 1  # Flower's error codes of a client and of its SuperLink, and the latter's node id


class LocalGrid(Grid):
    """apps: node -> ClientApp; `reaches(node, message)`: whether its answer arrives; asked: (node, kind) of every
    message; changes: functions that are given a round's updates and give what arrives of them. An app that raises
    answers with the error that Flower makes of it."""

    def __init__(self, apps, reaches=lambda node, message: True, changes=(), run_config=None):
        self.apps, self.reaches, self.changes, self.asked = apps, reaches, changes, []
        self.run_config = run_config or {}

    run = set_run = create_message = push_messages = pull_messages = None  # the strategy has no use for them

    def get_node_ids(self):
        return list(self.apps)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            assert message.metadata.ttl == timeout
            node = message.metadata.dst_node_id
            message.metadata.__dict__["_message_id"] = str(uuid4())
            self.asked.append((node, message.metadata.message_type))
            if not self.reaches(node, message):
                continue
            try:
                context = Context(0, node, {"partition-id": node % 100}, RecordDict(), self.run_config)
                reply = self.apps[node](message, context)
            except Exception as error:
                reply = Message(Error(RAISED, str(error)), reply_to=message)
            replies.append(reply)
        if replies and trains(replies[0]):
            for change in self.changes:
                replies = change(replies)
        return replies


def trains(message):
    return message.metadata.message_type == MessageType.TRAIN
