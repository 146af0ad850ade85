"""One room: who is in it, and sending to all of them.

Members that keep up are served by `engine.fan_out`, in native code, from one frame; the few
that are behind, or have their codec in Python, one by one here.

The lock of a room is held for its own fields only, never while a message is sent: see
`native_locks`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from ..bus.presence import check_identities
from ..connection.lifecycle import Connection
from ..engine import fan_out
from ..engine.native_locks import native_lock
from ..errors import ConnectionClosed, UnsupportedByVersion, WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.prepared import PreparedMessage
from ..protocol.state import State
from ..websocket import WebSocket
from .delivery import Delivery
from .slow_consumers import SlowConsumers
from .slow_member import SlowMember

if TYPE_CHECKING:
    from .rooms import Rooms

logger = logging.getLogger("websocket_handler")


class Room:
    """The WebSockets that get what is sent to the room; from `Rooms`, by its name.

    Everything may be called from any thread, listener or coroutine, and nothing waits.
    """

    def __init__(self, name: str, policy: SlowConsumers, rooms: Rooms) -> None:
        """For `Rooms`."""
        self.name = name
        self._policy = policy
        self._rooms = rooms
        self.begin_anew()

    def begin_anew(self) -> None:
        """Without members, as in a forked child."""
        self._lock = native_lock()  # for what follows
        self._members: dict[WebSocket, str | None] = {}  # and who they are
        self._everyone: tuple[WebSocket, ...] | None = ()  # the same, until it changes
        self._slow: dict[WebSocket, SlowMember] = {}
        self._joining: dict[WebSocket, str | None] = {}  # those who catch up, before they are in
        self._identities: Counter[str] = Counter()

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
    def is_needed(self) -> bool:
        """Whether there is anyone in this process for whom messages should come."""
        return bool(self._members or self._joining)

    @property
    def identities(self) -> dict[str, int]:
        """Who is here, in this process, as `add` was told, with how many connections."""
        with self._lock:
            return dict(self._identities)

    def presence(self) -> dict[str, int]:
        """Who is here, in all processes, with how many connections; of the others only what
        they have told, which takes a moment, and only while there are members in this one."""
        return Counter(self.identities) + Counter(self._rooms._present_elsewhere(self))

    def add(
        self, websocket: WebSocket, identity: str | None = None, *, since: str | None = None
    ) -> None:
        """A member more, after its `connect()`; it leaves by itself when it is closed.

        `identity` is its name in `presence()`: that of the user, perhaps. With `since`, the offset
        of a message in the history, it first gets all that came after that one, as fast as its
        peer reads; if some are not kept any more, the event "missed" says so; if that offset
        means nothing it is closed with 1008, if the broker is away with 1013. Adding one again,
        or one that is closed, does nothing. Raises `WebSocketError` before `connect()`, or for
        `since` without a history, `ValueError` if `identity` is no text or has more than 1,024
        characters.
        """
        if websocket._outcome is None:
            raise WebSocketError("connect() has not been called")
        if identity is not None:
            check_identities({identity: 1})
        if since is not None:
            self._rooms._check_history()
        with self._lock:
            if websocket.state is State.CLOSED or self._knows(websocket):
                return
            self._joining[websocket] = identity
        try:
            websocket._in_engine(partial(websocket._add_membership, self._leave))
            if since is None:
                self.admit(websocket)
            else:
                self._rooms._replay(self, websocket, since)
        except BaseException:  # a member wholly, or not at all
            self.discard(websocket)
            raise

    def ready(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds until messages that other processes send to the room from
        then on reach its members in this process; for threads. Returns whether that is so:
        False if there are none here, the broker refuses it, or the rooms are closed. Without a
        broker always True."""
        return self._rooms._wait_until_subscribed(self, timeout)

    async def aready(self) -> bool:
        """As `ready`, for coroutines."""
        return await self._rooms._until_subscribed(self)

    def discard(self, websocket: WebSocket) -> None:
        """A member less, or nothing."""
        if self._knows(websocket):
            websocket._in_engine(partial(websocket._remove_membership, self._leave))
            self._leave(websocket)

    def send(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
        key: str | None = None,
    ) -> Delivery:
        """Send to every member, but to those to `exclude`: text for str, binary for bytes-like.

        Returns what became of it in this process; with a history that is not known yet, the
        message has to get its place there first. `key` is for rooms that keep only the latest
        message with a key for slow members (see `SlowConsumers`). Members whose version has no
        binary messages miss those.

        Raises `TypeError` for anything else; with a broker, `ValueError` for a message that is
        too large for it, and `BusUnavailable` if it is away and that may not wait: then the
        members in this process have the message all the same.
        """
        if exclude is None:
            excluded: Collection[WebSocket] = ()
        else:
            excluded = (exclude,) if isinstance(exclude, WebSocket) else frozenset(exclude)
        return self._rooms._send(self, PreparedMessage(message), key, excluded)

    def deliver(
        self, message: PreparedMessage, key: str | None, excluded: Collection[WebSocket] = ()
    ) -> Delivery:
        """Send to the members in this process; for `Rooms`."""
        members, slow = self.members, tuple(self._slow)
        skipped = {*excluded, *slow} if slow else excluded
        sent, others = fan_out(members, message, skipped)
        delivery = Delivery(sent)
        for member in (*others, *slow):
            if member not in excluded:
                delivery += self.deliver_to(member, message, key)
        return delivery

    def deliver_to(self, member: WebSocket, message: PreparedMessage, key: str | None) -> Delivery:
        """Send to one who may be behind, or has its codec in Python."""
        with self._lock:
            slow = self._slow.get(member)
            delivery = slow.keep(message, key) if slow is not None else None
        if slow is None:
            sent = try_to_send(member, message)
            if sent is not None:
                return sent
            with self._lock:
                if not self._knows(member):
                    return Delivery()
                slow = self._slow.get(member)
                begins = slow is None
                if slow is None:
                    slow = self._slow[member] = SlowMember(self._policy)
                delivery = slow.keep(message, key)
            if begins:
                self._await_reading(member)
        return delivery or self._drop_slow_member(member, slow)

    def _drop_slow_member(self, member: WebSocket, slow: SlowMember) -> Delivery:
        logger.info("%r: closing, too much waits for it from room %r", member, self.name)
        self.discard(member)
        member.close(self._policy.close_code, "slow consumer")
        return Delivery(dropped=len(slow) + 1)

    def _await_reading(self, member: WebSocket) -> None:
        """Go on when the member has caught up; never at once, or this could go on for ever."""
        engine = member._engine
        assert engine is not None
        engine.post(partial(member._on_drained, partial(self._resume_member, member)))

    def _resume_member(self, member: WebSocket) -> None:
        """The member has caught up: send what waited. One thread at a time does this for a
        member, and what others send to it meanwhile waits behind that."""
        while True:
            with self._lock:
                slow = self._slow.get(member)
                message = slow.first if slow is not None else None
                if slow is not None and message is None:
                    del self._slow[member]
            if slow is None:
                return
            if message is None:
                break
            delivery = try_to_send(member, message)
            if delivery is None:
                self._await_reading(member)
                return
            with self._lock:
                slow.settle(message, delivery.dropped)
        if slow.dropped:
            logger.info("%r: missed %d messages of room %r", member, slow.dropped, self.name)

    # Coming and leaving

    def _knows(self, websocket: Connection) -> bool:
        return websocket in self._members or websocket in self._joining

    def admit(self, websocket: WebSocket) -> None:
        """From now on it gets what is sent; for `Rooms`. Not if it has left meanwhile."""
        with self._lock:
            if websocket not in self._joining:
                return
            identity = self._members[websocket] = self._joining.pop(websocket)
            if identity is not None:
                self._identities[identity] += 1
            self._everyone = None
        self._rooms._members_changed(self, identity)

    def is_catching_up(self, websocket: WebSocket) -> bool:
        """Whether it receives messages of the history before it is admitted; for `Rooms`."""
        return websocket in self._joining

    def turn_away(self, websocket: WebSocket, error: Exception) -> None:
        """It cannot catch up; for `Rooms`."""
        logger.info("%r: cannot catch up in room %r: %s", websocket, self.name, error)
        self.discard(websocket)
        if isinstance(error, ValueError):
            websocket.close(CloseCode.POLICY_VIOLATION, "no such offset")
        else:
            websocket.close(CloseCode.TRY_AGAIN_LATER, "the history is away")

    def _leave(self, websocket: Connection) -> None:
        assert isinstance(websocket, WebSocket)
        with self._lock:
            if not self._knows(websocket):
                return
            self._joining.pop(websocket, None)
            identity = self._members.pop(websocket, None)
            if identity is not None:
                self._identities[identity] -= 1
                if not self._identities[identity]:
                    del self._identities[identity]
            self._slow.pop(websocket, None)
            self._everyone = None
        self._rooms._members_changed(self, identity)


def try_to_send(member: WebSocket, message: PreparedMessage) -> Delivery | None:
    """Send to one member, without a lock. Returns None if it is behind; then nothing is sent."""
    try:
        if fan_out((member,), message)[0] or member._send_prepared(message):
            return Delivery(sent=1)
    except ConnectionClosed:
        return Delivery()
    except UnsupportedByVersion:
        return Delivery(dropped=1)
    return None
