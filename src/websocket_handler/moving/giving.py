"""The exchange in which the process that has a connection gives it to the one that asks for it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from .messages import ExchangeEnded, NotMoved, receive, send, to_file
from .state import State

logger: logging.Logger = logging.getLogger("websocket_handler")

READY_TIMEOUT_S = 2.0
"""Seconds that the new process has to read the state: meanwhile no process reads the socket."""


NOT_ABOUT_THE_REQUEST = (408, 409, 425, 429)
"""Refusals because of the state or the load of the new process: the client may connect again."""

REFUSED_REASON = "refused by the new process"


class Answer(NamedTuple):
    """The end of one attempt."""

    status: int
    """200: moved; 400 to 499: the application refuses; 0: no process has answered."""
    reason: str = ""

    @property
    def is_refusal(self) -> bool:
        """Whether the new application refuses this connection, not any connection now."""
        return 400 <= self.status < 500 and self.status not in NOT_ABOUT_THE_REQUEST


MOVED = Answer(200)


SendState = Callable[[int, State], None]
SendEnd = Callable[[dict[str, Any], list[int]], None]


class Owner(Protocol):
    """A connection that this process has. No method is called in the thread of its engine."""

    def suspend(self, send_state: SendState) -> None:
        """Stop serving the connection, and pass the descriptor of its socket and its state to
        `send_state`.

        Raises `NotMoved` if it cannot be moved, or if `send_state` raises that; then this process
        goes on with it.
        """

    def release(self, send_end: SendEnd) -> None:
        """Give the suspended connection up, and pass the last message of the exchange to
        `send_end`: its fields and descriptors.

        Raises `NotMoved` if this process goes on with the connection.
        """

    def resume(self) -> None:
        """Go on with the suspended connection in this process."""


def pass_on(sock: socket.socket, owner: Owner, handler_timeout: float) -> Answer:
    """Pass the connection to the new process if its application accepts it. Raises `NotMoved` if
    the connection itself cannot be moved."""
    try:
        asked = receive(sock, handler_timeout)
        asked.close()
    except NotMoved as error:
        return Answer(0, str(error))
    if "take" not in asked.fields:
        status = asked.fields.get("refused")
        status = status if isinstance(status, int) and status != 503 else 0
        return Answer(status, "the new process refuses it")
    return give(sock, owner)


def give(sock: socket.socket, owner: Owner) -> Answer:
    """Give the connection to the process that has asked for it."""
    try:
        owner.suspend(partial(_send_state, sock))
    except ExchangeEnded as error:
        return Answer(0, str(error))
    except NotMoved as error:
        _send_if_possible(sock, {"kept": str(error)})
        raise
    try:
        ready = receive(sock, READY_TIMEOUT_S)
        ready.close()
        if "ready" not in ready.fields:
            raise ExchangeEnded("the new process was not ready")
    except ExchangeEnded as error:
        owner.resume()
        return Answer(0, str(error))
    try:
        owner.release(partial(_send_if_possible, sock))
    except NotMoved as error:
        _send_if_possible(sock, {"kept": str(error)})
        raise
    return MOVED


def _send_state(sock: socket.socket, descriptor: int, state: State) -> None:
    data = state.data
    files = [to_file(data)] if data else []
    try:
        send(sock, state.to_json(), [descriptor, *files])
    finally:
        _close_all(files)


def _send_if_possible(
    sock: socket.socket, fields: dict[str, Any], files: Sequence[int] = ()
) -> None:
    try:
        send(sock, fields, files)
    except NotMoved as error:
        logger.debug("the new process has ended: %s", error)


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
