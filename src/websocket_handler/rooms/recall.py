"""The history of rooms: follow it without a gap, and tell it to those who come back.

The cursor of a room is the last message that was delivered in this process. A message that
follows on it is delivered at once; one that does not lets everything after the cursor be read
from the broker. So nothing is delivered twice, and nothing is left out that is still kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from ..errors import BusUnavailable
from .broker import Broker, BrokerError, ChannelsRefused, Offset, Page
from .envelope import Envelope, Kind
from .joined import Joined

if TYPE_CHECKING:
    from .endpoint import Endpoint

FIRST_PAGE, LARGEST_PAGE, PAGE_BYTES = 50, 4000, 1 << 20
"""Messages read at a time: few at first, and more while they are small."""

Give = Callable[[str | bytes, str], object]
Admit = Callable[[str | None], object]
Failed = Callable[[Exception], object]


def offset_text(offset: Offset) -> str:
    return "-".join(map(str, offset))


def next_count(count: int, page: Page) -> int:
    """How many to read after a page that was to have `count`."""
    size = sum(len(data) for _, data in page.entries)
    if size > PAGE_BYTES:
        return max(1, count // 2)
    return min(2 * count, LARGEST_PAGE) if 2 * size <= PAGE_BYTES else count


class Recall:
    """In the bus's thread."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.tasks: set[asyncio.Task[None]] = set()
        """They end with the session."""

    # Following

    async def find_cursors(
        self,
        broker: Broker,
        rooms: list[Joined],
        soon: Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]],
    ) -> None:
        """A room just joined begins at its end; one that was followed before catches up."""
        tips: list[Offset] = await soon(broker.tips([room.channel for room in rooms]))
        for room, tip in zip(rooms, tips, strict=True):
            if not room.has_been_ready:
                room.cursor = room.began = tip
            elif not tip:
                self._has_expired(room)
            elif tip < room.cursor:
                # The broker has lost the end of the history, all of it if less is left than
                # there was when the room was joined: then whatever there is is new.
                room.cursor = room.seen = tip if tip >= room.began else ()
                self._endpoint.has_lost(room, None)
            if tip > room.cursor:
                await self._catch_up(broker, room, tip)

    def go_on(self, room: Joined) -> None:
        """The room is ready: something may have been heard while it was not."""
        self._go_on_with_held(room)
        if room.seen > room.cursor:
            self._start_catching_up(self._broker, room)

    def _has_expired(self, room: Joined) -> None:
        """Nothing is kept of the room: if it was for less than messages are kept, none came."""
        history = self._endpoint.history
        assert history is not None
        if room.cursor and history.age is not None and self._endpoint.was_away > history.age:
            self._endpoint.has_lost(room, None)

    def received(self, room: Joined, envelope: Envelope, offset: Offset, previous: Offset) -> None:
        """A message that was kept has just been published."""
        if not room.is_ready or room.is_catching_up:
            self._hold(room, envelope, offset, previous)
        elif offset <= room.cursor:
            if not room.sequences.is_known(envelope.node, envelope.number):
                room.is_catching_up = True
                self._start(self._check_history(self._broker, room))
        elif previous in (room.cursor, ()):  # (): all before it have grown too old
            room.cursor = offset
            self._endpoint.deliver(room, envelope, offset)
        else:
            self._hold(room, envelope, offset, previous)
            self._start_catching_up(self._broker, room)

    @property
    def _broker(self) -> Broker:
        broker = self._endpoint.broker
        assert broker is not None
        return broker

    @staticmethod
    def _hold(room: Joined, envelope: Envelope, offset: Offset, previous: Offset) -> None:
        """It came before its time: what lies between has to be read first."""
        if room.held and room.held[-1][1] != previous:
            room.held.clear()
        room.held.append((envelope, offset, previous))
        room.seen = max(room.seen, offset)

    def _go_on_with_held(self, room: Joined) -> None:
        """Deliver what is held, once it follows on the cursor."""
        while room.held and room.held[0][1] <= room.cursor:
            room.held.popleft()
        while room.held and room.held[0][2] == room.cursor:
            envelope, room.cursor, _ = room.held.popleft()
            self._endpoint.deliver(room, envelope, room.cursor)

    def _start_catching_up(self, broker: Broker, room: Joined) -> None:
        room.is_catching_up = True  # now, so that the next message does not start it again
        self._start(self._catch_up_or_break(broker, room))

    async def _check_history(self, broker: Broker, room: Joined) -> None:
        """A message that is not after the cursor was not delivered here: it was sent before the
        room was joined, or the broker has lost the history and begun another."""
        try:
            (tip,) = await broker.tips([room.channel])
        except ChannelsRefused as error:
            room.is_catching_up = False
            self._endpoint.refuse_room(room, str(error))
        except BrokerError as error:
            broker.has_broken(str(error))
        else:
            room.is_catching_up = False
            if self._endpoint.joined.get(room.name) is not room:
                return
            if tip < room.cursor:
                self._endpoint.has_lost(room, None)
                room.held.clear()
                room.cursor, room.seen = (), tip
            self.go_on(room)

    async def _catch_up_or_break(self, broker: Broker, room: Joined) -> None:
        try:
            await self._catch_up(broker, room)
        except ChannelsRefused as error:
            self._endpoint.refuse_room(room, str(error))
        except BrokerError as error:
            broker.has_broken(str(error))

    async def _catch_up(self, broker: Broker, room: Joined, tip: Offset = ()) -> None:
        """Deliver what was kept after the cursor: up to what was last heard of, or to `tip`."""
        room.is_catching_up = True
        endpoint = self._endpoint
        count = FIRST_PAGE
        try:
            while True:
                wanted = max(room.seen, tip)
                page = await broker.read(room.channel, room.cursor, count)
                endpoint.has_heard()
                if endpoint.joined.get(room.name) is not room:
                    return
                if page.missing != 0:
                    endpoint.has_lost(room, page.missing)
                for offset, data in page.entries:
                    if offset > room.cursor:
                        room.cursor = offset
                        self._deliver(room, offset, data)
                if page.missing != 0:
                    self._give_up(room)
                self._go_on_with_held(room)
                if len(page.entries) < count and wanted > room.cursor:
                    room.cursor = wanted  # what was heard of is not kept any more
                    endpoint.has_lost(room, None)
                if room.cursor >= tip if tip else room.seen <= room.cursor:
                    return
                count = next_count(count, page)
        finally:
            room.is_catching_up = False

    def _deliver(self, room: Joined, offset: Offset, data: bytes) -> None:
        envelope = self._endpoint.open(room.channel, data)
        if envelope is not None and envelope.kind in (Kind.MESSAGE, Kind.NEWER):
            self._endpoint.deliver(room, envelope, offset)

    def _give_up(self, room: Joined) -> None:
        """Own messages among those that are not kept any more: they are delivered all the same."""
        for item in self._endpoint.outbox.not_back(room.name, acknowledged=True):
            self._endpoint.outbox.back(room.name, item.number)
            what = item.prepared
            if not item.is_early:
                self._endpoint.call(
                    self._endpoint.rooms.deliver,
                    *(what.room, what.message, what.key, None, item.context),
                )

    # Telling

    def replay(self, name: str, since: str, give: Give, admit: Admit, failed: Failed) -> None:
        """See `Bus.replay`."""
        endpoint = self._endpoint
        room = endpoint.joined.get(name)
        broker = endpoint.broker
        if room is None:
            endpoint.call(failed, ValueError(f"room {name!r} is not joined in this process"))
        elif room.is_ready and broker is not None:
            self._start(self._replay(broker, room, since, give, admit, failed))
        elif endpoint.state.value in ("down", "closed"):
            endpoint.call(failed, BusUnavailable("the broker is away, and with it the history"))
        else:

            def go_on(is_ready: bool) -> None:
                if is_ready:
                    self.replay(name, since, give, admit, failed)
                else:
                    why = BusUnavailable("the broker is away, and with it the history")
                    endpoint.call(failed, why)

            room.when_ready.append(go_on)

    async def _replay(
        self, broker: Broker, room: Joined, since: str, give: Give, admit: Admit, failed: Failed
    ) -> None:
        try:
            position = broker.parse_offset(since)
            await self._reach(broker, room, position)
            await self._read_on(broker, room, position, give)
        except ValueError as error:
            self._endpoint.call(failed, error)
        except BrokerError as error:
            if not isinstance(error, ChannelsRefused):
                broker.has_broken(str(error))
            self._endpoint.call(failed, BusUnavailable(str(error)))
        except asyncio.CancelledError:
            self._endpoint.call(failed, BusUnavailable("the connection to the broker has ended"))
            raise
        else:
            self._endpoint.call(admit, offset_text(room.cursor) if room.cursor else None)

    async def _reach(self, broker: Broker, room: Joined, position: Offset) -> None:
        """Someone has seen in another process what has not come here yet."""
        if position <= room.cursor:
            return
        (tip,) = await broker.tips([room.channel])
        if position > tip:  # of a history that the broker has lost
            self._endpoint.call(self._endpoint.rooms.lost, room.name, None)
            return
        while room.is_catching_up:
            await asyncio.sleep(0.001)
        if position > room.cursor:
            room.seen = max(room.seen, position)
            await self._catch_up(broker, room)

    async def _read_on(self, broker: Broker, room: Joined, position: Offset, give: Give) -> None:
        """From `position` to the cursor, wherever that has come meanwhile. Returns without
        having waited for anything since it looked at the cursor."""
        count = FIRST_PAGE
        while position < room.cursor:
            wanted = room.cursor
            page = await broker.read(room.channel, position, count)
            if page.missing != 0:
                self._endpoint.call(self._endpoint.rooms.lost, room.name, None)
            for offset, data in page.entries:
                if offset > room.cursor:
                    return
                position = offset
                envelope = self._endpoint.open(room.channel, data)
                if envelope is not None and envelope.kind is Kind.MESSAGE:
                    self._endpoint.call(give, envelope.message, offset_text(offset))
            if len(page.entries) < count:  # whatever else there was is not kept any more
                position = max(position, wanted)
            count = next_count(count, page)

    def _start(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
