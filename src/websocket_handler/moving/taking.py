"""The exchange in which a process takes a connection from the one that has it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

from .messages import NotMoved, Received, from_file, receive, send
from .state import State
from .suspension import Released

STATE_TIMEOUT_S = 5.0
"""The other process waits up to 2 seconds until a listener has returned, or a message is complete.
"""


class Taken(NamedTuple):
    """A connection that this process has from now on."""

    sock: socket.socket
    state: State
    released: Released


def take(sock: socket.socket, before_release: Callable[[], object]) -> Taken:
    """Ask for the connection and take it. `before_release` is called while the other process still
    has it.

    Raises `NotMoved` if the other process keeps it, and `UnknownFormat` if its state is not valid.
    """
    send(sock, {"take": True})
    offered = receive(sock, STATE_TIMEOUT_S)
    try:
        if "sizes" not in offered.fields or not offered.descriptors:
            raise NotMoved(_reason(offered, "the old process keeps the connection"))
        data = from_file(offered.descriptors[1]) if len(offered.descriptors) > 1 else b""
        state = State.from_json(offered.fields, data)
        before_release()
        send(sock, {"ready": True})
        released = _receive_end(sock)
        return Taken(socket.socket(fileno=offered.descriptors.pop(0)), state, released)
    finally:
        offered.close()


def _receive_end(sock: socket.socket) -> Released:
    given = receive(sock, STATE_TIMEOUT_S)
    try:
        if "given" not in given.fields:
            raise NotMoved(_reason(given, "the old process has not let go"))
        data = from_file(given.descriptors[0]) if given.descriptors else b""
        return Released.from_json(given.fields, data)
    finally:
        given.close()


def _reason(received: Received, default: str) -> str:
    return str(received.fields.get("kept", default))
