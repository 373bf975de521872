"""The grid inside one process, with a record of what was asked, and changes to what arrives."""

from fedauto_core.flower.local import LocalGrid as Quiet
from fedauto_core.flower.local import trains

UNAVAILABLE, LINK = 3, 1  # Flower's error code of its SuperLink, and the latter's node id


class LocalGrid(Quiet):
    """asked: (node, kind) of every message; changes: functions that make of a round's updates what arrives."""

    def __init__(self, apps, reaches=lambda node, message: True, changes=(), run_config=None):
        super().__init__(apps, reaches, run_config)
        self.changes, self.asked = changes, []

    def send_and_receive(self, messages, *, timeout=None):
        messages = list(messages)
        assert all(message.metadata.ttl == timeout for message in messages)
        self.asked += [(message.metadata.dst_node_id, message.metadata.message_type) for message in messages]
        replies = super().send_and_receive(messages, timeout=timeout)
        if replies and trains(replies[0]):
            for change in self.changes:
                replies = change(replies)
        return replies
