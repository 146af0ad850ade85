"""Follows the history of rooms without a gap.

The cursor of a room is the last message that was delivered in this process. A message that
follows on it is delivered at once; one that does not lets everything after the cursor be read
from the broker. So nothing is delivered twice, and nothing is left out that is still kept.

Where the broker has lost messages, or begun another history, that is reported as a loss before
the messages after it are delivered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..brokers.broker import Broker, BrokerError, ChannelsRefused, Offset, Page, Tip
from .envelope import Envelope, Kind
from .replay import Replay
from .replayed import Replayed
from .subscription import Subscription

if TYPE_CHECKING:
    from .worker import BusWorker

FIRST_PAGE, LARGEST_PAGE, PAGE_BYTES = 50, 4000, 1 << 20
"""Messages read at a time: few at first, and more while they are small."""

ATTEMPTS, BETWEEN_ATTEMPTS = 20, 0.05
"""How often, with pauses of seconds, the broker is asked for a message that it has published."""


class HistoryReader:
    """In the bus's thread."""

    def __init__(self, endpoint: BusWorker) -> None:
        self._worker = endpoint
        self.tasks: set[asyncio.Task[None]] = set()
        """They end with the session."""

    async def find_cursors(
        self,
        broker: Broker,
        rooms: list[Subscription],
        soon: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        """A room just joined begins at its end; one that was followed before catches up."""
        tips: list[Tip] = await soon(broker.tips([room.channel for room in rooms]))
        for room, tip in zip(rooms, tips, strict=True):
            if not room.has_been_ready:
                room.cursor = room.began = tip.offset
                continue
            report_loss = self._find_place(broker, room, tip)
            if report_loss or tip.offset > room.cursor:
                await self.catch_up(broker, room, tip.offset, report_loss)

    def go_on(self, room: Subscription) -> None:
        """The room is ready: something may have been heard while it was not."""
        self._go_on_with_held(room)
        if room.seen > room.cursor:
            self._start_resuming(self._broker, room)

    def received(
        self, room: Subscription, envelope: Envelope, offset: Offset, previous: Offset
    ) -> None:
        """A message that was kept has just been published."""
        broker = self._broker
        if not room.is_ready or room.is_catching_up:
            self._hold(room, envelope, offset, previous)
        elif offset <= room.cursor and broker.is_same_history(offset, room.cursor):
            if not room.sequences.is_known(envelope.node, envelope.number):
                # It was published before the room was subscribed to, or the history is another.
                self._start_resuming(broker, room)
        elif previous == room.cursor or broker.is_beginning(previous):
            # The beginning: all before it have grown too old, or the broker has forgotten them.
            # They were delivered here, as everything is that is published in a session.
            self._deliver(room, envelope, offset)
        else:
            self._hold(room, envelope, offset, previous)
            self._start_resuming(broker, room)

    @property
    def _broker(self) -> Broker:
        broker = self._worker.broker
        assert broker is not None
        return broker

    # Whether the broker still has the history

    def _find_place(self, broker: Broker, room: Subscription, tip: Tip) -> bool:
        """Set the cursor to where the room goes on in the broker's history. Returns whether
        messages were lost, which has been reported then."""
        is_same = broker.is_same_history(tip.offset, room.cursor)
        if is_same and tip.offset < room.cursor and broker.is_beginning(tip.offset):
            if self._may_have_expired():  # and nothing else has come
                return False
        elif is_same and tip.offset >= room.cursor and not self._is_another(room, tip):
            return False
        # All that the broker has of another history is new. If it has lost the end of this one,
        # others may have taken its place; those that were delivered here are known by number.
        begin = broker.beginning(tip.offset)
        room.cursor = min(max(room.began, begin), tip.offset) if is_same else begin
        room.began = room.seen = room.cursor
        room.identity = None
        room.held.clear()
        self._report_loss(room, None)
        return True

    def _may_have_expired(self) -> bool:
        """Whether the message at the cursor may have grown too old, and no other can have come
        and grown too old since."""
        history = self._worker.history
        assert history is not None
        return history.age is not None and self._worker.was_away <= history.age

    def _is_another(self, room: Subscription, tip: Tip) -> bool:
        """Whether the broker has another message at the cursor than was delivered here."""
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
        """It came before its time: what lies between has to be read first."""
        if room.held and room.held[-1][1] != previous:
            room.held.clear()
        room.held.append((envelope, offset, previous))
        room.seen = max(room.seen, offset)

    def _go_on_with_held(self, room: Subscription) -> None:
        """Deliver what is held, once it follows on the cursor."""
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
        room.is_catching_up = True  # now, so that the next message does not start it again
        self.start(self._resume_or_break(broker, room))

    async def _resume_or_break(self, broker: Broker, room: Subscription) -> None:
        try:
            await self.resume(broker, room)
        except ChannelsRefused as error:
            self._worker.refuse_room(room, str(error))
        except BrokerError as error:
            broker.fail(str(error))

    async def resume(self, broker: Broker, room: Subscription) -> None:
        """Look where the history of a room is, and deliver what has come after the cursor."""
        room.is_catching_up = True
        try:
            for _ in range(ATTEMPTS):
                await self._resume(broker, room)
                if room.seen <= room.cursor or not self.is_followed(room):
                    return
                await asyncio.sleep(BETWEEN_ATTEMPTS)
            self._report_loss(room, None)  # the broker does not have what was received
            room.cursor, room.identity = room.seen, None
            self._give_up(room)
        finally:
            room.is_catching_up = False

    async def _resume(self, broker: Broker, room: Subscription) -> None:
        (tip,) = await broker.tips([room.channel])
        if self.is_followed(room):
            report_loss = self._find_place(broker, room, tip)
            self._go_on_with_held(room)
            await self.catch_up(broker, room, tip.offset, report_loss)

    def is_followed(self, room: Subscription) -> bool:
        return self._worker.joined.get(room.name) is room

    async def catch_up(
        self, broker: Broker, room: Subscription, tip: Offset, report_loss: bool = False
    ) -> None:
        """Deliver what was kept after the cursor, up to `tip`; `report_loss` if a loss before that
        has been reported."""
        count = FIRST_PAGE
        while room.cursor < tip:
            page = await broker.read(room.channel, room.cursor, count, room.identity)
            self._worker.touch()
            if not self.is_followed(room):
                return
            report_loss = self._deliver_page(room, page) or report_loss
            if len(page.entries) < count and room.cursor < tip:
                self._report_loss(room, broker.count_between(room.cursor, tip))
                room.cursor, room.identity, report_loss = tip, None, True
            self._go_on_with_held(room)
            count = page.next_count(count, LARGEST_PAGE, PAGE_BYTES)
        if report_loss:
            self._give_up(room)

    def _deliver_page(self, room: Subscription, page: Page) -> bool:
        """Returns whether messages before the page were lost."""
        if page.missing != 0:
            self._report_loss(room, page.missing)
        for offset, data in page.entries:
            if offset > room.cursor:
                room.cursor, room.identity = offset, None
                envelope = self._worker.open(room.channel, data)
                if envelope is not None and envelope.kind in (Kind.MESSAGE, Kind.NEWER):
                    self._deliver(room, envelope, offset)
        return page.missing != 0

    def _give_up(self, room: Subscription) -> None:
        """Own messages may be among those that are not kept any more: they are delivered all the
        same, and not again if they do come back."""
        endpoint = self._worker
        for item in endpoint.outbox.not_back(room.name, acknowledged=True):
            endpoint.deliver_alone(item)

    # Replaying

    def replay(self, name: str, since: str, member: Replayed) -> None:
        """See `Bus.replay`."""
        Replay(self._worker, self, name, since, member).begin()

    def start(self, what: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it as long as the session lasts."""
        task = asyncio.ensure_future(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task
