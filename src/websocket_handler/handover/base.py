"""The part of a handover that is the same for every HTTP server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar

from ..engine import Engine
from ..errors import WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.handshake import Accepted
from ..protocol.state import State
from ..websocket import Stream, WebSocket, close_stream

if TYPE_CHECKING:
    from ..moving.arrivals import Arrival

logger: logging.Logger = logging.getLogger("websocket_handler")

Fields = Iterable[tuple[str, str]]

INTERNAL_SERVER_ERROR = 500
TEXT_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


class Stage(Enum):
    """The stages of a handover."""

    OFFERED = "the server has the connection"
    DECLINED = "the server sends the response"
    DETACHED = "connect() was called; the response is not known"
    EARLY = "the 101 was sent before the response is known"
    CONVERSATION = "as EARLY; the handler itself receives the messages"
    COMPLETE = "the response is known"


OFFERED, DECLINED, DETACHED, EARLY, CONVERSATION, COMPLETE = Stage
# Up to Python 3.11, a member costs a thousand instructions as an attribute of its class.

WITH_SERVER = (OFFERED, DECLINED)


class Handover:
    """Moves one connection from an HTTP server to the engine.

    `server` is the same object for all WebSockets of one server, so that they can be closed
    together. `on_decided` is called with the status of the response to the handshake, just
    before the engine sends it.
    """

    websocket: WebSocket
    """The WebSocket of this handover, which sets the attribute itself."""

    arrival: Arrival | None = None
    """The connection of an old process that repeats this request, to be taken in place of the
    connection of the request itself."""

    _stage = OFFERED
    _taken: Stream | None = None
    """The connection between `detach()` and the engine."""

    _detached: ClassVar[set[Stream]] = set()
    """Connections between `detach()` and the engine. The reference keeps a connection alive if the
    server drops its request."""

    def __init__(
        self,
        engine: Engine | None = None,
        early: bytes = b"",
        *,
        server: object = None,
        on_decided: Callable[[int], object] | None = None,
    ) -> None:
        self.engine = engine
        self.server = server
        self.on_decided = on_decided
        self.status: int = 0
        """The status of the response to the handshake: 0 until it is sent, and if the server
        sends it."""
        self._early = early

    # Called by `connect()` and by the handler

    def detach(self) -> None:
        """Take the connection from the server. Its later writes are discarded.

        Raises `WebSocketError` if the response has begun. Nothing has changed then.
        """
        if self._stage is not OFFERED:
            raise WebSocketError("the request has been answered already")
        self._keep(self._take())
        self._stage = DETACHED

    def connect_result(self, status: int) -> Any:  # noqa: ARG002
        """Return the return value of `connect()`, which a handler may return to its framework."""
        return ""

    def complete_early(self, is_conversation: bool) -> None:
        """Send the 101 before the response is known, because the handler waits for the peer.

        `is_conversation`: the handler itself receives the messages. The WebSocket closes when
        such a handler returns.
        """
        if self._stage is DETACHED:
            self._stage = EARLY
            self._give()
        if self._stage is EARLY and is_conversation:
            self._stage = CONVERSATION

    # Called by integrations

    @property
    def is_detached(self) -> bool:
        """Whether the connection has been taken from the server."""
        return self._stage not in WITH_SERVER

    @property
    def is_complete(self) -> bool:
        """Whether the status of the application's response is known."""
        return self._stage is COMPLETE

    def complete(
        self, status: int = 200, fields: Fields = (), body: bytes = b"", reason: str = ""
    ) -> None:
        """Complete the handover with the whole response of the application.

        Sends nothing if `connect()` was not called. The server sends the response then.
        """
        if self.begin_response(status, fields, reason):
            self.write(body, is_last=True)

    def begin_response(self, status: int, fields: Fields = (), reason: str = "") -> bool:
        """Complete the handover with the status and the header fields of the response.

        Sends the 101 if the status accepts the WebSocket. Returns True if the response rejects
        it: the caller then passes the body to `write`. Raises `ValueError` if a field is not
        valid in the head of a response.
        """
        stage = self._stage
        if stage is DETACHED:
            return self._decide(status, list(fields), reason)
        if stage is OFFERED:
            self.decline(status)
        elif stage in (EARLY, CONVERSATION):
            self._stage = COMPLETE
            self._end_handler(status, stage is CONVERSATION)
        return False

    def reject(self, status: int, fields: Fields = (), reason: str = "") -> None:
        """Send a response that rejects the WebSocket, whether or not `connect()` was called.

        The caller passes the body to `write`.
        """
        if not self.is_detached:
            self._keep(self._take())
        self.websocket._reject(status, reason, fields)
        self._stage = COMPLETE
        self._give()

    def write(self, data: bytes, is_last: bool = False) -> None:
        """Send a part of the body of a response that rejects the WebSocket."""
        self.websocket._write_response(data, is_last)

    def abort(self) -> None:
        """End the handover without a response: the handler raised or was cancelled.

        Sends 500, or closes the WebSocket with 1011 if the 101 was sent already.
        """
        if self._stage is DETACHED:
            self.complete(INTERNAL_SERVER_ERROR, [TEXT_PLAIN], b"Internal Server Error\n")
        elif self.is_detached:
            self._stage = COMPLETE
            if self.websocket._outcome is not None:
                self.websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        elif self.arrival is not None:
            self.arrival.refuse(INTERNAL_SERVER_ERROR)

    def decline(self, status: int) -> None:
        """Leave the response to the server. A later `connect()` raises `WebSocketError`."""
        websocket, self._stage = self.websocket, DECLINED
        self.on_decided = None
        if self.arrival is not None:
            self.arrival.refuse(status)
        if status < 400 and websocket._has_listeners:
            logger.warning(
                "the handler of %r registered listeners for its WebSocket, but did not call "
                "connect(): the server responds with %d",
                websocket.request.path,
                status,
            )

    def __del__(self) -> None:
        """Abort if the server has dropped the request."""
        if self._stage is DETACHED:
            engine = self.websocket._engine
            if engine is not None:
                engine._post(self.abort)
            elif self._taken is not None:
                self._detached.discard(self._taken)
                close_stream(self._taken)

    # Implementation

    def _take(self) -> Stream:
        """Take the connection from the server and return it. May raise if nothing has changed."""
        raise NotImplementedError

    def _keep(self, taken: Stream) -> None:
        self._taken = taken
        self._detached.add(taken)

    def _decide(self, status: int, fields: list[tuple[str, str]], reason: str) -> bool:
        outcome = self.websocket._outcome
        if outcome is None and status < 400:  # connect() raised after detach()
            status, fields, reason = INTERNAL_SERVER_ERROR, [], ""
        is_rejected = status >= 400 and (outcome is None or isinstance(outcome, Accepted))
        if is_rejected:
            self.websocket._reject(status, reason, fields)
        else:
            self.websocket._add_to_response(fields)
        self._stage = COMPLETE
        self._give()
        return is_rejected

    def _end_handler(self, status: int, is_conversation: bool) -> None:
        """Handle the end of a handler whose 101 was sent before its response."""
        websocket = self.websocket
        if status >= 400:
            if websocket.state is not State.CLOSED:
                logger.warning("%r: the handler failed with %d after the 101", websocket, status)
            websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        elif is_conversation:
            websocket.close()

    def _give(self) -> None:
        """Give the connection to the engine."""
        taken, self._taken = self._taken, None
        if taken is None:
            return
        self._detached.discard(taken)
        outcome = self.websocket._outcome
        if outcome is not None:
            self.status = int(outcome.status)
        on_decided, self.on_decided = self.on_decided, None
        if on_decided is not None:
            on_decided(self.status)
        if self.arrival is None:
            self.websocket._take_over(taken, self._early)
        else:
            close_stream(taken)
            self.arrival.settle(self.websocket)
