"""The backlog of a slow member: kept and dropped messages."""

from __future__ import annotations

from typing import Any

import pytest

from websocket_handler import Delivery, SlowConsumers
from websocket_handler.protocol.prepared import PreparedMessage
from websocket_handler.rooms.slow_consumers import WhenFull
from websocket_handler.rooms.slow_member import MESSAGE_OVERHEAD_BYTES, SlowMember

FOUR = 4 * (1 + MESSAGE_OVERHEAD_BYTES)  # space for four messages of one byte


def keep(member: SlowMember, message: str, key: str | None = None) -> Delivery | None:
    return member.enqueue(PreparedMessage(message), key)


def left(member: SlowMember) -> str:
    """Returns all kept messages, in order."""
    found = ""
    while (message := member.first) is not None:
        found += str(message.data)
        member.remove_first()
    return found


@pytest.mark.parametrize(
    ("when_full", "kept", "dropped"),
    [("drop_oldest", "cdef", 2), ("drop_newest", "abcd", 2), ("latest", "cdef", 2)],
)
def test_policy_decides_which_messages_are_kept(
    when_full: WhenFull, kept: str, dropped: int
) -> None:
    member = SlowMember(SlowConsumers(when_full, FOUR))
    deliveries = [keep(member, letter) for letter in "abcdef"]
    total = Delivery()
    for delivery in deliveries:
        assert delivery is not None
        total += delivery
    assert total.dropped == member.dropped == dropped
    assert total.queued == (4 if when_full == "drop_newest" else 6)
    assert left(member) == kept


def test_close_policy_keeps_messages_that_fit() -> None:
    member = SlowMember(SlowConsumers("close", FOUR))
    assert [keep(member, letter) for letter in "abcd"] == [Delivery(queued=1)] * 4
    assert keep(member, "e") is None
    assert left(member) == "abcd"
    assert keep(member, "f") == Delivery(queued=1)


def test_latest_policy_replaces_by_key() -> None:
    member = SlowMember(SlowConsumers("latest", FOUR))
    for message, key in [("a", "x"), ("b", "y"), ("c", "x"), ("d", "z"), ("e", "y")]:
        assert keep(member, message, key) is not None
    assert left(member) == "cde"
    assert member.dropped == 2
    for message in "abcdef":
        keep(member, message, key=message)
    assert left(member) == "cdef"


def test_latest_policy_without_key_replaces_nothing() -> None:
    member = SlowMember(SlowConsumers("latest", FOUR))
    for message, key in [("a", None), ("b", "x"), ("c", None), ("d", "x")]:
        assert keep(member, message, key) is not None
    assert left(member) == "acd"
    assert member.dropped == 1


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "latest"])
def test_message_larger_than_the_backlog_drops_only_itself(when_full: WhenFull) -> None:
    member = SlowMember(SlowConsumers(when_full, FOUR))
    for letter in "abc":
        keep(member, letter, letter)
    assert keep(member, "x" * FOUR, "x") == Delivery(dropped=1)
    keep(member, "d", "d")
    assert left(member) == "abcd"
    assert member.dropped == 1


@pytest.mark.parametrize(
    "settings", [{"when_full": "block"}, {"max_backlog": -1}, {"close_code": 1006}]
)
def test_invalid_policy_is_an_error(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"block|max_backlog|1006"):
        SlowConsumers(**settings)
