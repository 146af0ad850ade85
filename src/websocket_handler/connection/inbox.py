# cython: binding=False
"""Queues for received messages that the application reads instead of registering a listener.

There are three: a `Backlog` before there is a listener or a reader, a `LoopInbox` for coroutines
and a `ThreadInbox` for threads. Each pauses reading from the peer while it has more than
`high_water` bytes. `put` and `end` are called in the engine's thread.

This file is Python; compiled with the types of inbox.pxd it is part of the native engine.

A coroutine is resumed without a Future and without an iteration of the event loop per message: a
Task accepts any awaitable that behaves like a Future. `LoopInbox` is such an object and is awaited
again and again; when a message arrives, it calls the Task's wake-up callback directly, with a
Future that is done: a Task takes the result of a Future itself, without a call of `result`.
`__anext__` returns a `NextMessage`, which costs less than a coroutine; one whose message is queued
already is complete at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sys
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context, copy_context
from types import TracebackType
from typing import Any, Protocol

from ..errors import ConnectionClosed, ConnectionMoved, WebSocketError

MAX_TAKEN = 64
"""Entries of taken messages that a list of queued messages keeps at its start."""

MESSAGE_OVERHEAD = 64
"""Bytes that a queued message counts beside its length, so that empty ones are bounded too."""


if sys.version_info >= (3, 12):
    from asyncio import current_task
else:  # there, `asyncio.current_task` is written in Python and costs more than waking the Task
    current_task = asyncio.tasks._current_tasks.get  # type: ignore[attr-defined]


class NoLoop:
    """The loop of a Future that nothing waits for."""

    def get_debug(self) -> bool:
        return False


DONE: asyncio.Future[None] = asyncio.Future(loop=NoLoop())  # type: ignore[arg-type]
"""The argument of the wake-up callback of every Task that was not cancelled."""

DONE.set_result(None)


class Source(Protocol):
    """The connection that the messages are received on."""

    def _pause_for_backlog(self) -> None: ...
    def _resume_reading(self) -> None: ...
    def _in_engine(self, call: Callable[[], object]) -> None: ...


class Backlog:
    """The messages received before there is a listener or a reader."""

    def __init__(self, source: Source, high_water: int) -> None:
        self.messages: list[Any] = []
        self.listener: Callable[[Any], object] | None = None  # will soon receive the messages
        self.is_full = False
        self._source = source
        self._room = high_water

    def put(self, message: Any) -> None:
        self.messages.append(message)
        self._room -= len(message) + MESSAGE_OVERHEAD
        if self._room < 0 and not self.is_full:
            self.is_full = True
            self._source._pause_for_backlog()

    def amount(self) -> int:
        """Return the bytes of the queued messages, with `MESSAGE_OVERHEAD` for each."""
        return sum(len(message) + MESSAGE_OVERHEAD for message in self.messages)


class _Inbox:
    """Base of both inboxes: counts the bytes that were received and those that were taken.

    Each count is changed in one thread only, so it needs no lock.
    """

    def __init__(self, source: Source, high_water: int) -> None:
        self._source: Source | None = source
        self._high_water = high_water
        self._came = 0
        self._taken = 0
        self.is_full: bool = False
        self.has_moved: bool = False  # another process receives the messages after the end

    @property
    def is_ended(self) -> bool:
        """Whether the connection is closed and no message follows those that are queued."""
        return self._source is None

    def amount(self) -> int:
        """Return the bytes of the queued messages, with `MESSAGE_OVERHEAD` for each."""
        return self._came - self._taken

    def _count_arrival(self, message: Any) -> None:
        size = len(message)
        self._came += size + MESSAGE_OVERHEAD

    def _pause_if_full(self) -> None:
        if self._came - self._taken > self._high_water and not self.is_full:
            self.is_full = True
            if self._source is not None:
                self._source._pause_for_backlog()
            self._go_on_if_taken()  # the reader may have taken messages meanwhile

    def _count_taken(self, message: Any) -> None:
        size = len(message)
        self._taken += size + MESSAGE_OVERHEAD
        if self.is_full:
            self._go_on_if_taken()

    def _go_on_if_taken(self) -> None:
        if self._came - self._taken <= self._high_water // 4:
            self.is_full = False
            if self._source is not None:
                self._source._in_engine(self._source._resume_reading)


class ThreadInbox(_Inbox):
    """For `receive()` and `for message in websocket` in threads."""

    def __init__(self, source: Source, high_water: int) -> None:
        super().__init__(source, high_water)
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()  # gevent's if it has patched
        self._end: tuple[int, str, str] | None = None  # the arguments of `ConnectionClosed`
        self._waiting = 0  # threads that wait for a message

    def put(self, message: Any) -> None:
        self._queue.put(message)
        self._count_arrival(message)
        self._pause_if_full()

    def end(self, code: int, reason: str, limit: str = "") -> None:
        """The connection is closed; the messages received before can still be taken."""
        self._source = None
        self._end = (code, reason, limit)
        self._queue.put(None)

    def forget_after_fork(self, code: int, reason: str) -> None:
        """In a forked child: like `end`, but discard the messages, which the parent has too."""
        self._queue = queue.SimpleQueue()
        self.end(code, reason)

    def get(self, timeout: float | None) -> str | bytes:
        """Return the next message. Raises `TimeoutError` if none arrived in time,
        `ConnectionClosed` after the last message."""
        self._waiting += 1
        try:
            message = self._queue.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no message arrived within {timeout} seconds") from None
        finally:
            self._waiting -= 1
        if message is None:
            self._queue.put(None)  # for the next call
            if self.has_moved:
                raise ConnectionMoved
            assert self._end is not None
            raise ConnectionClosed(*self._end)
        self._count_taken(message)
        return message  # type: ignore[no-any-return]

    @property
    def is_waited_for(self) -> bool:
        """Whether a thread waits for the next message: it has finished with the one before."""
        return self._waiting > 0

    def take_all(self) -> list[Any]:
        """Remove and return the queued messages, while nothing is received."""
        messages = []
        with contextlib.suppress(queue.Empty):
            while True:
                messages.append(self._queue.get_nowait())
        return messages

    def put_back(self, messages: list[Any]) -> None:
        """Undo `take_all`."""
        for message in messages:
            self._queue.put(message)


class LoopInbox(_Inbox):
    """For `await websocket.areceive()` and `async for message in websocket`.

    `__anext__` returns the next message. After the last one it raises `StopAsyncIteration` if the
    close code is in `normal_close_codes`, else `ConnectionClosed`. Except `put` and `end`,
    everything runs in the thread of `loop`; `same_loop` means that the engine runs in `loop`, too.
    """

    def __init__(
        self,
        source: Source,
        high_water: int,
        loop: asyncio.AbstractEventLoop,
        same_loop: bool,
        normal_close_codes: tuple[int, ...],
    ) -> None:
        super().__init__(source, high_water)
        self._loop = loop
        self.same_loop = same_loop
        self._normal_close_codes = normal_close_codes
        self._first: Any = None  # the next message; usually the only one
        self._others: list[Any] | None = None  # those after it; taken ones are None
        self._next_other = 0  # index of the first that was not taken
        self._end: tuple[int, str, str] | None = None  # the arguments of `ConnectionClosed`
        self._wakeup: Callable[[Any], object] | None = None  # callback of the waiting Task
        self._context: Context | None = None
        self._cancellation: str | None = None
        self._is_cancelled = False
        self._asyncio_future_blocking = False

    # From the engine

    def put(self, message: Any) -> None:
        self._count_arrival(message)
        if self.same_loop:
            self.accept(message)  # `end_read` is called after all messages of this read
        else:
            self._pause_if_full()
            self._loop.call_soon_threadsafe(self._accept_threadsafe, message)

    def end_read(self) -> None:
        """All messages of a read were put: resume the waiting Task, and pause reading only if it
        leaves too many of them, so that a large message alone does not pause it. Only if
        `same_loop`."""
        self.wake()
        self._pause_if_full()

    def end(self, code: int, reason: str, limit: str = "") -> None:
        """The connection is closed; the messages received before can still be taken."""
        self._source = None
        if self.same_loop:
            self._accept_end(code, reason, limit)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._accept_end, code, reason, limit)

    def forget_after_fork(self, code: int, reason: str) -> None:
        """In a forked child: like `end`, but discard the messages, which the parent has too."""
        self._source = self._first = self._others = self._wakeup = self._context = None
        self._next_other = 0
        self._end = (code, reason, "")

    def accept(self, message: Any) -> None:
        """Queue the message."""
        if self._first is None:
            self._first = message
        else:
            if self._others is None:
                self._others = []
            self._others.append(message)

    def _accept_threadsafe(self, message: Any) -> None:
        self.accept(message)
        self.wake()

    def _accept_end(self, code: int, reason: str, limit: str) -> None:
        self._end = (code, reason, limit)
        if not self._loop.is_closed():  # the end of the loop may have closed the connection
            self._loop.call_soon(self.wake)

    def wake(self) -> None:
        """Resume the waiting Task, in its own context, as the event loop would."""
        wakeup, context = self._wakeup, self._context
        if wakeup is None or context is None:
            return
        if current_task(self._loop) is not None:  # one Task cannot resume another
            self._loop.call_soon(self.wake)
            return
        self._wakeup = self._context = None
        context.run(wakeup, self if self._is_cancelled else DONE)

    @property
    def has_message(self) -> bool:
        """Whether the next message can be taken without waiting."""
        return self._first is not None

    @property
    def is_waited_for(self) -> bool:
        """Whether a coroutine waits for the next message: it has finished with the one before."""
        return self._wakeup is not None

    def take_all(self) -> list[Any]:
        """Remove and return the queued messages, in the loop's thread while nothing is received."""
        messages: list[Any] = []
        while self._first is not None:
            messages.append(self._remove_first())
        return messages

    def put_back(self, messages: list[Any]) -> None:
        """Undo `take_all`. In the loop's thread."""
        for message in messages:
            self.accept(message)

    # Methods of an asynchronous iterator and an awaitable

    def __aiter__(self) -> LoopInbox:
        return self

    def __anext__(self) -> Awaitable[str | bytes]:
        return next_message(self)

    def take(self) -> Any:
        """Remove and return the next message. Returns None if the Task must wait for it.

        Raises `StopAsyncIteration` or `ConnectionClosed` after the last message, `WebSocketError`
        if another coroutine is waiting.
        """
        if self._first is None:
            self._begin_to_wait()
            return None
        message = self._remove_first()
        self._count_taken(message)
        return message

    def _remove_first(self) -> Any:
        message = self._first
        others = self._others
        if others is None:
            self._first = None
            return message
        self._first = others[self._next_other]
        others[self._next_other] = None
        self._next_other += 1
        if self._next_other == len(others):
            self._others = None
            self._next_other = 0
        elif self._next_other > MAX_TAKEN and 2 * self._next_other > len(others):
            del others[: self._next_other]
            self._next_other = 0
        return message

    def _begin_to_wait(self) -> None:
        if self._end is not None:
            if self.has_moved:
                raise ConnectionMoved
            if self._end[0] in self._normal_close_codes:
                raise StopAsyncIteration
            raise ConnectionClosed(*self._end)
        if self._wakeup is not None:
            raise WebSocketError("another coroutine is already waiting for a message")
        self._asyncio_future_blocking = True  # the Task waits for this object as for a Future

    # Methods of a Future that a Task calls

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(
        self, wakeup: Callable[[Any], object], *, context: Context | None = None
    ) -> None:
        self._wakeup = wakeup
        self._context = copy_context() if context is None else context

    def cancel(self, msg: str | None = None) -> bool:
        """Cancel the waiting Task. A message that arrives now is returned by the next call."""
        if self._wakeup is None:
            return False
        self._is_cancelled = True
        self._cancellation = msg
        self._loop.call_soon(self.wake)
        return True

    def result(self) -> None:
        if self._is_cancelled:
            self._is_cancelled = False
            message = self._cancellation
            raise asyncio.CancelledError() if message is None else asyncio.CancelledError(message)


class FramelessCoroutine:
    """An awaitable that has the methods of a coroutine (`collections.abc.Coroutine`), so it can be
    the coroutine of a Task, too, but no frame. A subclass implements `resume`."""

    _value: Any  # after `resume`: the result, or the object that the Task must wait for

    def __await__(self) -> Generator[Any, None, Any]:
        return self

    def __iter__(self) -> FramelessCoroutine:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: object) -> Any:
        """Return the object that the Task must wait for, else raise `StopIteration` with the
        result."""
        has_ended = self.resume()
        value, self._value = self._value, None
        if has_ended:
            raise StopIteration(value)
        return value

    def resume(self) -> bool:
        """Continue, and set `_value`. Returns whether it has ended."""
        raise NotImplementedError

    def throw(
        self,
        kind: Any,
        value: Any = None,
        traceback: TracebackType | None = None,
    ) -> Any:
        """End, and raise the exception: nothing is taken from the inbox."""
        self.close()
        if isinstance(kind, BaseException):
            value = kind
        elif not isinstance(value, BaseException):
            value = kind() if value is None else kind(value)
        raise value if traceback is None else value.with_traceback(traceback)

    def close(self) -> None:
        """End without a result."""
        raise NotImplementedError


class NextMessage(FramelessCoroutine):
    """The awaitable that `LoopInbox.__anext__` returns. Its Task waits for the inbox as for a
    Future."""

    _inbox: LoopInbox | None  # None once it has ended

    def resume(self) -> bool:
        inbox = self._inbox
        if inbox is None:
            raise RuntimeError("cannot reuse already awaited __anext__()")
        self._inbox = None
        message = inbox.take()
        if message is None:
            self._inbox = self._value = inbox
            return False
        self._value = message
        return True

    def close(self) -> None:
        """End without a message."""
        self._inbox = None


def next_message(inbox: LoopInbox) -> NextMessage:
    """Return a new `NextMessage`. Compiled, this is an allocation without calls."""
    awaitable = NextMessage.__new__(NextMessage)
    awaitable._inbox = inbox
    return awaitable
