"""The events, and the listeners that are more than a plain function."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from .inbox import Source
from .surroundings import Surroundings

EVENTS = ("open", "message", "ping", "pong", "drain", "error", "close")

EVENT_OVERHEAD = 64
"""Bytes that a queued event counts beside its message, so that empty ones are bounded too."""

Listener = Callable[..., object]
AsyncListener = Callable[..., Coroutine[Any, Any, object]]


class Emitter(Protocol):
    """An object on which listeners are registered."""

    def off(self, event: str, listener: Listener) -> None: ...


class Failing(Source, Protocol):
    """A connection that is closed if a listener raises."""

    def _failed(self, error: BaseException) -> None: ...


def check_event(event: str) -> None:
    """Raise `ValueError` if `event` is not an event of a WebSocket."""
    if event not in EVENTS:
        raise ValueError(f"unknown event {event!r}, expected one of {', '.join(EVENTS)}")


def is_async(listener: Listener) -> bool:
    """Whether calling `listener` returns a coroutine."""
    if inspect.iscoroutinefunction(listener):
        return True
    if inspect.isroutine(listener):
        return False
    return inspect.iscoroutinefunction(getattr(listener, "__call__", None))  # noqa: B004 (a method)


class Once:
    """A listener that removes itself before its first call."""

    def __init__(
        self, emitter: Emitter, event: str, listener: Listener, call: Listener | None = None
    ) -> None:
        self._emitter = emitter
        self._event = event
        self._call = call or listener
        self.listener = listener

    def __call__(self, *arguments: object) -> None:
        self._emitter.off(self._event, self)
        self._call(*arguments)

    def surround(self, surroundings: Surroundings) -> None:
        self._call = surrounded(self._call, surroundings)


class ListenerGroup:
    """Several message listeners, called in order as one."""

    def __init__(self, listeners: tuple[Listener, ...]) -> None:
        self.listeners = listeners

    def __call__(self, message: str | bytes) -> None:
        for listener in self.listeners:
            listener(message)


class Surrounded:
    """A plain listener that is called within its connection's `Surroundings`."""

    def __init__(self, listener: Listener, surroundings: Surroundings) -> None:
        self.listener = listener
        self._surroundings = surroundings

    def __call__(self, *arguments: object) -> None:
        self._surroundings.call(self.listener, *arguments)


def surrounded(listener: Listener, surroundings: Surroundings) -> Listener:
    """Return a listener that calls `listener` within `surroundings`."""
    if isinstance(
        listener, Surrounded | QueuedListener
    ):  # `AsyncListenerQueue` applies them to `async def` ones
        return listener
    if isinstance(listener, Once):
        listener.surround(surroundings)
        return listener
    if isinstance(listener, ListenerGroup):
        return ListenerGroup(tuple(surrounded(one, surroundings) for one in listener.listeners))
    return Surrounded(listener, surroundings)


class QueuedListener:
    """An `async def` listener, whose calls are queued in its connection's `AsyncListenerQueue`."""

    __slots__ = ("_async_listeners", "listener")

    def __init__(self, listener: AsyncListener, queue: AsyncListenerQueue) -> None:
        self.listener = listener
        self._async_listeners = queue

    def __call__(self, *arguments: object) -> None:
        self._async_listeners.add(self.listener, arguments)


class AsyncListenerQueue:
    """Runs the `async def` listeners of one connection one after the other, in the order of the
    events. Pauses reading while more than `high_water` bytes are queued.

    A task exists while events are queued. Everything runs in the thread of `loop`.
    """

    __slots__ = (
        "_high_water",
        "_is_full",
        "_is_working",
        "_loop",
        "_size",
        "_source",
        "_task",
        "_waiting",
        "surroundings",
    )

    def __init__(self, source: Failing, high_water: int, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._high_water = high_water
        self._loop = loop
        self._waiting: deque[tuple[AsyncListener, tuple[Any, ...]]] = deque()
        self._size = 0
        self._is_full = False
        self._is_working = False
        self.surroundings: Surroundings | None = None
        self._task: asyncio.Task[None] | None = None  # the loop has only a weak reference to it

    def amount(self) -> int:
        """Return the bytes of the queued messages, with `EVENT_OVERHEAD` for each event."""
        return self._size

    @property
    def is_working(self) -> bool:
        """Whether events are queued, or a listener runs."""
        return self._is_working

    def add(self, listener: AsyncListener, arguments: tuple[Any, ...]) -> None:
        if self._loop.is_closed():  # the connections are being closed; no task can run any more
            return
        self._waiting.append((listener, arguments))
        self._size += _size_of(arguments)
        if self._size > self._high_water and not self._is_full:
            self._is_full = True
            self._source._pause_for_backlog()
        if not self._is_working:
            self._is_working = True
            work, surroundings = self._work(), self.surroundings
            task = (
                self._loop.create_task(work)
                if surroundings is None
                else surroundings.create_task(self._loop, work)
            )
            self._task = task if self._is_working else None  # an eager task may have finished

    async def _work(self) -> None:
        try:
            while self._waiting:
                listener, arguments = self._waiting.popleft()
                try:
                    if self.surroundings is None:
                        await listener(*arguments)
                    else:
                        await self.surroundings.call_async(listener, *arguments)
                except asyncio.CancelledError as error:
                    if not _is_cancelled():
                        self._source._failed(error)
                    raise  # the queued events are processed with the next event, such as `close`
                except BaseException as error:
                    self._source._failed(error)
                finally:
                    self._size -= _size_of(arguments)
                if self._is_full and self._size <= self._high_water // 4:
                    self._is_full = False
                    self._source._resume_reading()
        finally:
            self._is_working = False
            self._task = None


def _is_cancelled() -> bool:
    """Whether this task was cancelled, for example because its loop ends; False in Python 3.10,
    which does not record it."""
    cancelling = getattr(asyncio.current_task(), "cancelling", None)
    return cancelling is not None and cancelling() > 0


def _size_of(arguments: tuple[Any, ...]) -> int:
    first = arguments[0] if arguments else ""
    return EVENT_OVERHEAD + (len(first) if isinstance(first, str | bytes) else 0)
