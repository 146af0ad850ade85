"""One room: who is in it, and sending to all of them.

Members that keep up are served by `engine.fan_out`, in native code, from one frame; the few
that are behind, or have their codec in Python, one by one here.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TypeAlias

from ..connection import Connection
from ..engine import fan_out
from ..errors import ConnectionClosed, UnsupportedByVersion, WebSocketError
from ..protocol.prepared import PreparedMessage
from ..protocol.state import State
from ..websocket import WebSocket
from .delivery import Delivery
from .policy import SlowConsumers
from .slow_member import SlowMember

logger = logging.getLogger("websocket_handler")


Send: TypeAlias = "Callable[[Room, PreparedMessage, str | None, Collection[WebSocket]], Delivery]"


class Room:
    """The WebSockets that get what is sent to the room; from `Rooms`, by its name.

    Everything may be called from any thread, listener or coroutine, and nothing waits.
    """

    def __init__(
        self,
        name: str,
        policy: SlowConsumers,
        send: Send,
        changed: Callable[[Room], object] = lambda _: None,
    ) -> None:
        """For `Rooms`, which sends. `changed` is called when members have come or left."""
        self.name = name
        self._policy = policy
        self._send = send
        self._changed = changed
        self.begin_anew()

    def begin_anew(self) -> None:
        """Without members, as in a forked child."""
        self._lock = threading.Lock()  # for what follows
        self._members: dict[WebSocket, str | None] = {}  # and who they are
        self._everyone: tuple[WebSocket, ...] | None = ()  # the same, until it changes
        self._slow: dict[WebSocket, SlowMember] = {}

    def __repr__(self) -> str:
        return f"<Room {self.name!r}: {len(self)} here>"

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, websocket: object) -> bool:
        return websocket in self._members

    def __iter__(self) -> Iterator[WebSocket]:
        return iter(self.members)

    @property
    def members(self) -> tuple[WebSocket, ...]:
        """Those in this process, in the order they came."""
        with self._lock:
            if self._everyone is None:
                self._everyone = tuple(self._members)
            return self._everyone

    @property
    def identities(self) -> Counter[str]:
        """Who is here, as `add` was told, with how many connections; in this process."""
        with self._lock:
            return Counter(who for who in self._members.values() if who is not None)

    def add(self, websocket: WebSocket, who: str | None = None) -> None:
        """A member more, after its `connect()`; it leaves by itself when it is closed.

        `who` is its identity for `present`: the user's name, perhaps. Adding one again changes
        that alone, adding one that is closed does nothing. Raises `WebSocketError` before
        `connect()`.
        """
        if websocket.outcome is None:
            raise WebSocketError("connect() has not been called")
        if websocket.state is State.CLOSED:
            return
        with self._lock:
            is_new = websocket not in self._members
            self._members[websocket] = who
            self._everyone = None
        if is_new:
            websocket._in_engine(partial(websocket._become_member, self._leave))
        self._changed(self)

    def discard(self, websocket: WebSocket) -> None:
        """A member less, or nothing."""
        if websocket in self._members:
            websocket._in_engine(partial(websocket._end_membership, self._leave))
            self._leave(websocket)

    def send(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
        key: str | None = None,
    ) -> Delivery:
        """Send to every member, but to those to `exclude`: text for str, binary for bytes-like.

        Returns what became of it in this process. `key` is for rooms that keep only the latest
        message with a key for slow members (see `SlowConsumers`). Members whose version has no
        binary messages miss those. Raises `TypeError` for anything else.
        """
        if exclude is None:
            excluded: Collection[WebSocket] = ()
        else:
            excluded = (exclude,) if isinstance(exclude, WebSocket) else frozenset(exclude)
        return self._send(self, PreparedMessage(message), key, excluded)

    def deliver(
        self, message: PreparedMessage, key: str | None, excluded: Collection[WebSocket] = ()
    ) -> Delivery:
        """Send to the members in this process; for `Rooms`."""
        members, slow = self.members, tuple(self._slow)
        sent, others = fan_out(members, message, (*excluded, *slow) if slow else excluded)
        delivery = Delivery(sent)
        for member in (*others, *slow):
            if member not in excluded:
                delivery = delivery.plus(self.deliver_to(member, message, key))
        return delivery

    def deliver_to(self, member: WebSocket, message: PreparedMessage, key: str | None) -> Delivery:
        """Send to one who may be behind, or has its codec in Python."""
        with self._lock:
            slow = self._slow.get(member)
            if slow is None:
                try:
                    if member._send_prepared(message):
                        return Delivery(sent=1)
                except ConnectionClosed:
                    return Delivery()
                except UnsupportedByVersion:
                    return Delivery(dropped=1)
                if member not in self._members:
                    return Delivery()
                slow = self._slow[member] = SlowMember(self._policy)
                self._await_reading(member)
            delivery = slow.keep(message, key)
        return delivery or self._give_up(member, slow)

    def _give_up(self, member: WebSocket, slow: SlowMember) -> Delivery:
        logger.info("%r: closing, too much waits for it from room %r", member, self.name)
        self.discard(member)
        member.close(self._policy.close_code, "slow consumer")
        return Delivery(dropped=len(slow) + 1)

    def _await_reading(self, member: WebSocket) -> None:
        """Go on when the member has caught up; never at once, or this could go on for ever."""
        engine = member._engine
        assert engine is not None
        engine.post(partial(member._when_drained, partial(self._go_on, member)))

    def _go_on(self, member: WebSocket) -> None:
        """The member has caught up: send what waited."""
        with self._lock:
            slow = self._slow.get(member)
            if slow is None:
                return
            while (message := slow.first) is not None:
                try:
                    if not fan_out((member,), message)[0] and not member._send_prepared(message):
                        self._await_reading(member)
                        return
                except UnsupportedByVersion:
                    slow.dropped += 1
                except ConnectionClosed:
                    break
                slow.remove_first()
            del self._slow[member]
        if slow.dropped:
            logger.info("%r: missed %d messages of room %r", member, slow.dropped, self.name)

    def _leave(self, websocket: Connection) -> None:
        assert isinstance(websocket, WebSocket)
        with self._lock:
            if websocket not in self._members:
                return
            del self._members[websocket]
            self._slow.pop(websocket, None)
            self._everyone = None
        self._changed(self)
