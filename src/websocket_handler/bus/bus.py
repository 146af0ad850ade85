"""The bus carries the messages of rooms between processes, through a broker.

This file is the interface for other threads. `BusWorker` does the work, in the bus's own thread.
The bus knows rooms by name and messages as text or bytes. It does not know WebSockets.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TypeVar

from ..brokers.broker import KINDS, broker_class
from ..brokers.broker_url import BrokerURL, parse_broker_url
from ..engine.forks import in_forked_child
from ..engine.native_locks import native_lock
from ..errors import BusUnavailable
from .envelope import encode_content
from .listener import BusListener
from .names import room_channel
from .outbox import Outbox, Outgoing, Prepared
from .presence import check_identities
from .replay_target import ReplayTarget
from .settings import BusSettings, BusState, BusStats, History
from .thread import BusThread, wait_until
from .worker import BusWorker

logger: logging.Logger = logging.getLogger("websocket_handler")

AT_OFFSET_TIMEOUT_S = 1.0
AT_OFFSET_RETRY_S = 0.01

Result = TypeVar("Result")


class Bus:
    """Carries the messages of rooms between processes, through a broker.

    All methods are safe to call from any thread, and do not block unless their docstring says so.
    The bus connects at its first use, and reconnects whenever the connection is lost. In a forked
    child it starts again at its first use: without joined rooms, and without the queued messages,
    which the parent sends.

    Without a history, the caller delivers its own messages itself before it publishes them. With a
    history, the broker sends them back, and the bus calls `deliver` for them in the order that all
    processes see.
    """

    def __init__(
        self,
        url: str,
        node: BusListener,
        *,
        history: History | None = None,
        settings: BusSettings = BusSettings(),  # noqa: B008  (it is frozen)
    ) -> None:
        """Create a bus; it does not connect yet.

        `url` begins with local://, redis://, rediss://, unix://, redis+cluster://,
        rediss+cluster://, redis+sentinel://, rediss+sentinel://, nats://, tls:// or nats+tls://.
        Raises `ValueError` if it is not valid, and `ImportError`, which names the extra to install,
        if the broker's library is missing.
        """
        self._url = parse_broker_url(url)
        self._kind = KINDS[self._url.scheme]
        self._broker_class = broker_class(self._kind)
        self._rooms = node
        self._history = history
        self._settings = settings
        self._is_closed = False
        self._begin()
        _buses.add(self)

    def _begin(self) -> None:
        self._lock = native_lock()
        self._node = os.urandom(8)
        self._outbox = Outbox(self._node, self._settings.queue_size, self._settings.queue_bytes)
        self._joined: set[str] = set()
        self._thread: BusThread | None = None
        self._worker = BusWorker(
            self._url,
            self._broker_class,
            self._node,
            self._rooms,
            self._outbox,
            self._history,
            self._settings,
            self._joined,
        )

    @property
    def url(self) -> BrokerURL:
        return self._url

    @property
    def state(self) -> BusState:
        return self._worker.state if not self._is_closed else BusState.CLOSED

    def start(self) -> None:
        """Connect now instead of at the first use."""
        self._post(self._worker.wake)

    # Messages

    def prepare(self, room: str, message: str | bytes, key: str | None = None) -> Prepared:
        """Check and encode a message for `publish`.

        Raises `ValueError` if the message is over the broker's size limit, or if the message, the
        key or the room's name cannot be encoded as UTF-8.
        """
        channel = room_channel(room)
        prepared = Prepared(room, channel, message, key, encode_content(message, key))
        limit = self._worker.limit or self._kind.assumed_limit
        if prepared.size > limit:
            raise ValueError(
                f"a message of {prepared.size} bytes is over the broker's limit of {limit} bytes"
            )
        return prepared

    def publish(self, prepared: Prepared, context: object = None) -> None:
        """Queue a message for all processes that have joined the room.

        Raises `BusUnavailable` if the queue is full, after `close`, and, with
        `on_unavailable="raise"`, while the broker is unreachable.
        """
        if self._is_closed:
            raise BusUnavailable("the bus is closed")
        worker = self._worker
        if self._settings.on_unavailable == "raise" and worker.state is BusState.DOWN:
            raise BusUnavailable("the broker is unreachable")
        expects_echo = self._history is not None
        is_local = expects_echo and prepared.room in self._joined
        item, is_first = self._outbox.put(prepared, context, is_local, expects_echo)
        if is_first or self._thread is None:
            self._post(worker.wake)
        if is_local and worker.state is BusState.DOWN:
            self._post(worker.deliver_early, item)

    def deliver_here(self, prepared: Prepared, context: object = None) -> None:
        """Deliver a message that `publish` rejected in this process only, after the messages that
        it accepted."""
        arguments = prepared.room, prepared.message, prepared.key, None, context
        if self._is_closed or not self._post(self._worker.call, self._rooms.deliver, *arguments):
            self._rooms.deliver(*arguments)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the broker has every message published so far. Returns whether it does.

        Blocks for up to `timeout` seconds (None: no limit). In the bus's own thread it does not
        block, and returns whether the queue is empty.
        """
        if self._thread is not None and self._thread.is_current():
            return len(self._outbox) == 0
        return self._outbox.flush(timeout)

    # Rooms

    def join(self, room: str) -> None:
        """Join a room: this process receives its messages from now on."""
        room_channel(room)  # raises ValueError here, not in the bus's thread
        self._post(self._worker.join, room)
        self._joined.add(room)  # after the post, so that it precedes later messages

    def leave(self, room: str) -> None:
        """Leave a room that no longer has members in this process."""
        if room in self._joined:
            self._joined.discard(room)
            self._post(self._worker.leave, room)

    def wait_until_subscribed(self, room: str, timeout: float | None = None) -> bool:
        """Wait until messages that other processes send to a joined room reach this process.

        Blocks for up to `timeout` seconds (None: no limit). Returns False on a timeout, if the room
        was left, refused or not joined, or after `close`. In the bus's own thread it does not
        block.
        """
        answers: list[bool] = []
        thread = self._thread
        if thread is not None and thread.is_current():
            self._worker.when_subscribed(room, answers.append)
            return answers == [True]
        if not self._post(self._worker.when_subscribed, room, answers.append):
            return False
        wait_until(lambda: bool(answers) or self._has_ended, timeout)
        return answers == [True]

    async def until_subscribed(self, room: str) -> bool:
        """Like `wait_until_subscribed`, but awaitable and without a timeout."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def set_answer(is_subscribed: bool) -> None:
            if not answer.done():
                answer.set_result(is_subscribed)

        def set_answer_threadsafe(is_subscribed: bool) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(set_answer, is_subscribed)

        if not self._post(self._worker.when_subscribed, room, set_answer_threadsafe):
            return False
        while not answer.done() and not self._has_ended:
            await asyncio.wait({answer}, timeout=1)
        return answer.done() and answer.result()

    @property
    def _has_ended(self) -> bool:
        return self._thread is not None and self._thread.has_ended

    def announce(self, room: str, identities: Mapping[str, int]) -> None:
        """Announce the members of a joined room in this process: identity -> number of connections.

        Raises `ValueError` if an identity has more than 1,024 characters.
        """
        check_identities(identities)
        self._post(self._worker.announce, room, dict(identities))

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        """Make `call` in the bus's thread after `delay` seconds."""
        self._post(self._worker.call_later, delay, call)

    def present(self, room: str) -> dict[str, int]:
        """Return the members of a joined room in other processes: identity -> number of
        connections."""
        return self._worker.presence.known.present(room)

    def replay(self, room: str, since: str, member: ReplayTarget) -> None:
        """Replay the messages of a joined room after the offset `since`. Needs a history.

        In the bus's thread, calls `member.try_send` for each message up to the last one that was
        delivered in this process, and then `member.on_caught_up`. The next `deliver` follows
        without a gap. On a failure, calls `member.on_error` instead of `member.on_caught_up`: with
        a `ValueError` if `since` is not a valid offset or the room is not joined, with
        `BusUnavailable` if the broker is unreachable.
        """
        if self._history is None:
            raise ValueError("there is no history to replay")
        self._post(self._worker.history_reader.replay, room, since, member)

    def at_offset(
        self, room: str, call: Callable[[str | None], Result], is_allowed: Callable[[], bool]
    ) -> Result:
        """Return the result of `call` with the offset of the last message that was delivered here;
        None if the joined room has not been ready yet.

        `call` is made in the bus's thread, while no message is being delivered, and as soon as
        `is_allowed()` returns True. Blocks; raises `TimeoutError` after `AT_OFFSET_TIMEOUT_S`.
        Needs a history.
        """
        results: list[Result] = []
        calls = [call]  # popped by the thread that makes the call, or by this one at the end

        def make() -> None:
            if is_allowed():
                with contextlib.suppress(IndexError):
                    made = calls.pop()
                    results.append(made(self._worker.offset_of(room)))

        end = time.monotonic() + AT_OFFSET_TIMEOUT_S
        while not results:
            if not self._post(make):  # the thread has ended
                make()
            wait_until(lambda: bool(results), AT_OFFSET_RETRY_S)
            if time.monotonic() > end and calls:
                with contextlib.suppress(IndexError):
                    calls.pop()
                    raise TimeoutError("the broker has not stored all messages")
            if time.monotonic() > end + AT_OFFSET_TIMEOUT_S:  # `call` has raised
                raise TimeoutError("the bus does not answer")
        return results[0]

    def pending_echoes(self, room: str) -> list[Outgoing]:
        """Return the messages to a room that the broker has not sent back. Needs a history."""
        return self._outbox.pending_echoes(room)

    # Closing

    def close(self, timeout: float | None = None) -> bool:
        """Flush, announce to the other processes that this one has left, and disconnect.

        Returns whether the broker has every published message. Blocks for up to `timeout` seconds
        for the flush, and up to 3 seconds for the disconnection.
        """
        with self._lock:
            self._is_closed = True
            thread = self._thread
        if thread is None:
            return len(self._outbox) == 0
        _started.discard(self)
        is_flushed = self.flush(timeout)
        thread.post(self._worker.close)
        if not thread.is_current():
            wait_until(lambda: thread.has_ended, 3.0)
        return is_flushed

    def stats(self) -> BusStats:
        numbers = vars(self._worker.counters)
        return BusStats(
            state=self.state,
            rooms=self._worker.ready_rooms,
            queued=len(self._outbox),
            queued_bytes=self._outbox.size,
            **numbers,
        )

    def _post(self, call: object, *arguments: object) -> bool:
        """Have `call` called in the bus's thread, which is started if necessary.

        Returns False if the bus is closed or its thread has ended. Raises `BusUnavailable` if the
        thread cannot be started: the next call tries again.
        """
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._is_closed:
                    try:
                        thread = BusThread("websocket-handler bus")
                        thread.start(self._worker.run)
                    except (RuntimeError, OSError, MemoryError) as error:
                        raise BusUnavailable(f"the bus cannot start: {error}") from error
                    self._thread = thread
                    _started.add(self)
        return self._thread is not None and self._thread.post(call, *arguments)  # type: ignore[arg-type]

    # Fork and exit

    def _after_fork_in_child(self) -> None:
        if self._thread is not None:
            _started.discard(self)
            _parents.append((self._thread, self._worker))
            self._thread.abandon()
        self._begin()

    def _at_exit(self) -> None:
        if not self.close(self._settings.exit_timeout):
            logger.warning(
                "%d messages were not delivered to the broker before exit",
                len(self._outbox),
            )


_buses: weakref.WeakSet[Bus] = weakref.WeakSet()

_started: set[Bus] = set()
"""Buses with a thread, kept alive until they are closed, on exit at the latest."""

_parents: list[object] = []
"""Objects of the parent process, kept in a forked child so that their sockets are not closed."""


@in_forked_child
def _after_fork_in_child() -> None:
    for bus in list(_buses):
        bus._after_fork_in_child()


def _at_exit() -> None:
    for bus in list(_started):
        bus._at_exit()


atexit.register(_at_exit)
