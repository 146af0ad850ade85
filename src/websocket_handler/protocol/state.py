"""The life of a connection (RFC 6455 section 7) as a table.

CONNECTING --opened--> OPEN --we sent close--> CLOSING --their close--> CLOSED
                         \\--------their close, answered------------------^
from every state, the loss of the TCP connection leads to CLOSED.
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a WebSocket stands, in the words of the browsers' API."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


class Step(Enum):
    """What moves a connection on."""

    OPENED = "the handshake is done and the engine has the socket"
    CLOSE_SENT = "we started the closing handshake"
    CLOSE_RECEIVED = "the peer's close frame is here, and answered"
    LOST = "the TCP connection is gone or given up"


_LIFE = {
    (State.CONNECTING, Step.OPENED): State.OPEN,
    (State.CONNECTING, Step.CLOSE_SENT): State.CLOSING,
    (State.CONNECTING, Step.LOST): State.CLOSED,
    (State.OPEN, Step.CLOSE_SENT): State.CLOSING,
    (State.OPEN, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.OPEN, Step.LOST): State.CLOSED,
    (State.CLOSING, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.CLOSING, Step.LOST): State.CLOSED,
}


def advance(state: State, step: Step) -> State | None:
    """The state after `step`, or None where the step comes too late to matter."""
    return _LIFE.get((state, step))
