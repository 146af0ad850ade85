"""One room: its members, and sending to all of them.

`engine.fan_out` sends one frame to the members that enqueue up, in native code. Slow members, and
members whose codec runs in Python, are handled one by one in this file.

The room's lock guards its own fields only. It is never held while a message is sent: see
`native_locks`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
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
from .membership import MAX_EXCLUDED, Joining, Left, moved_offset, take_offset
from .slow_consumers import SlowConsumers
from .slow_member import SlowMember

if TYPE_CHECKING:
    from .rooms import Rooms

logger: logging.Logger = logging.getLogger("websocket_handler")


class Room:
    """A named group of WebSockets; `rooms["name"]` returns it.

    All methods are safe to call from any thread, listener or coroutine. None blocks, except
    `ready`.
    """

    def __init__(self, name: str, policy: SlowConsumers, rooms: Rooms) -> None:
        """Called by `Rooms`."""
        self.name = name
        self._policy = policy
        self._rooms = rooms
        self._reset()

    def _reset(self) -> None:
        """Reset the room to no members, as in a forked child."""
        self._lock = native_lock()  # guards the fields below
        self._members: dict[WebSocket, str | None] = {}  # and their identities
        self._cached_members: tuple[WebSocket, ...] | None = ()  # cached; None: outdated
        self._slow: dict[WebSocket, SlowMember] = {}
        self._joining: dict[WebSocket, Joining] = {}  # catching up, not members yet
        self._identities: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Room {self.name!r}: {len(self)} members>"

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, websocket: object) -> bool:
        return websocket in self._members

    def __iter__(self) -> Iterator[WebSocket]:
        return iter(self.members)

    @property
    def members(self) -> tuple[WebSocket, ...]:
        """The members in this process, in the order in which they were added."""
        with self._lock:
            if self._cached_members is None:
                self._cached_members = tuple(self._members)
            return self._cached_members

    @property
    def _has_history(self) -> bool:
        """Whether the broker stores the messages."""
        return self._rooms._has_history

    @property
    def _key(self) -> str:
        """The name of the room's history; "" if there is none."""
        return self._rooms._key_of(self)

    @property
    def _is_needed(self) -> bool:
        """Whether this process has members in this room, WebSockets that are catching up, or
        identities of members that have just moved."""
        return bool(self._members or self._joining or self._identities)

    @property
    def identities(self) -> dict[str, int]:
        """The identities passed to `add` in this process, with their numbers of connections."""
        with self._lock:
            return dict(self._identities)

    def presence(self) -> dict[str, int]:
        """Return the identities in all processes, with their numbers of connections.

        Other processes announce theirs over the broker, with a short delay. They are known only
        while this process has members in the room.
        """
        return Counter(self.identities) + Counter(self._rooms._remote_presence(self))

    def add(
        self, websocket: WebSocket, identity: str | None = None, *, since: str | None = None
    ) -> None:
        """Add a WebSocket, after its `connect()`. It is removed when it is closed.

        `presence()` reports its `identity`, such as a user name of up to 1,024 characters. `since`
        is the offset of a message in the history: the WebSocket first receives every message after
        it, as fast as its peer reads, and then live messages. If some are no longer stored, the
        event "missed" is emitted. If the offset is not valid, the WebSocket is closed with 1008; if
        the broker is unreachable, with 1013. Adding a WebSocket again, or a closed one, does
        nothing.

        Raises `WebSocketError` before `connect()`, or for `since` without a history; `ValueError`
        if `identity` is not text or is too long.
        """
        if websocket._outcome is None:
            raise WebSocketError("connect() has not been called")
        if identity is not None:
            check_identities({identity: 1})
        if since is not None:
            self._rooms._check_history()
        with self._lock:
            if websocket.state is State.CLOSED or self._includes(websocket):
                return
            is_arriving, moved = websocket._is_arriving, take_offset(websocket, self)
            joining = Joining(identity, since if moved is None else moved, moved is not None)
            self._joining[websocket] = joining
            if is_arriving:
                self._count(joining)
        try:
            websocket._in_engine(partial(websocket._add_membership, self._leave))
            if is_arriving and websocket._is_arriving:
                self._rooms._members_changed(self, identity)
            else:
                self._begin(websocket, joining)
        except BaseException:  # leave no half-added member
            self.discard(websocket)
            raise

    def ready(self, timeout: float | None = None) -> bool:
        """Wait until messages that other processes send to the room reach its members here.

        Blocks the calling thread for up to `timeout` seconds (None: no limit). Returns False on a
        timeout, if this process has no members in the room, if the broker refuses the subscription,
        or if the rooms are closed. Always returns True without a broker.
        """
        return self._rooms._wait_until_subscribed(self, timeout)

    async def aready(self) -> bool:
        """Like `ready`, but awaitable and without a timeout."""
        return await self._rooms._until_subscribed(self)

    def discard(self, websocket: WebSocket) -> None:
        """Remove a WebSocket. Does nothing if it is not in the room."""
        if self._includes(websocket):
            websocket._in_engine(partial(websocket._remove_membership, self._leave))
            self._leave(websocket)

    def send(
        self,
        message: str | bytes | bytearray | memoryview,
        *,
        exclude: WebSocket | Iterable[WebSocket] | None = None,
        key: str | None = None,
    ) -> Delivery:
        """Send a message to every member except those in `exclude`, one WebSocket or several.

        A str is sent as text, a bytes-like object as binary. Members whose protocol version has no
        binary messages do not receive binary ones. `key` is used by rooms whose policy is "latest":
        a queued message is replaced by a newer one with the same key (see `SlowConsumers`).

        Returns a `Delivery` for the members in this process. It is empty if the rooms have a
        history: the members then receive the message later, in the order of the history.

        Raises `TypeError` if the message is neither str nor bytes-like. With a broker, raises
        `ValueError` if the message is over the broker's size limit, and `BusUnavailable` if the
        message cannot be queued for the broker; in that case only the members in this process
        receive it.
        """
        if exclude is None:
            excluded: Collection[WebSocket] = ()
        else:
            excluded = (exclude,) if isinstance(exclude, WebSocket) else frozenset(exclude)
        return self._rooms._send(self, PreparedMessage(message), key, excluded)

    def _deliver(
        self, message: PreparedMessage, key: str | None, excluded: Collection[WebSocket] = ()
    ) -> Delivery:
        """Send to the members in this process. Called by `Rooms`."""
        members, slow = self.members, tuple(self._slow)
        skipped = {*excluded, *slow} if slow else excluded
        sent, others = fan_out(members, message, skipped)
        delivery = Delivery(sent)
        for member in (*others, *slow):
            if member not in excluded:
                delivery += self._deliver_to(member, message, key)
        return delivery

    def _deliver_to(self, member: WebSocket, message: PreparedMessage, key: str | None) -> Delivery:
        """Send to one member that may be slow, or whose codec runs in Python."""
        with self._lock:
            slow = self._slow.get(member)
            delivery = slow.enqueue(message, key) if slow is not None else None
        if slow is None:
            sent = try_to_send(member, message)
            if sent is not None:
                return sent
            with self._lock:
                if not self._includes(member):
                    return Delivery()
                slow = self._slow.get(member)
                begins = slow is None
                if slow is None:
                    slow = self._slow[member] = SlowMember(self._policy)
                delivery = slow.enqueue(message, key)
            if begins:
                self._resume_when_drained(member)
        return delivery or self._drop_slow_member(member, slow)

    def _drop_slow_member(self, member: WebSocket, slow: SlowMember) -> Delivery:
        logger.info("%r: closing slow consumer of room %r", member, self.name)
        self.discard(member)
        member.close(self._policy.close_code, "slow consumer")
        return Delivery(dropped=len(slow) + 1)

    def _resume_when_drained(self, member: WebSocket) -> None:
        """Call `_resume_member` when the member's send buffer has drained.

        The call is posted, never made here: the two functions would otherwise recurse without end.
        """
        engine = member._engine
        assert engine is not None
        engine._post(partial(member._on_drained, partial(self._resume_member, member)))

    def _resume_member(self, member: WebSocket) -> None:
        """Send the queued messages to a member whose send buffer has drained.

        Only one thread at a time does this for a member; messages sent meanwhile are queued.
        """
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
                self._resume_when_drained(member)
                return
            with self._lock:
                slow.finish_first(message, delivery.dropped)
        if slow.dropped:
            logger.info("%r: missed %d messages of room %r", member, slow.dropped, self.name)

    # Adding and removing members

    def _includes(self, websocket: Connection) -> bool:
        return websocket in self._members or websocket in self._joining

    def _admit(self, websocket: WebSocket) -> None:
        """Make a WebSocket that was catching up a member. Called by `Rooms`.

        Does nothing if the WebSocket has left in the meantime.
        """
        with self._lock:
            if websocket not in self._joining:
                return
            joining = self._joining.pop(websocket)
            self._members[websocket] = joining.identity
            self._count(joining)
            self._cached_members = None
        self._rooms._members_changed(self, joining.identity)

    def _begin(self, websocket: WebSocket, joining: Joining) -> None:
        """Make a WebSocket a member, after it has received the messages of the history that it
        has missed. Does nothing the second time."""
        with self._lock:
            if joining.has_begun:
                return
            joining.has_begun = True
        if joining.offset is None:
            self._admit(websocket)
        else:
            self._rooms._replay(self, websocket, joining)

    def _count(self, joining: Joining) -> None:
        """Count an identity once, with the lock held."""
        if joining.identity is not None and not joining.is_counted:
            self._identities[joining.identity] += 1
        joining.is_counted = True

    def _uncount(self, identity: str | None) -> None:
        """Undo `_count`, with the lock held."""
        if identity is not None:
            self._identities[identity] -= 1
            if self._identities[identity] <= 0:
                del self._identities[identity]

    # Members that move between processes

    def _may_move(self, websocket: WebSocket) -> bool:
        """Whether all messages to a member are where another process finds them, too."""
        return self._rooms._is_stored(self, websocket)

    def _leave_for_move(self, websocket: WebSocket) -> Left | None:
        """Remove a member that moves to another process. Returns None if it has left.

        Blocks. Raises `TimeoutError` if the broker must first store messages that the member has
        received or must not receive.
        """
        return self._rooms._at_offset(self, websocket, partial(self._remove_for_move, websocket))

    def _remove_for_move(self, websocket: WebSocket, offset: str | None) -> Left | None:
        """`offset` is that of the last message that was delivered to the members. No message is
        being delivered meanwhile."""
        with self._lock:
            if not self._includes(websocket):
                return None
            joining, slow = self._joining.get(websocket), self._slow.get(websocket)
            identity = self._members.get(websocket) if joining is None else joining.identity
            if joining is not None:
                offset = joining.offset
            unsent = [] if slow is None else slow.messages
            counted = self._remove(websocket, is_moved=True)
        self._rooms._member_moved(self, counted)
        return Left(self, identity, offset, unsent)

    def _forget_moved(self, identity: str | None) -> None:
        """Make the identity of a member that has moved absent."""
        with self._lock:
            self._uncount(identity)
        self._rooms._members_changed(self, identity)

    def _return_after_move(self, websocket: WebSocket, left: Left) -> None:
        """Add a member again whose move has failed. In the engine's thread."""
        websocket._remove_membership(self._leave)
        if left.offset is not None:
            websocket._offsets_of_rooms += (moved_offset(self._key, left.offset),)
        self.add(websocket, left.identity)

    def _admit_before_move(self, websocket: WebSocket) -> None:
        """Make a WebSocket that arrives from another process a member, while that process still
        has it. Without a history, it may receive a message twice, but it misses none."""
        if not self._has_history:
            self._admit(websocket)

    def _admit_after_move(self, websocket: WebSocket) -> None:
        """Send a WebSocket that has arrived from another process all messages after the last one
        that it received there; then it is a member."""
        with self._lock:
            joining = self._joining.get(websocket)
        if joining is None:
            return
        moved = take_offset(websocket, self)
        if moved is not None:
            joining.offset, joining.is_moved = moved, True
        self._begin(websocket, joining)

    def _exclude_from_replay(self, excluded: Collection[WebSocket], offset: str) -> None:
        """Skip a message in the replays to WebSockets that must not receive it. Called by
        `Rooms`."""
        with self._lock:
            for joining in map(self._joining.get, excluded):
                if joining is not None and len(joining.excluded) < MAX_EXCLUDED:
                    joining.excluded.add(offset)

    def _is_excluded_from_replay(self, websocket: WebSocket) -> bool:
        """Whether the WebSocket has not reached a message yet that it must not receive."""
        joining = self._joining.get(websocket)
        return joining is not None and bool(joining.excluded)

    def _is_catching_up(self, websocket: WebSocket, joining: Joining) -> bool:
        """Whether the WebSocket is still receiving messages of the history. Called by `Rooms`."""
        return self._joining.get(websocket) is joining

    def _reject_member(self, websocket: WebSocket, error: Exception) -> None:
        """Remove and close a WebSocket that cannot catch up. Called by `Rooms`."""
        logger.info("%r: cannot catch up in room %r: %s", websocket, self.name, error)
        self.discard(websocket)
        if isinstance(error, ValueError):
            websocket.close(CloseCode.POLICY_VIOLATION, "no such offset")
        else:
            websocket.close(CloseCode.TRY_AGAIN_LATER, "history unavailable")

    def _leave(self, websocket: Connection) -> None:
        assert isinstance(websocket, WebSocket)
        with self._lock:
            if not self._includes(websocket):
                return
            identity = self._remove(websocket)
        self._rooms._members_changed(self, identity)

    def _remove(self, websocket: Connection, is_moved: bool = False) -> str | None:
        """Remove a WebSocket, with the lock held. Returns its identity if that was counted.
        `is_moved`: the identity stays present until `_forget_moved`."""
        assert isinstance(websocket, WebSocket)
        joining = self._joining.pop(websocket, None)
        if joining is None:
            identity = self._members.pop(websocket, None)
        else:
            identity = joining.identity if joining.is_counted else None
        if not is_moved:
            self._uncount(identity)
        self._slow.pop(websocket, None)
        self._cached_members = None
        return identity


def send_unsent(websocket: WebSocket, left: Left) -> None:
    """Send the queued messages of a slow member that has left for a move, each once."""
    while left.unsent:
        with contextlib.suppress(ConnectionClosed, UnsupportedByVersion):
            websocket._send_prepared(left.unsent.pop(0), sys.maxsize)


def try_to_send(member: WebSocket, message: PreparedMessage) -> Delivery | None:
    """Send to one member. The caller holds no lock.

    Returns None, having sent nothing, if the member is slow.
    """
    try:
        if fan_out((member,), message)[0] or member._send_prepared(message):
            return Delivery(sent=1)
    except ConnectionClosed:
        return Delivery()
    except UnsupportedByVersion:
        return Delivery(dropped=1)
    except MemoryError as error:  # ends this member, not the broadcast
        member._in_engine(partial(member._output_failed, error))
        return Delivery(dropped=1)
    return None
