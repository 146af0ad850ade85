"""An open connection of this process's engine, as the owner that gives it to another process."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from ..rooms.membership import Left
from ..websocket import WebSocket
from .description import Description
from .giving import SendEnd, SendState
from .messages import NotMoved, to_file
from .suspension import (
    NotYet,
    Suspended,
    come_back,
    facts_of,
    in_engine,
    leave,
    rooms_of,
    suspend,
)

IDLE_TIMEOUT_S = 2.0
"""Seconds that a connection has to come to a point at which it can be moved."""

RETRY_INTERVAL_S = 0.002

Result = TypeVar("Result")

left_rooms = threading.Event()
"""Set once a moved connection was in a room: this process must not end before it has announced
that."""


class StillBusy(NotMoved):
    """The application or the broker was busy with the connection: try again after the others."""


class OpenConnection:
    """Implements `Owner`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._suspended: Suspended | None = None

    def describe(self) -> Description:
        """Raises `NotMoved` if the connection cannot be moved."""
        return _when_idle(self._websocket, _describe)

    def suspend(self, send_state: SendState) -> None:
        self._suspended = _when_idle(self._websocket, partial(_suspend, send_state))

    def release(self, send_end: SendEnd) -> None:
        websocket, suspended = self._websocket, self._suspended
        assert suspended is not None
        left: list[Left] = []
        try:
            left += leave(websocket, [room for room in rooms_of(websocket) if room._has_history])
            _in_engine(websocket, partial(_release, suspended, left, send_end))
        except (NotMoved, TimeoutError) as error:
            self.resume()
            in_engine(websocket, partial(come_back, websocket, left))
            raise error if isinstance(error, NotMoved) else StillBusy(str(error)) from None
        if left:
            left_rooms.set()

    def resume(self) -> None:
        assert self._suspended is not None
        in_engine(self._websocket, self._suspended.resume)


# In the engine's thread, which also sends the messages: nothing serves the connection between them,
# and another thread of a busy process may have to wait for several milliseconds.


def _suspend(send_state: SendState, websocket: WebSocket) -> Suspended:
    suspended = suspend(websocket)
    try:
        send_state(suspended.descriptor, suspended.state)
    except NotMoved:
        suspended.resume()
        raise
    return suspended


def _release(suspended: Suspended, left: list[Left], send_end: SendEnd) -> None:
    released = suspended.prepare_release(left)
    files = [to_file(released.data)] if released.data else []
    suspended.release()
    send_end(released.to_json(), files)
    for file in files:
        os.close(file)


def _when_idle(websocket: WebSocket, call: Callable[[WebSocket], Result]) -> Result:
    """Return the result of a call in the engine's thread, as soon as it does not raise `NotYet`."""
    end = time.monotonic() + IDLE_TIMEOUT_S
    while True:
        try:
            return _in_engine(websocket, partial(call, websocket))
        except NotYet as reason:
            if time.monotonic() > end:
                raise StillBusy(str(reason)) from None
        time.sleep(RETRY_INTERVAL_S)


def _describe(websocket: WebSocket) -> Description:
    facts = facts_of(websocket)
    descriptor = websocket._descriptor
    if descriptor < 0:
        raise NotMoved("it has no socket")
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        address = copy.getsockname()
    return Description(address, facts, websocket.request.as_received())


def _in_engine(websocket: WebSocket, call: Callable[[], Result]) -> Result:
    """Return the result of a call in the engine's thread, outside of the connection's listeners.

    Raises its exception, and `NotMoved` if a listener does not return in time.
    """
    done = threading.Event()
    lock = threading.Lock()
    result: list[Result] = []
    failure: list[BaseException] = []
    cancelled: list[bool] = []

    def make() -> None:
        with lock:
            if cancelled:
                return
            try:
                result.append(call())
            except Exception as error:
                failure.append(error)
            done.set()

    in_engine(websocket, partial(make))
    if not done.wait(IDLE_TIMEOUT_S):
        with lock:
            if not done.is_set():
                cancelled.append(True)
                raise StillBusy("a listener does not return")
    if failure:
        raise failure[0]
    return result[0]
