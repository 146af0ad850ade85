"""The layout of an input that contains a peer's bytes, the same as in `decoder.c`.

byte 0: `flags`               byte 2: `choice`, whose meaning depends on the target
byte 1: the limits            byte 3: the number of piece sizes minus one (3 bits)
then these sizes, which are used cyclically (0 means all the rest), then the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import NamedTuple

from websocket_handler.protocol import check
from websocket_handler.protocol.assembly import Event
from websocket_handler.protocol.check import Violation

AS_SERVER, COMPRESSED, TAKEOVER, ALLOW_1004, DIRECT, NO_MEMORY = (1 << bit for bit in range(6))

SIZES = (1 << 20, 0, 5, 125, 130, 511, 4000, 70000)
COUNTS = (1000, 1, 2, 3)

PAYLOAD_FAULTS = (check.INVALID_TEXT, check.TOO_BIG, check.INVALID_DEFLATE)


class Limits(NamedTuple):
    max_message_size: int
    max_fragments: int
    max_empty_fragments: int


class Wire(NamedTuple):
    flags: int
    limits: int
    choice: int
    pieces: bytes
    data: bytes

    @classmethod
    def read(cls, source: bytes) -> Wire | None:
        start = 5 + (source[3] & 7) if len(source) > 4 else 0
        if not start or len(source) < start:
            return None
        flags, limits, choice = source[:3]
        return cls(flags, limits, choice, source[4:start], source[start:])

    def write(self) -> bytes:
        head = bytes((self.flags, self.limits, self.choice, len(self.pieces) - 1))
        return head + self.pieces + self.data

    def chosen_limits(self) -> Limits:
        bits = self.limits
        return Limits(SIZES[bits & 7], COUNTS[bits >> 3 & 3], COUNTS[bits >> 5 & 3] - 1)

    def cut(self) -> Iterable[bytes]:
        at = 0
        for size in cycle(self.pieces):
            if at >= len(self.data):
                return
            end = at + size if size else len(self.data)
            yield self.data[at:end]
            at = end


def typed(events: Iterable[Event]) -> list[tuple[str, Event]]:
    """Return the events with their type, because a ping and a pong are equal as tuples."""
    return [(type(event).__name__, event) for event in events]


def check_pieces_do_not_matter(one: list[Event], other: list[Event], lenient: bool) -> None:
    """Check that both results are equal.

    If `lenient`, and a payload has several faults, the pieces may decide which one is reported.
    """
    if lenient and {*one[-1:], *other[-1:]} <= set(PAYLOAD_FAULTS):
        one, other = one[:-1], other[:-1]
    assert typed(one) == typed(other)


def check_ends(events: list[Event]) -> None:
    """Check that no event follows a violation."""
    assert not any(isinstance(event, Violation) for event in events[:-1])
