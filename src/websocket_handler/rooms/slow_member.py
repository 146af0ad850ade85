"""The messages queued for one slow member."""

from __future__ import annotations

from collections import OrderedDict

from ..protocol.prepared import PreparedMessage
from .delivery import Delivery
from .slow_consumers import SlowConsumers

MESSAGE_OVERHEAD_BYTES = 64
"""Bytes added to the size of each queued message, to bound the number of empty messages."""


class SlowMember:
    """Keeps the messages in order, and drops messages as the policy says."""

    def __init__(self, policy: SlowConsumers) -> None:
        self._policy = policy
        self._waiting: OrderedDict[object, PreparedMessage] = OrderedDict()
        self._size = 0
        self.dropped: int = 0
        """Messages dropped since this member became slow."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def first(self) -> PreparedMessage | None:
        return next(iter(self._waiting.values()), None)

    @property
    def messages(self) -> list[PreparedMessage]:
        return list(self._waiting.values())

    def remove_first(self) -> None:
        self._size -= _cost(self._waiting.popitem(last=False)[1])

    def finish_first(self, message: PreparedMessage, dropped: int) -> None:
        """Remove `message`, the first one, after an attempt to send it.

        `dropped` is 1 if the message could not be sent, 0 if it was sent.
        """
        if self.first is message:
            self.remove_first()
            self.dropped += dropped
        else:  # the policy dropped it while it was being sent
            self.dropped -= 1 - dropped

    def enqueue(self, message: PreparedMessage, key: str | None) -> Delivery | None:
        """Queue a message with its `key`.

        Returns None if the queue is full and the policy is to close the member.
        """
        before = self.dropped
        place = key if self._policy.when_full == "latest" and key is not None else object()
        if place in self._waiting:
            self._drop(place)
        max_size = self._policy.max_backlog - _cost(message)
        if max_size < 0 and self._policy.when_full != "close":  # too large for an empty queue
            self.dropped += 1
            return Delivery(dropped=self.dropped - before)
        if self._size > max_size and self._policy.when_full == "close":
            return None
        while self._waiting and self._size > max_size and self._policy.when_full != "drop_newest":
            self._drop(next(iter(self._waiting)))
        if self._size > max_size:
            self.dropped += 1
            return Delivery(dropped=self.dropped - before)
        self._waiting[place] = message
        self._size += _cost(message)
        return Delivery(queued=1, dropped=self.dropped - before)

    def _drop(self, place: object) -> None:
        self._size -= _cost(self._waiting.pop(place))
        self.dropped += 1


def _cost(message: PreparedMessage) -> int:
    return message.size + MESSAGE_OVERHEAD_BYTES
