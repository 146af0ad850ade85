"""Follows the history of rooms without a gap.

The cursor of a room is the offset of the last message that was delivered in this process. A message
that directly follows the cursor is delivered at once. Any other message makes this process read
everything after the cursor from the broker. No message is delivered twice, and no message that is
still stored is skipped.

If the broker has lost messages, or has started another history, a loss is reported before the
messages after it are delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..brokers.broker import Broker, BrokerError, ChannelsRefused, Offset, Page, Tip
from .envelope import Envelope, EnvelopeKind
from .replay import Replay
from .replay_target import ReplayTarget
from .subscription import Subscription

if TYPE_CHECKING:
    from .worker import BusWorker

FIRST_PAGE, MAX_PAGE, MAX_PAGE_BYTES = 50, 4000, 1 << 20
"""Messages read at a time, and bytes per page: few messages at first, more while they are small."""

MAX_ATTEMPTS, RETRY_INTERVAL_S = 20, 0.05
"""Attempts, and seconds between them, to read a message that the broker has published."""


class HistoryReader:
    """Sets cursors, detects gaps and catches up. Runs in the bus's thread."""

    def __init__(self, worker: BusWorker) -> None:
        self._worker = worker
        self.tasks: set[asyncio.Task[None]] = set()
        """Cancelled at the end of the session."""

    async def find_cursors(
        self,
        broker: Broker,
        rooms: list[Subscription],
        with_timeout: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        """Set the cursors of subscribed rooms.

        A room that was just joined starts at the end of its history. A room that was followed in an
        earlier session catches up.
        """
        tips: list[Tip] = await with_timeout(broker.tips([room.channel for room in rooms]))
        for room, tip in zip(rooms, tips, strict=True):
            if not room.has_been_ready:
                room.cursor = room.began = tip.offset
                continue
            loss_is_reported = self._align(broker, room, tip)
            if loss_is_reported or tip.offset > room.cursor:
                await self.catch_up(broker, room, tip.offset, loss_is_reported)

    def on_room_ready(self, room: Subscription) -> None:
        """Continue after the room became ready: messages may have been received before that."""
        self._deliver_held(room)
        if room.seen > room.cursor:
            self._start_resuming(self._broker, room)

    def received(
        self, room: Subscription, envelope: Envelope, offset: Offset, previous: Offset
    ) -> None:
        """Process a stored message that has just been published."""
        broker = self._broker
        if not room.is_ready or room.is_catching_up:
            self._hold(room, envelope, offset, previous)
        elif offset <= room.cursor and broker.is_same_history(offset, room.cursor):
            if not room.sequences.is_known(envelope.node, envelope.number):
                # It was published before the room was subscribed to, or the history is another one.
                self._start_resuming(broker, room)
        elif previous == room.cursor or broker.is_beginning(previous):
            # At the beginning, all earlier messages have expired or were lost by the broker. They
            # were delivered here, like every message published during a session.
            self._deliver(room, envelope, offset)
        else:
            self._hold(room, envelope, offset, previous)
            self._start_resuming(broker, room)

    @property
    def _broker(self) -> Broker:
        broker = self._worker.broker
        assert broker is not None
        return broker

    # Detecting another history

    def _align(self, broker: Broker, room: Subscription, tip: Tip) -> bool:
        """Set the cursor to the position from which the room continues in the broker's history.

        Returns whether messages were lost; the loss has been reported then.
        """
        is_same = broker.is_same_history(tip.offset, room.cursor)
        if is_same and tip.offset < room.cursor and broker.is_beginning(tip.offset):
            if self._may_have_expired():  # and nothing else has happened
                return False
        elif is_same and tip.offset >= room.cursor and not self._is_replaced(room, tip):
            return False
        # All messages of another history are new. If the broker has lost the end of this history,
        # other messages may be stored in its place; those already delivered here are recognized by
        # number.
        begin = broker.beginning(tip.offset)
        room.cursor = min(max(room.began, begin), tip.offset) if is_same else begin
        room.began = room.seen = room.cursor
        room.identity = None
        room.held.clear()
        self._report_loss(room, None)
        return True

    def _may_have_expired(self) -> bool:
        """Whether the message at the cursor may have expired, while no later message can have been
        published and expired."""
        history = self._worker.history
        assert history is not None
        return history.age is not None and self._worker.downtime_s <= history.age

    def _is_replaced(self, room: Subscription, tip: Tip) -> bool:
        """Whether the message at the cursor is not the one that was delivered here."""
        if tip.offset != room.cursor or tip.data is None or room.identity is None:
            return False
        envelope = self._worker.open(room.channel, tip.data)
        return envelope is None or (envelope.node, envelope.number) != room.identity

    def _report_loss(self, room: Subscription, count: int | None) -> None:
        self._worker.report_loss(room, count)
        room.sequences.reconnected()

    # Catching up

    @staticmethod
    def _hold(room: Subscription, envelope: Envelope, offset: Offset, previous: Offset) -> None:
        """Keep a message until the messages before it have been read."""
        if room.held and room.held[-1][1] != previous:
            room.held.clear()
        room.held.append((envelope, offset, previous))
        room.seen = max(room.seen, offset)

    def _deliver_held(self, room: Subscription) -> None:
        """Deliver the held messages that directly follow the cursor."""
        while room.held and room.held[0][1] <= room.cursor:
            room.held.popleft()
        while room.held and room.held[0][2] == room.cursor:
            envelope, offset, _ = room.held.popleft()
            self._deliver(room, envelope, offset)

    def _deliver(self, room: Subscription, envelope: Envelope, offset: Offset) -> None:
        room.cursor = offset
        room.identity = envelope.node, envelope.number
        self._worker.deliver(room, envelope, offset)

    def _start_resuming(self, broker: Broker, room: Subscription) -> None:
        room.is_catching_up = True  # set now, so that the next message does not start it again
        self.start(self._resume_or_fail(broker, room))

    async def _resume_or_fail(self, broker: Broker, room: Subscription) -> None:
        try:
            await self.resume(broker, room)
        except ChannelsRefused as error:
            self._worker.refuse_room(room, str(error))
        except BrokerError as error:
            broker.fail(str(error))

    async def resume(self, broker: Broker, room: Subscription) -> None:
        """Find the end of a room's history, and deliver the messages after the cursor."""
        room.is_catching_up = True
        try:
            for _ in range(MAX_ATTEMPTS):
                await self._resume(broker, room)
                if room.seen <= room.cursor or not self.is_followed(room):
                    return
                await asyncio.sleep(RETRY_INTERVAL_S)
            self._report_loss(room, None)  # the broker no longer has the received message
            room.cursor, room.identity = room.seen, None
            self._deliver_lost(room)
        finally:
            room.is_catching_up = False

    async def _resume(self, broker: Broker, room: Subscription) -> None:
        (tip,) = await broker.tips([room.channel])
        if self.is_followed(room):
            loss_is_reported = self._align(broker, room, tip)
            self._deliver_held(room)
            await self.catch_up(broker, room, tip.offset, loss_is_reported)

    def is_followed(self, room: Subscription) -> bool:
        return self._worker.joined.get(room.name) is room

    async def catch_up(
        self, broker: Broker, room: Subscription, tip: Offset, loss_is_reported: bool = False
    ) -> None:
        """Deliver the stored messages after the cursor, up to `tip`.

        `loss_is_reported`: a loss before them has been reported.
        """
        count = FIRST_PAGE
        while room.cursor < tip:
            page = await broker.read(room.channel, room.cursor, count, room.identity)
            self._worker.touch()
            if not self.is_followed(room):
                return
            loss_is_reported = self._deliver_page(room, page) or loss_is_reported
            if len(page.entries) < count and room.cursor < tip:
                self._report_loss(room, broker.count_between(room.cursor, tip))
                room.cursor, room.identity, loss_is_reported = tip, None, True
            self._deliver_held(room)
            count = page.next_count(count, MAX_PAGE, MAX_PAGE_BYTES)
        if loss_is_reported:
            self._deliver_lost(room)

    def _deliver_page(self, room: Subscription, page: Page) -> bool:
        """Deliver the messages of a page. Returns whether messages before it were lost."""
        if page.missing != 0:
            self._report_loss(room, page.missing)
        for offset, data in page.entries:
            if offset > room.cursor:
                room.cursor, room.identity = offset, None
                envelope = self._worker.open(room.channel, data)
                if envelope is not None and envelope.kind in (
                    EnvelopeKind.MESSAGE,
                    EnvelopeKind.NEWER,
                ):
                    self._deliver(room, envelope, offset)
        return page.missing != 0

    def _deliver_lost(self, room: Subscription) -> None:
        """Deliver own messages here that may have been lost with the history.

        If the broker does send them back, they are not delivered again.
        """
        worker = self._worker
        for item in worker.outbox.pending_echoes(room.name, acknowledged=True):
            worker.deliver_alone(item)

    # Replaying

    def replay(self, name: str, since: str, member: ReplayTarget) -> None:
        """See `Bus.replay`."""
        Replay(self._worker, self, name, since, member).begin()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until it ends or the session does."""
        task = asyncio.ensure_future(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
