"""Replays the messages that a member has missed, from the history of a room, at the peer's pace.

Messages are read page by page, and no page stays in memory while the member cannot take more. The
replay ends at the room's cursor, where live delivery continues. The cursor may advance during the
replay. Messages that are no longer stored are reported to this member only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING

from ..brokers.broker import Broker, BrokerError, ChannelsRefused, Offset, Page
from ..errors import BusUnavailable
from .envelope import EnvelopeKind
from .replay_target import ReplayTarget
from .settings import BusState
from .subscription import Subscription

if TYPE_CHECKING:
    from .history import HistoryReader
    from .worker import BusWorker

logger: logging.Logger = logging.getLogger("websocket_handler")

FIRST_PAGE, MAX_PAGE, MAX_PAGE_BYTES = 50, 1000, 1 << 18
"""Messages read at a time, and bytes per page: few messages at first, more while they are small and
the member takes them."""

UNAVAILABLE = "the history is unavailable: the broker is unreachable"


BEGINNING = "0-0"
"""The text of the offset before the first message."""


def offset_text(offset: Offset) -> str:
    return "-".join(map(str, offset))


class Replay:
    """Replays messages to one member. Runs in the bus's thread."""

    def __init__(
        self,
        worker: BusWorker,
        history_reader: HistoryReader,
        name: str,
        since: str,
        member: ReplayTarget,
    ) -> None:
        self._worker = worker
        self._history_reader = history_reader
        self._name = name
        self._since = since
        self._member = member
        self._missing: int | None = 0  # reported so far, before the next message

    def begin(self) -> None:
        """Start now, or when the room is subscribed to. Fails if the broker is known to be
        unreachable, unless the member waits for it."""
        room, state = self._worker.joined.get(self._name), self._worker.state
        if room is None:
            self._fail(ValueError(f"room {self._name!r} is not joined in this process"))
        elif room.is_ready:
            self._start(room)
        elif self._member.waits_for_broker and state is not BusState.CLOSED:
            room.when_subscribed.append(self._on_ready)
        elif state in (BusState.DOWN, BusState.CLOSED):
            self._fail(BusUnavailable(UNAVAILABLE))
        else:
            room.when_ready.append(self._on_ready)

    def _on_ready(self, is_ready: bool) -> None:
        room = self._worker.joined.get(self._name)
        if is_ready and room is not None:
            self._start(room)
        else:
            self._fail(BusUnavailable(UNAVAILABLE))

    def _start(self, room: Subscription) -> None:
        broker = self._worker.broker
        assert broker is not None
        task = self._history_reader.start(self._run(broker, room))
        task.add_done_callback(partial(self._on_done, broker, room))

    def _on_done(self, broker: Broker, room: Subscription, task: asyncio.Task[None]) -> None:
        """Handle the end of the task. If the session has ended, the replay continues in the next
        one."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, ChannelsRefused):
            self._fail(BusUnavailable(str(error)))
            return
        if isinstance(error, BrokerError):
            broker.fail(str(error))
        elif error is not None:
            logger.error("the replay of room %r failed", room.name, exc_info=error)
            self._fail(error)  # type: ignore[arg-type]
            return
        if task.cancelled() or error is not None:
            room.when_subscribed.append(self._on_ready)

    def _fail(self, error: Exception) -> None:
        self._worker.call(self._member.on_error, error)

    async def _run(self, broker: Broker, room: Subscription) -> None:
        try:
            position = await self._align(broker, room, broker.parse_offset(self._since))
            await self._read_on(broker, room, position)
        except ValueError as error:
            self._fail(error)
        else:
            if not self._member.has_left:
                self._worker.call(self._member.on_caught_up)

    async def _align(self, broker: Broker, room: Subscription, position: Offset) -> Offset:
        """Return the offset after which to read.

        `position` may be in this history, in another one, or beyond the cursor of this process.
        """
        while room.is_catching_up:
            await asyncio.sleep(0.001)
        if not position:
            return broker.beginning(room.cursor)
        if not broker.is_same_history(position, room.cursor) or position > room.cursor:
            await self._history_reader.resume(broker, room)
        if not broker.is_same_history(position, room.cursor):
            self._report_missing(None)
            return broker.beginning(room.cursor)
        if position > room.cursor:  # the broker has lost the end of the history
            self._report_missing(None)
        return position

    async def _read_on(self, broker: Broker, room: Subscription, position: Offset) -> None:
        """Replay the messages from `position` to the cursor, which may advance in the meantime.

        Returns without an `await` after the last comparison with the cursor.
        """
        count = FIRST_PAGE
        while position < room.cursor and not self._member.has_left:
            wanted = room.cursor
            page = await broker.read(room.channel, position, count, None)
            self._worker.touch()
            if self._member.has_left:  # meanwhile, and another process may go on from its offset
                return
            if page.missing not in (0, self._missing) and self._missing is not None:
                self._report_missing(page.missing)
            taken = self._replay_page(room, page)
            if taken:
                position, self._missing = page.entries[taken - 1][0], 0
                self._since = offset_text(position)
            if taken == len(page.entries):
                if taken < count and position < wanted:
                    self._report_missing(broker.count_between(position, wanted))
                    position = wanted
                count = page.next_count(count, MAX_PAGE, MAX_PAGE_BYTES)
            elif page.entries[taken][0] > room.cursor:
                return
            else:
                del page  # read again later rather than kept in memory
                await self._until_ready()
                count = max(1, min(2 * taken, count))

    def _replay_page(self, room: Subscription, page: Page) -> int:
        """Replay the messages of a page up to the cursor, while the member is ready. Returns how
        many."""
        for index, (offset, data) in enumerate(page.entries):
            if offset > room.cursor or not self._replay_entry(room, offset, data):
                return index
        return len(page.entries)

    def _replay_entry(self, room: Subscription, offset: Offset, data: bytes) -> bool:
        envelope = self._worker.open(room.channel, data)
        if envelope is not None and envelope.kind is EnvelopeKind.NEWER:
            self._worker.call(self._member.on_missed, 1)
        if envelope is None or envelope.kind is not EnvelopeKind.MESSAGE:
            return True
        try:
            return self._member.try_send(envelope.message, offset_text(offset))
        except BaseException:  # a `SystemExit` would end the bus
            logger.exception("could not replay a message of room %r", room.name)
            return True

    def _report_missing(self, missing: int | None) -> None:
        before, self._missing = self._missing, missing
        count = None if missing is None or before is None else missing - before
        self._worker.call(self._member.on_missed, count)

    async def _until_ready(self) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(ready.set)

        self._member.call_when_ready(wake)
        await ready.wait()
