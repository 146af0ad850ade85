"""The old process's side of a move, in the engine's thread: stop, describe, then release or go on.

A suspended connection is neither read nor written here. Messages that the application sends
meanwhile are collected. They are sent after the state, or by this process if the connection stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from ..connection.inbox import LoopInbox
from ..engine import moving
from ..engine.stats import Traffic
from ..protocol import message as framing
from ..protocol.frame import Opcode
from ..protocol.handshake import Accepted
from ..protocol.position import Replay, replay, replay_of
from ..protocol.request import Forwarded
from ..protocol.state import State as ConnectionState
from ..protocol.state import Step
from ..protocol.versions.challenge import AwaitingKey3
from ..rooms.membership import Left
from ..rooms.room import Room, send_unsent
from ..websocket import Notice, WebSocket
from .messages import NotMoved
from .state import Facts, State, UnknownFormat

MOVED_CODE, MOVED_REASON = 1012, "moved to another process"

RECENT_S = 1.0
"""A handler that has received something within this time is given time to finish with it."""

MAX_CARRY_BYTES = 1 << 16


class NotYet(Exception):
    """The connection can be moved a little later."""


class Released(NamedTuple):
    """The end of a connection in this process."""

    late: bytes
    """The bytes that were sent since it was suspended."""
    offsets: list[tuple[str, str]]
    """The offsets of the last messages that it was sent from rooms with a history."""

    def to_json(self) -> dict[str, Any]:
        return {"given": True, "late": len(self.late)}

    @property
    def data(self) -> bytes:
        """Both parts in one, for a file."""
        return self.late + json.dumps(self.offsets).encode() if self.offsets else self.late

    @classmethod
    def from_json(cls, fields: dict[str, Any], data: bytes) -> Released:
        """Raises `UnknownFormat` if the fields are not valid."""
        try:
            late, offsets = data[: fields["late"]], data[fields["late"] :]
            return cls(late, [(str(a), str(b)) for a, b in json.loads(offsets or b"[]")])
        except (KeyError, TypeError, ValueError) as error:
            raise UnknownFormat(f"an end that is not valid: {error!r}") from None


class Suspended(NamedTuple):
    """A connection that this process has stopped serving. Exactly one of `release` and `resume`
    follows."""

    websocket: WebSocket
    descriptor: int
    state: State
    messages: list[Any]

    def prepare_release(self, left: list[Left]) -> Released:
        """Leave the rooms without a history, and collect the last bytes. `left` are the others.

        Raises `NotMoved` if the application has closed the connection meanwhile.
        """
        websocket = self.websocket
        if websocket.state is not ConnectionState.OPEN:
            raise NotMoved("the application has closed it")
        rooms = [room for room in rooms_of(websocket) if not room._has_history]
        left += leave(websocket, rooms)
        for one in left:
            send_unsent(websocket, one)
        late: bytes = moving.unsent(websocket)[len(self.state.output) :]
        return Released(late, [(one.room._key, one.offset) for one in left if one.offset])

    def release(self) -> None:
        """Give the connection up."""
        _end(self.websocket)
        moving.release(self.websocket, self.descriptor)

    def resume(self) -> None:
        """Go on with the connection in this process."""
        websocket = self.websocket
        inbox = websocket._inbox
        if inbox is not None and self.messages:
            inbox.put_back(self.messages)
        moving.resume(websocket, self.descriptor)
        if isinstance(inbox, LoopInbox) and self.messages:
            inbox.wake()


def facts_of(websocket: WebSocket) -> Facts:
    """Raises `NotMoved` if the connection cannot be moved, `NotYet` before it is open."""
    outcome = websocket._outcome
    if websocket.state is ConnectionState.CONNECTING:
        raise NotYet("it is not open yet")
    if websocket.state is not ConnectionState.OPEN or not isinstance(outcome, Accepted):
        raise NotMoved("it is not open")
    if websocket._is_client:
        raise NotMoved("it is a client's")
    request = websocket.request
    origin = request.received or Forwarded(
        request.remote_address, request.scheme, request.headers.get("Host")
    )
    secret = _secret_of(websocket)
    carry = _checked_carry(websocket)
    return Facts(outcome.version, secret, outcome.subprotocol, outcome.negotiated, origin, carry)


def suspend(websocket: WebSocket) -> Suspended:
    """Stop serving a connection. In the engine's thread, outside of its listeners.

    Raises `NotYet` while the application is busy with a message, and `NotMoved` if the connection
    cannot be moved.
    """
    facts = facts_of(websocket)
    _check_idle(websocket)
    received = _replay_of(websocket, facts)
    descriptor = moving.suspend(websocket)
    if descriptor is None:
        if websocket._is_busy:  # this call itself, if the engine's thread was not scheduled in time
            raise NotYet("another thread has taken over the engine meanwhile")
        raise NotMoved("it has TLS or a transport in Python, or the peer has ended it")
    if websocket._pong is not None:  # the newest ping still needs its answer
        payload, websocket._pong = websocket._pong, None
        websocket._send_frame(Opcode.PONG, payload)
    messages = _undelivered(websocket)
    encoder = facts.version._make_encoder(True, facts.secret)
    frames = b"".join(encoder.message(message) for message in messages)
    counted_again = Traffic(
        messages_received=-len(messages),
        frames_received=-len(messages) - received.frames,
        bytes_received=-len(frames) - len(received.data),
    )
    state = State(
        input=frames + received.data,
        output=moving.unsent(websocket),
        window=_window_of(websocket, facts),
        latency=websocket._latency,
        traffic=websocket.traffic + counted_again,
        carried=facts.carried,
    )
    taken = [] if websocket._inbox is None else messages
    return Suspended(websocket, descriptor, state, taken)


def _check_idle(websocket: WebSocket) -> None:
    """Raises `NotYet` while the application works on a message, whose answer would be lost."""
    if websocket._queued_sends is not None:
        raise NotYet("a fragmented message is being sent")
    queue = websocket._async_listeners
    if queue is not None and queue.is_working:
        raise NotYet("an async def listener runs")
    if not all(room._may_move(websocket) for room in rooms_of(websocket)):
        raise NotYet("the broker has not stored all messages of a room")
    inbox = websocket._inbox
    if inbox is None:
        return
    if isinstance(inbox, LoopInbox) and not inbox.same_loop and inbox.amount():
        raise NotYet("messages are on their way to another event loop")
    if inbox.is_waited_for:
        if inbox.amount():
            raise NotYet("the handler is about to get a message")
    elif time.monotonic() - websocket._last_activity < RECENT_S:
        raise NotYet("the handler works on a message")


def rooms_of(websocket: WebSocket) -> list[Room]:
    """Return the rooms that have the WebSocket, or will have it."""
    found = (getattr(leave, "__self__", None) for leave in websocket._memberships)
    return [room for room in found if isinstance(room, Room)]


def leave(websocket: WebSocket, rooms: list[Room]) -> list[Left]:
    """Leave rooms for a move. Blocks for those with a history. Raises `TimeoutError` if the broker
    must first store messages; then the WebSocket is in all of them."""
    left: list[Left] = []
    try:
        for room in rooms:
            one = room._leave_for_move(websocket)
            left += [one] if one is not None else []
    except TimeoutError:
        in_engine(websocket, partial(come_back, websocket, left))
        raise
    return left


def come_back(websocket: WebSocket, left: list[Left]) -> None:
    """Continue in rooms after a move that has failed. In the engine's thread."""
    for one in left:
        send_unsent(websocket, one)
        one.room._return_after_move(websocket, one)


def _undelivered(websocket: WebSocket) -> list[Any]:
    """Return the messages that the application has not received. Takes them from the inbox."""
    if websocket._inbox is not None:
        return websocket._inbox.take_all()
    return list(websocket._backlog.messages) if websocket._backlog is not None else []


def _replay_of(websocket: WebSocket, facts: Facts) -> Replay:
    codec = websocket._codec
    try:
        if codec is None:
            return replay(moving.position(websocket))
        return replay_of(codec.decoder, facts.version._make_encoder(True, facts.secret))
    except ValueError as error:
        raise NotYet(str(error)) from None


def _window_of(websocket: WebSocket, facts: Facts) -> bytes:
    if facts.negotiated is None or facts.negotiated.client_no_context_takeover:
        return b""
    if websocket._codec is None:
        return moving.window(websocket)
    decoder = websocket._codec.decoder
    assert isinstance(decoder, framing.Decoder)
    return decoder.inflater.window() if decoder.inflater is not None else b""


def _secret_of(websocket: WebSocket) -> bytes:
    """Return the secret of the handshake, which the codecs of some versions keep."""
    if websocket._codec is None:
        return b""
    decoder: Any = websocket._codec.decoder
    if isinstance(decoder, AwaitingKey3):
        decoder = decoder.frames_decoder
    secret: bytes = getattr(decoder, "_secret", b"")
    return secret


def _checked_carry(websocket: WebSocket) -> Any:
    """Return a copy of the data that the application has left for the new process, or that it got
    itself if it has set nothing."""
    carry = websocket.carried if websocket.carry is None else websocket.carry
    if carry is None:
        return None
    try:
        text = json.dumps(carry)
    except (TypeError, ValueError, RecursionError) as error:
        raise NotMoved(f"carry cannot be JSON: {error}") from None
    if len(text) > MAX_CARRY_BYTES:
        raise NotMoved(f"carry is longer than {MAX_CARRY_BYTES} bytes")
    return json.loads(text)


def _end(websocket: WebSocket) -> None:
    """End the connection for this process without `close`: it is open in the new one."""
    websocket._try_end(Step.MOVED, MOVED_CODE, MOVED_REASON)
    memberships, websocket._memberships = websocket._memberships, ()
    for leave in memberships:
        leave(websocket)
    listeners, websocket._listeners = websocket._listeners, ()
    websocket._message_listener = websocket._after_messages = None
    for _, listener in listeners:
        if isinstance(listener, Notice):  # of `wait_closed()`
            listener()
    websocket._notify_drain_waiters()
    if websocket._inbox is not None:
        websocket._inbox.has_moved = True
        websocket._inbox.end(MOVED_CODE, MOVED_REASON)


def in_engine(websocket: WebSocket, call: Callable[[], object]) -> None:
    """Make a call in the engine's thread, outside of the listeners of the connection."""
    engine = websocket._engine
    assert engine is not None
    engine._post(partial(websocket._run_exclusively, call))
