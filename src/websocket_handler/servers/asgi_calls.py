"""The callables `receive` and `send` that an ASGI application calls for every message.

This file is Python; compiled with the types of asgi_calls.pxd it is part of the native engine. Both
calls return a coroutine without a frame, which is complete at once if there is nothing to wait for.
Everything less frequent is done by the coroutines of `servers/asgi.py`.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, MutableMapping
from types import TracebackType
from typing import Any, TypeVar

from ..connection.inbox import FramelessCoroutine, LoopInbox
from ..errors import ConnectionClosed

Event = MutableMapping[str, Any]
Function = TypeVar("Function", bound=Callable[..., object])


class Disconnected(OSError):
    """Raised by `send()` after the connection has ended (ASGI 2.4)."""


class ASGICalls:
    """The two callables, for one WebSocket."""

    def __init__(self, websocket: Any) -> None:
        self._websocket = websocket
        self._send_message = websocket.send
        self._messages: LoopInbox | None = None  # set while the WebSocket is accepted
        self._is_receiving = False
        self._may_receive: asyncio.Event | None = None  # set if several coroutines receive

    def receive(self) -> Coroutine[Any, None, Event]:
        """Return the next message for the application."""
        return receiving(self)

    def send(self, message: Event) -> Coroutine[Any, None, None]:
        """Send a message of the application. Waits for the peer above `high_water` unsent bytes."""
        return sending(self, message)

    def _note_received(self) -> None:
        """The coroutine that was receiving has ended: another one may receive."""
        self._is_receiving = False
        if self._may_receive is not None:
            self._may_receive.set()

    # Implemented by `ASGISession`

    async def _receive_slow_path(self) -> Event:
        raise NotImplementedError

    async def _drain(self) -> None:
        raise NotImplementedError

    def _handle(self, message: Event) -> None:
        raise NotImplementedError

    def _disconnect(self) -> Event:
        raise NotImplementedError


class Call(FramelessCoroutine):
    """A call of `receive` or `send`. If it cannot be completed here, a coroutine does the rest."""

    _calls: ASGICalls | None  # None once it has begun, or ended
    _rest: Any

    def _run_rest(self) -> bool:
        """Continue the coroutine."""
        try:
            self._value = self._rest.send(None)
        except StopIteration as end:
            self._value = end.value
            return True
        return False

    def throw(
        self,
        kind: Any,
        value: Any = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        if self._rest is None:
            return FramelessCoroutine.throw(self, kind, value, traceback)
        return self._rest.throw(kind if value is None else value)

    def close(self) -> None:
        """End without a result."""
        self._end()
        if self._rest is not None:
            self._rest.close()

    def _end(self) -> None:
        """Forget the call: it has ended, or `_rest` continues it."""
        self._calls = None


class Receiving(Call):
    """The awaitable that `receive` returns. Its Task waits for the inbox as for a Future."""

    _inbox: LoopInbox | None  # set while it waits for a message there

    def resume(self) -> bool:
        if self._rest is not None:
            return self._run_rest()
        calls = self._calls
        if calls is None:
            raise RuntimeError("cannot reuse already awaited receive()")
        inbox = self._inbox
        if inbox is None:
            inbox = calls._messages
            if inbox is None or calls._is_receiving:
                self._rest = calls._receive_slow_path()
                return self._run_rest()
        return self._take(calls, inbox)

    def _take(self, calls: ASGICalls, inbox: LoopInbox) -> bool:
        """Take the next message from the inbox, or wait for it there."""
        try:
            message = inbox.take()
        except (StopAsyncIteration, ConnectionClosed):
            self._end()
            self._value = calls._disconnect()
            return True
        except BaseException:
            self._end()
            raise
        if message is None:
            calls._is_receiving = True
            self._inbox = self._value = inbox
            return False
        self._end()
        self._value = received(message)
        return True

    def _end(self) -> None:
        calls, self._calls = self._calls, None
        if self._inbox is not None and calls is not None:
            self._inbox = None
            calls._note_received()


class Sending(Call):
    """The awaitable that `send` returns."""

    _message: dict[str, Any]

    def resume(self) -> bool:
        if self._rest is not None:
            return self._run_rest()
        calls = self._calls
        if calls is None:
            raise RuntimeError("cannot reuse already awaited send()")
        self._calls = self._value = None
        message = self._message
        if calls._messages is None or message["type"] != "websocket.send":
            calls._handle(message)
            return True
        data = message.get("bytes")
        try:
            calls._send_message(message["text"] if data is None else data)
        except ConnectionClosed as closed:
            raise Disconnected(str(closed)) from None
        if calls._websocket._above_water:
            self._rest = calls._drain()
            return self._run_rest()
        return True


def receiving(calls: ASGICalls) -> Receiving:
    """Return a new `Receiving`. Compiled, this is an allocation without calls."""
    awaitable = Receiving.__new__(Receiving)
    awaitable._calls = calls
    awaitable._inbox = awaitable._rest = None
    return awaitable


def sending(calls: ASGICalls, message: Event) -> Sending:
    """Return a new `Sending`. Compiled, this is an allocation without calls."""
    awaitable = Sending.__new__(Sending)
    awaitable._calls = calls
    awaitable._message = message if isinstance(message, dict) else dict(message)
    awaitable._rest = None
    return awaitable


def received(message: str | bytes) -> Event:
    if isinstance(message, str):
        return {"type": "websocket.receive", "text": message}
    return {"type": "websocket.receive", "bytes": message}


def mark_as_coroutine_function(function: Function) -> Function:
    """Make `iscoroutinefunction` return True: asgiref warns of callables for which it does not.
    Returns `function`."""
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


if sys.version_info >= (3, 11):  # before, a compiled function cannot be marked
    mark_as_coroutine_function(ASGICalls.receive)
    mark_as_coroutine_function(ASGICalls.send)
