"""All rooms of a process, by their names, and what connects them with those of others."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator
from contextvars import Context
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload
from weakref import WeakSet, WeakValueDictionary

from ..bus.bus import Bus
from ..bus.names import check_name
from ..bus.settings import BusSettings, BusState, BusStats, History
from ..engine.native_locks import native_lock
from ..errors import BusUnavailable, WebSocketError
from ..protocol.prepared import PreparedMessage
from ..websocket import WebSocket
from .catching_up import CatchingUp
from .delivery import Delivery
from .room import Room, try_to_send
from .slow_consumers import SlowConsumers

logger = logging.getLogger("websocket_handler")

Listener = TypeVar("Listener", bound=Callable[..., object])
WithOffset = Callable[[str | bytes, str], str | bytes]

CLOSED_WHEN_FULL = SlowConsumers()
DEFAULT_BUS_SETTINGS = BusSettings()
ANNOUNCE_AFTER = 0.02
"""Seconds for which changes of who is in a room collect, before others are told."""

EVENTS = ("bus", "lost", "missed", "presence", "refused")


@dataclass(frozen=True, slots=True)
class RoomsStats:
    """What went through the rooms of this process: `Rooms.stats()`."""

    rooms: int
    """Those that have members now."""
    members: int
    """Of all of them; who is in two rooms counts twice."""
    delivered: Delivery
    """The sum of what became of every message so far, here."""
    bus: BusStats | None
    """What the bus has done, if there is one."""


class Rooms:
    """Named groups of WebSockets: `rooms["lobby"].add(ws)`, `rooms["lobby"].send("hello")`.

    A name may be any text. A room exists as long as it has members or somebody holds it.
    With the URL of a broker, what is sent to a room reaches its members in all processes
    that use the same broker; sending needs no WebSockets, and no web server.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        slow_consumers: SlowConsumers | Callable[[str], SlowConsumers] = CLOSED_WHEN_FULL,
        history: History | None = None,
        add_offset: WithOffset | None = None,
        bus_settings: BusSettings = DEFAULT_BUS_SETTINGS,
    ) -> None:
        """`url` is that of a Redis (redis://, rediss://, unix://, redis+cluster://,
        redis+sentinel://) or NATS (nats://, tls://); without it (None) the rooms are those of
        this process alone.

        `slow_consumers` says what becomes of messages to members that are behind: the same in every
        room, or what it returns for the name of each. With a `history` the broker keeps
        messages, so that processes and members that were away catch up; `add_offset` makes
        of a message and its offset in the history what the members get. `bus_settings` are
        those of the transport between processes.

        Raises `ValueError` for a URL of another kind, or for a history or `add_offset` without
        what it needs; `ImportError` if the broker's library is missing.
        """
        if history is not None and url is None:
            raise ValueError("a history needs a broker: the url of a Redis or NATS")
        if add_offset is not None and history is None:
            raise ValueError("without a history messages have no offset")
        self._policy_of = slow_consumers if callable(slow_consumers) else lambda _: slow_consumers
        self._lock = native_lock()  # for what follows
        self._rooms: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self._delivered = Delivery()
        self._listeners: list[tuple[str, Callable[..., object]]] = []
        self._joining = native_lock()  # for what the bus is told of members, in their order
        self._joined: set[str] = set()
        self._to_announce: set[str] = set()
        self._history = history
        self._with_offset = add_offset
        self._bus = (
            Bus(url, _Receiver(self), history=history, settings=bus_settings)
            if url is not None
            else None
        )
        _of_this_process.add(self)

    def __getitem__(self, name: str) -> Room:
        """The room of that name. Raises `TypeError` if that is no str, `ValueError` if it is text
        that UTF-8 cannot write."""
        with self._lock:
            room = self._rooms.get(name)
        if room is not None:
            return room
        check_name(name)
        made = Room(name, self._policy_of(name), self)  # without a lock: it may look at rooms
        with self._lock:
            return self._rooms.setdefault(name, made)

    def __iter__(self) -> Iterator[Room]:
        """The rooms that have members in this process."""
        with self._lock:
            rooms = list(self._rooms.values())
        return (room for room in rooms if len(room))

    @overload
    def on(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    def on(self, event: str, listener: Any = None) -> Any:
        """Call `listener` at every `event`; without `listener`, a decorator that does so.

        ======== ====================================================================
        bus      the `BusState`, and why: the broker is away, or back
        lost     the `Room`, and how many messages have not come here, None if that
                 cannot be known
        missed   the `Room`, the `WebSocket` that was added with `since`, and how many
                 messages after that are not kept any more, None if that cannot be known
        presence the `Room`, of which `present` has changed
        refused  the `Room`, "send to" or "receive from", and why the broker refuses it:
                 called for each message that did not reach the other processes
        ======== ====================================================================

        They are called in whatever thread notices, and must not block. Raises `ValueError`
        for an unknown event.
        """
        if event not in EVENTS:
            raise ValueError(f"there is no event {event!r}, only {', '.join(EVENTS)}")
        if listener is None:
            return partial(self.on, event)
        self._listeners.append((event, listener))
        return listener

    @property
    def bus_state(self) -> BusState | None:
        """How the bus stands to its broker; None without one."""
        return self._bus.state if self._bus is not None else None

    def stats(self) -> RoomsStats:
        """An account of what happened so far."""
        sizes = [len(room) for room in self]
        bus = self._bus.stats() if self._bus is not None else None
        return RoomsStats(len(sizes), sum(sizes), self._delivered, bus)

    def flush(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds until what was sent is with the broker; for threads.
        Returns whether it is. The end of the process does this for a while by itself."""
        return self._bus is None or self._bus.flush(timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Leave the broker, after `flush`, and tell the other processes that nobody is here.
        Returns what `flush` does. Members stay, and what is sent still reaches those here."""
        return self._bus is None or self._bus.close(timeout)

    def __enter__(self) -> Rooms:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What rooms call

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
        if self._history is not None:  # the bus brings it back, in its place
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
        delivery = room.deliver(message, key, excluded)
        self._count(delivery)
        return delivery

    def _count(self, delivery: Delivery) -> None:
        with self._lock:
            self._delivered += delivery

    def _members_changed(self, room: Room, identity: str | None) -> None:
        """One has come or left; `identity` is its own, if it has one."""
        self._tell_bus(room, announce=identity is not None)
        if identity is not None:
            self._emit("presence", room)

    def _tell_bus(self, room: Room, announce: bool = False) -> None:
        if self._bus is None:
            return
        with self._joining:
            if room.is_needed:
                if room.name not in self._joined:
                    self._bus.join(room.name)
                    self._joined.add(room.name)
                if announce and room.name not in self._to_announce:
                    self._to_announce.add(room.name)
                    self._bus.call_later(ANNOUNCE_AFTER, partial(self._announce, room))
            elif room.name in self._joined:
                self._joined.discard(room.name)
                self._bus.leave(room.name)

    def _announce(self, room: Room) -> None:
        """Tell the other processes who is here, once for all who came and left meanwhile."""
        assert self._bus is not None
        with self._joining:
            self._to_announce.discard(room.name)
            if room.name in self._joined:
                self._bus.announce(room.name, room.identities)

    def _present_elsewhere(self, room: Room) -> dict[str, int]:
        return self._bus.present(room.name) if self._bus is not None else {}

    def _check_history(self) -> None:
        if self._history is None:
            raise WebSocketError("since needs a history: Rooms(url, history=History())")

    def _replay(self, room: Room, websocket: WebSocket, since: str) -> None:
        """Have the member given what came after `since`, then admitted."""
        assert self._bus is not None
        self._tell_bus(room)
        self._bus.replay(room.name, since, CatchingUp(self, room, websocket))

    def _catch_up(self, member: WebSocket, message: str | bytes, offset: str) -> bool:
        """Send a message of the history to a member that is not admitted yet. Returns False if
        it is behind; then nothing is sent."""
        delivery = try_to_send(member, self._prepare(message, offset))
        if delivery is not None:
            self._count(delivery)
        return delivery is not None

    def _call_later(self, delay: float, call: Callable[[], object]) -> None:
        assert self._bus is not None
        self._bus.call_later(delay, call)

    def _wait_until_subscribed(self, room: Room, timeout: float | None) -> bool:
        return self._bus is None or self._bus.wait_until_subscribed(room.name, timeout)

    async def _until_subscribed(self, room: Room) -> bool:
        return self._bus is None or await self._bus.until_subscribed(room.name)

    # What the bus calls

    def _prepare(self, message: str | bytes, offset: str | None) -> PreparedMessage:
        if self._with_offset is not None and offset is not None:
            message = self._with_offset(message, offset)
        return PreparedMessage(message)

    def _emit(self, event: str, *arguments: object) -> None:
        for name, listener in list(self._listeners):
            if name == event:
                try:
                    Context().run(listener, *arguments)
                except Exception:
                    logger.exception("a listener of the rooms' %r raised", event)

    def _begin_anew(self) -> None:
        """In a forked child: the parent's connections are not here."""
        self._lock, self._joining = native_lock(), native_lock()
        self._joined.clear()
        self._to_announce.clear()
        for room in list(self._rooms.values()):
            room.begin_anew()


class _Receiver:
    """What the bus tells, in its own thread."""

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
            self._rooms._deliver(found, prepared, key, context or ())  # type: ignore[arg-type]

    def bus_changed(self, state: BusState, reason: str) -> None:
        self._rooms._emit("bus", state, reason)

    def lost(self, room: str, count: int | None) -> None:
        self._rooms._emit("lost", self._rooms[room], count)

    def refused(self, room: str, action: str, reason: str) -> None:
        self._rooms._emit("refused", self._rooms[room], action, reason)

    def presence_changed(self, room: str) -> None:
        self._rooms._emit("presence", self._rooms[room])


_of_this_process: WeakSet[Rooms] = WeakSet()


def _after_fork_in_child() -> None:
    for rooms in list(_of_this_process):
        rooms._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
