"""The states of a connection (RFC 6455 section 7) and their transitions.

CONNECTING --opened--> OPEN --close sent--> CLOSING --close received--> CLOSED
                         \\--------------close received-------------------^

The loss of the TCP connection leads from every state to CLOSED.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING


class State(Enum):
    """The state of a WebSocket, named as in the browsers' WebSocket API."""

    CONNECTING = "connecting"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"

    if not TYPE_CHECKING:
        __hash__ = object.__hash__  # that of `Enum` is in Python


class Step(Enum):
    """An event that changes the state of a connection."""

    OPENED = "the handshake is complete and the engine has the socket"
    CLOSE_SENT = "this end started the closing handshake"
    CLOSE_RECEIVED = "the peer's close frame was received and answered"
    LOST = "the TCP connection was lost or aborted"
    MOVED = "another process of the server has the TCP connection"

    if not TYPE_CHECKING:
        __hash__ = object.__hash__


_TRANSITIONS = {
    (State.CONNECTING, Step.OPENED): State.OPEN,
    (State.CONNECTING, Step.CLOSE_SENT): State.CLOSING,
    (State.CONNECTING, Step.LOST): State.CLOSED,
    (State.OPEN, Step.CLOSE_SENT): State.CLOSING,
    (State.OPEN, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.OPEN, Step.LOST): State.CLOSED,
    (State.OPEN, Step.MOVED): State.CLOSED,
    (State.CLOSING, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.CLOSING, Step.LOST): State.CLOSED,
}


def advance(state: State, step: Step) -> State | None:
    """Return the state after `step`, None if `step` does not change `state`."""
    return _TRANSITIONS.get((state, step))
