"""All rooms of a process by name, and their connection to the bus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload
from weakref import WeakSet, WeakValueDictionary

from ..bus.bus import Bus
from ..bus.names import check_name
from ..bus.settings import BusSettings, BusState, BusStats, History
from ..engine.forks import in_forked_child
from ..engine.native_locks import native_lock
from ..errors import BusUnavailable, WebSocketError
from ..protocol.prepared import PreparedMessage
from ..websocket import WebSocket
from .catching_up import CatchingUp
from .delivery import Delivery
from .membership import Joining, Left
from .room import Room, try_to_send
from .slow_consumers import SlowConsumers
from .workers import warn_if_one_of_several

logger: logging.Logger = logging.getLogger("websocket_handler")

Listener = TypeVar("Listener", bound=Callable[..., object])
WithOffset = Callable[[str | bytes, str], str | bytes]

DEFAULT_SLOW_CONSUMERS = SlowConsumers()
DEFAULT_BUS_SETTINGS = BusSettings()
ANNOUNCE_DELAY_S = 0.02
"""Seconds during which presence changes are collected before they are announced."""

ANNOUNCE_AFTER_MOVE_S = 0.5
"""Seconds until it is announced that a member has left because it was moved."""

EVENTS = ("bus", "lost", "missed", "presence", "refused")


@dataclass(frozen=True, slots=True)
class RoomsStats:
    """Counters of the rooms in this process, returned by `Rooms.stats()`."""

    rooms: int
    """Rooms that have members now."""
    members: int
    """Members of all rooms; a WebSocket in two rooms counts twice."""
    delivered: Delivery
    """The sum of the `Delivery` of every message sent so far."""
    bus: BusStats | None
    """The counters of the bus; None without a broker."""


class Rooms:
    """Named groups of WebSockets: `rooms["lobby"].add(ws)`, `rooms["lobby"].send("hello")`.

    A room's name is any text. Rooms are created on first use and freed when they have no members
    and no references. With the URL of a broker, a message sent to a room reaches its members in
    every process that uses the same broker. A process that only sends needs no WebSocket and no web
    server.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        slow_consumers: SlowConsumers | Callable[[str], SlowConsumers] = DEFAULT_SLOW_CONSUMERS,
        history: History | None = None,
        add_offset: WithOffset | None = None,
        bus_settings: BusSettings = DEFAULT_BUS_SETTINGS,
    ) -> None:
        """Create the rooms of this process, or join those of other processes through a broker.

        `url` is local://NAME, which connects the processes of this user on one machine without a
        broker, or the URL of a Redis (redis://, rediss://, unix://, redis+cluster://,
        redis+sentinel://) or NATS (nats://, tls://) broker. None: rooms of this process only.

        `slow_consumers` is the policy for slow consumers: one `SlowConsumers` for every room, or a
        function that returns one for a room's name. `history` has the broker store messages, so
        that processes and members catch up after a disconnect. `add_offset(message, offset)`
        returns the message to send to members in place of `message`, so that it can include its
        offset. `bus_settings` are the settings of the bus.

        Raises `ValueError` if the URL is not valid, if `history` is given without `url`, or
        `add_offset` without `history`. Raises `ImportError` if the broker's library is not
        installed.
        """
        if history is not None and url is None:
            raise ValueError("a history needs a URL: local://NAME, or a Redis or NATS server")
        if add_offset is not None and history is None:
            raise ValueError("without a history messages have no offset")
        self._policy_of = slow_consumers if callable(slow_consumers) else lambda _: slow_consumers
        self._lock = native_lock()  # guards the fields below
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._delivered = Delivery()
        self._listeners: list[tuple[str, Callable[..., object]]] = []
        self._bus_lock = native_lock()  # keeps the calls to the bus in order
        self._joined: set[str] = set()
        self._to_announce: set[str] = set()
        self._has_checked_workers = False
        self._history = history
        self._with_offset = add_offset
        self._bus = (
            Bus(url, _Receiver(self), history=history, settings=bus_settings)
            if url is not None
            else None
        )
        _all_rooms.add(self)

    def __getitem__(self, name: str) -> Room:
        """Return the room of that name.

        Raises `TypeError` if the name is not a str, `ValueError` if it cannot be encoded as UTF-8.
        """
        with self._lock:
            room = self._rooms.get(name)
        if room is not None:
            return room
        check_name(name)
        made = Room(name, self._policy_of(name), self)  # unlocked: the policy may use `rooms`
        with self._lock:
            return self._rooms.setdefault(name, made)

    def __iter__(self) -> Iterator[Room]:
        """Iterate over the rooms that have members in this process."""
        with self._lock:
            rooms = list(self._rooms.values())
        return (room for room in rooms if len(room))

    @overload
    def on(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    def on(self, event: str, listener: Any = None) -> Any:
        """Call `listener` on every `event`. Without `listener`, returns a decorator.

        ======== ====================================================================
        bus      the `BusState` and a reason: the state of the bus has changed
        lost     the `Room`, and how many messages did not reach this process; None if
                 that is unknown, and may be 0
        missed   the `Room`, the `WebSocket` that was added with `since`, and how many
                 messages after that offset are no longer stored; None if unknown
        presence the `Room`, whose `presence()` has changed
        refused  the `Room`, "send to" or "receive from", and the broker's reason; emitted
                 for each message that did not reach the other processes
        ======== ====================================================================

        Listeners run in the thread that detects the event, and must not block. Raises `ValueError`
        for an unknown event.
        """
        if event not in EVENTS:
            raise ValueError(f"unknown event {event!r}, expected one of: {', '.join(EVENTS)}")
        if listener is None:
            return partial(self.on, event)
        self._listeners.append((event, listener))
        return listener

    @property
    def bus_state(self) -> BusState | None:
        """The state of the bus; None without a broker."""
        return self._bus.state if self._bus is not None else None

    def stats(self) -> RoomsStats:
        """Return the counters of the rooms and of the bus."""
        sizes = [len(room) for room in self]
        bus = self._bus.stats() if self._bus is not None else None
        return RoomsStats(len(sizes), sum(sizes), self._delivered, bus)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until the broker has every message sent so far. Returns whether it does.

        Blocks the calling thread for up to `timeout` seconds (None: no limit). On exit the process
        calls this itself, with `BusSettings.exit_timeout`.
        """
        return self._bus is None or self._bus.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Flush, then leave the broker. Returns the result of `flush`.

        The other processes are informed that this one has left. Members stay in their rooms.
        Sending then raises `BusUnavailable`, after the message has reached the members in this
        process.
        """
        return self._bus is None or self._bus.close(timeout)

    def __enter__(self) -> Rooms:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Called by `Room`

    def _send(
        self,
        room: Room,
        message: PreparedMessage,
        key: str | None,
        excluded: Collection[WebSocket],
    ) -> Delivery:
        if self._bus is None:
            return self._deliver(room, message, key, excluded)
        outgoing = self._bus.prepare(room.name, message.data, key)
        if self._history is not None:  # the broker sends it back, in the order of the history
            try:
                self._bus.publish(outgoing, excluded)
            except BusUnavailable:
                self._bus.deliver_here(outgoing, excluded)
                raise
            return Delivery()
        delivery = self._deliver(room, message, key, excluded)
        self._bus.publish(outgoing)
        return delivery

    def _deliver(
        self,
        room: Room,
        message: PreparedMessage,
        key: str | None,
        excluded: Collection[WebSocket],
    ) -> Delivery:
        delivery = room._deliver(message, key, excluded)
        self._count(delivery)
        return delivery

    def _count(self, delivery: Delivery) -> None:
        with self._lock:
            self._delivered += delivery

    def _members_changed(self, room: Room, identity: str | None) -> None:
        """Report to the bus that a member with this `identity` was added or removed."""
        self._update_bus(room, announce=identity is not None)
        if identity is not None:
            self._emit("presence", room)

    def _member_moved(self, room: Room, identity: str | None) -> None:
        """Make the identity of a moved member absent here, but later: the process to which it has
        moved announces it first, so that it is always present."""
        if self._bus is not None:
            forget = partial(room._forget_moved, identity)
            self._bus.call_later(ANNOUNCE_AFTER_MOVE_S, forget)
        else:
            room._forget_moved(identity)

    def _update_bus(self, room: Room, announce: bool = False) -> None:
        if self._bus is None:
            self._check_workers()
            return
        with self._bus_lock:
            if room._is_needed:
                if room.name not in self._joined:
                    self._bus.join(room.name)
                    self._joined.add(room.name)
                if announce and room.name not in self._to_announce:
                    self._to_announce.add(room.name)
                    self._bus.call_later(ANNOUNCE_DELAY_S, partial(self._announce, room))
            elif room.name in self._joined:
                self._joined.discard(room.name)
                self._bus.leave(room.name)

    def _check_workers(self) -> None:
        """Warn once in each process if other workers do not receive the messages."""
        if not self._has_checked_workers:
            self._has_checked_workers = True
            warn_if_one_of_several()

    def _announce(self, room: Room) -> None:
        """Announce the identities in the room, once for all changes since the last announcement."""
        assert self._bus is not None
        with self._bus_lock:
            self._to_announce.discard(room.name)
            if room.name in self._joined:
                self._bus.announce(room.name, room.identities)

    def _remote_presence(self, room: Room) -> dict[str, int]:
        return self._bus.present(room.name) if self._bus is not None else {}

    @property
    def _has_history(self) -> bool:
        """Whether the broker stores messages."""
        return self._bus is not None and self._history is not None

    def _check_history(self) -> None:
        if self._history is None:
            raise WebSocketError("since needs a history: Rooms(url, history=History())")

    def _replay(self, room: Room, websocket: WebSocket, joining: Joining) -> None:
        """Replay the messages after its offset to a WebSocket, then make it a member."""
        assert self._bus is not None
        assert joining.offset is not None
        self._update_bus(room)
        catching_up = CatchingUp(self, room, websocket, joining)
        self._bus.replay(room.name, joining.offset, catching_up)

    def _catch_up(self, member: WebSocket, message: str | bytes, offset: str) -> bool:
        """Send a message of the history to a WebSocket that is not a member yet.

        Returns False, having sent nothing, if the WebSocket is slow.
        """
        delivery = try_to_send(member, self._prepare(message, offset))
        if delivery is not None:
            self._count(delivery)
        return delivery is not None

    def _is_stored(self, room: Room, member: WebSocket) -> bool:
        """Whether the broker has every message that a member has received, or must not receive."""
        if self._bus is None or not self._has_history:
            return True
        pending = self._bus.pending_echoes(room.name)
        excluded: list[Any] = [item.context or () for item in pending]
        return (
            not any(item.is_early for item in pending)
            and not any(member in members for members in excluded)
            and not room._is_excluded_from_replay(member)
        )

    def _at_offset(
        self, room: Room, member: WebSocket, call: Callable[[str | None], Left | None]
    ) -> Left | None:
        """Return the result of `call` with the offset of the last message that was delivered."""
        if self._bus is None or not self._has_history:
            return call(None)
        return self._bus.at_offset(room.name, call, lambda: self._is_stored(room, member))

    def _key_of(self, room: Room) -> str:
        """Return the name of a room's history; "" if there is none."""
        if self._bus is None or not self._has_history:
            return ""
        return f"{self._bus.url} {room.name}"

    def _call_later(self, delay: float, call: Callable[[], object]) -> None:
        assert self._bus is not None
        self._bus.call_later(delay, call)

    def _wait_until_subscribed(self, room: Room, timeout: float | None) -> bool:
        return self._bus is None or self._bus.wait_until_subscribed(room.name, timeout)

    async def _until_subscribed(self, room: Room) -> bool:
        return self._bus is None or await self._bus.until_subscribed(room.name)

    # Called by the bus

    def _prepare(self, message: str | bytes, offset: str | None) -> PreparedMessage:
        if self._with_offset is not None and offset is not None:
            message = self._with_offset(message, offset)
        return PreparedMessage(message)

    def _emit(self, event: str, *arguments: object) -> None:
        meant_for_process: BaseException | None = None
        for name, listener in list(self._listeners):
            if name == event:
                try:
                    Context().run(listener, *arguments)
                except BaseException as error:
                    logger.exception("a listener of the rooms event %r raised", event)
                    if isinstance(error, KeyboardInterrupt | SystemExit):
                        meant_for_process = error
        if meant_for_process is not None:
            raise meant_for_process

    def _reset(self) -> None:
        """Forget the members in a forked child: the connections belong to its parent."""
        self._lock, self._bus_lock = native_lock(), native_lock()
        self._joined.clear()
        self._to_announce.clear()
        self._has_checked_workers = False
        for room in list(self._rooms.values()):
            room._reset()


class _Receiver:
    """Receives the calls of the bus, in the bus's thread."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def deliver(
        self,
        room: str,
        message: str | bytes,
        key: str | None,
        offset: str | None,
        context: object,
    ) -> None:
        found = self._rooms._rooms.get(room)
        if found is not None:
            prepared = self._rooms._prepare(message, offset)
            excluded: Any = context or ()
            if excluded and offset is not None:
                found._exclude_from_replay(excluded, offset)
            self._rooms._deliver(found, prepared, key, excluded)

    def bus_changed(self, state: BusState, reason: str) -> None:
        self._rooms._emit("bus", state, reason)

    def lost(self, room: str, count: int | None) -> None:
        self._rooms._emit("lost", self._rooms[room], count)

    def refused(self, room: str, action: str, reason: str) -> None:
        self._rooms._emit("refused", self._rooms[room], action, reason)

    def presence_changed(self, room: str) -> None:
        self._rooms._emit("presence", self._rooms[room])


_all_rooms: WeakSet[Rooms] = WeakSet()


@in_forked_child
def _after_fork_in_child() -> None:
    for rooms in list(_all_rooms):
        rooms._reset()
