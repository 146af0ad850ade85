"""The bus: carries what is sent to rooms from process to process, through a broker.

This file is what other threads see of it; `BusWorker` does the work, in a thread of its own.
Knows rooms by name and messages as text or bytes, nothing of WebSockets.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import weakref
from collections.abc import Callable, Mapping

from ..brokers.broker import KINDS, broker_class
from ..brokers.broker_url import parse_broker_url
from ..engine.native_locks import native_lock
from ..errors import BusUnavailable
from .envelope import encode_content
from .listener import BusListener
from .names import room_channel
from .outbox import Outbox, Prepared
from .presence import check_identities
from .replayed import Replayed
from .settings import BusSettings, BusState, BusStats, History
from .thread import BusThread, wait_until
from .worker import BusWorker

logger = logging.getLogger("websocket_handler")


class Bus:
    """Carries what is sent to rooms from process to process, through a broker.

    Everything here may be called from any thread, and never waits unless it says so. The
    connection is made at the first use, and made again whenever it is lost. A forked child
    begins anew at its first use: it has joined no room, and what waits is its parent's to send.

    Without a history the caller delivers its own messages itself, before it publishes them.
    With one they come back to it by `deliver`, in the order that all processes see.
    """

    def __init__(
        self,
        url: str,
        node: BusListener,
        *,
        history: History | None = None,
        settings: BusSettings = BusSettings(),  # noqa: B008  (it is frozen)
    ) -> None:
        """`url`: redis://, rediss://, unix://, redis+cluster://, rediss+cluster://,
        redis+sentinel://, rediss+sentinel://, nats://, tls:// or nats+tls://. Raises ValueError
        for any other, and ImportError that names the extra where the broker's library is
        missing."""
        self._url = parse_broker_url(url)
        self._kind = KINDS[self._url.scheme]
        self._broker_class = broker_class(self._kind)
        self._rooms = node
        self._history = history
        self._settings = settings
        self._begin()
        _buses.add(self)

    def _begin(self) -> None:
        self._lock = native_lock()
        self._node = os.urandom(8)
        self._outbox = Outbox(self._node, self._settings.queue_size, self._settings.queue_bytes)
        self._joined: set[str] = set()
        self._thread: BusThread | None = None
        self._is_closed = False
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
    def state(self) -> BusState:
        return self._worker.state if not self._is_closed else BusState.CLOSED

    def start(self) -> None:
        """Connect now, rather than at the first use."""
        self._post(self._worker.wake)

    # Messages

    def prepare(self, room: str, message: str | bytes, key: str | None = None) -> Prepared:
        """Check and encode a message for `publish`. Raises ValueError if it is over the
        broker's limit, or it, the key or the room's name is text that UTF-8 cannot write."""
        channel = room_channel(room)
        prepared = Prepared(room, channel, message, key, encode_content(message, key))
        limit = self._worker.limit or self._kind.assumed_limit
        if prepared.size > limit:
            raise ValueError(
                f"a message of {prepared.size} bytes is over the broker's limit of {limit}"
            )
        return prepared

    def publish(self, prepared: Prepared, context: object = None) -> None:
        """Send to all processes that have joined the room. Raises `BusUnavailable` if too much
        waits already, if the broker is away and the settings say so, or after `close`."""
        if self._is_closed:
            raise BusUnavailable("the bus is closed")
        endpoint = self._worker
        if self._settings.on_unavailable == "raise" and endpoint.state is BusState.DOWN:
            raise BusUnavailable("the broker is away")
        comes_back = self._history is not None
        is_local = comes_back and prepared.room in self._joined
        item, is_first = self._outbox.put(prepared, context, is_local, comes_back)
        if is_first or self._thread is None:
            self._post(endpoint.wake)
        if is_local and endpoint.state is BusState.DOWN:
            self._post(endpoint.deliver_early, item)

    def deliver_here(self, prepared: Prepared, context: object = None) -> None:
        """Deliver a message that `publish` did not take to this process alone, after those that
        it has taken."""
        what = prepared.room, prepared.message, prepared.key, None, context
        if self._is_closed or not self._post(self._worker.call, self._rooms.deliver, *what):
            self._rooms.deliver(*what)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until what was published so far is with the broker, at most `timeout` seconds;
        whether it is. Not in the bus's thread, which cannot wait for itself: False."""
        if self._thread is not None and self._thread.is_current():
            return len(self._outbox) == 0
        return self._outbox.flush(timeout)

    # Rooms

    def join(self, room: str) -> None:
        """This process wants what is sent to the room."""
        room_channel(room)  # ValueError here rather than there
        self._post(self._worker.join, room)
        self._joined.add(room)  # after that: what is sent to it now is published later

    def leave(self, room: str) -> None:
        """It does not any more, and nobody is there in this process."""
        if room in self._joined:
            self._joined.discard(room)
            self._post(self._worker.leave, room)

    def wait_until_subscribed(self, room: str, timeout: float | None = None) -> bool:
        """Wait until what others send to a joined room from then on comes here, at most `timeout`
        seconds. Returns whether it does: False if the room is left, refused or not joined, or
        after `close`. In the bus's thread, which cannot wait for itself, it does not wait."""
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
        """As `wait_until_subscribed`, for coroutines."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def tell(is_subscribed: bool) -> None:
            if not answer.done():
                answer.set_result(is_subscribed)

        def tell_loop(is_subscribed: bool) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, is_subscribed)

        if not self._post(self._worker.when_subscribed, room, tell_loop):
            return False
        while not answer.done() and not self._has_ended:
            await asyncio.wait({answer}, timeout=1)
        return answer.done() and answer.result()

    @property
    def _has_ended(self) -> bool:
        return self._thread is not None and self._thread.has_ended

    def announce(self, room: str, who: Mapping[str, int]) -> None:
        """Who is in a joined room in this process now: identity -> connections. Raises
        ValueError for an identity of more than 1,024 characters."""
        check_identities(who)
        self._post(self._worker.announce, room, dict(who))

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        """Make `call` in the bus's thread, in `delay` seconds."""
        self._post(self._worker.call_later, delay, call)

    def present(self, room: str) -> dict[str, int]:
        """Who is in a joined room in the other processes: identity -> connections there."""
        return self._worker.presence.known.present(room)

    def replay(self, room: str, since: str, member: Replayed) -> None:
        """With a history: give a member what came to a joined room after the offset `since`.

        In the bus's thread, `member.give` is called for each message up to the last one that was
        delivered here, and then `member.admit`, so that the next `deliver` goes on exactly
        there. `member.failed(error)` instead of `admit`: ValueError for a `since` that is no
        offset or a room that is not joined, `BusUnavailable` if the broker is away.
        """
        if self._history is None:
            raise ValueError("there is no history to replay")
        self._post(self._worker.recall.replay, room, since, member)

    # The end

    def close(self, timeout: float | None = None) -> bool:
        """Wait as `flush` does, tell the others that everyone here is gone, and disconnect.
        Whether all that was published is with the broker."""
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
        """Returns whether it will be called in the bus's thread: not after the end of that."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._is_closed:
                    thread = BusThread("websocket-handler bus")
                    thread.start(self._worker.run)
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
                "%d messages have not reached the broker before the end of the process",
                len(self._outbox),
            )


_buses: weakref.WeakSet[Bus] = weakref.WeakSet()

_started: set[Bus] = set()
"""They live until they are closed, at the latest at the end of the process."""

_parents: list[object] = []
"""What a forked child has of its parent: kept, so that nobody closes what is the parent's."""


def _after_fork_in_child() -> None:
    for bus in list(_buses):
        bus._after_fork_in_child()


def _at_exit() -> None:
    for bus in list(_started):
        bus._at_exit()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
