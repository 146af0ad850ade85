"""Runs ASGI applications on a WebSocket: the messages of the `websocket` scope.

Implements the ASGI specification (HTTP & WebSocket, version 2.4), independently of the server. The
integration of a server creates the WebSocket, the scope and the handover. A `ASGISession` then
runs the application.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ..connection.inbox import LoopInbox
from ..errors import ConnectionClosed, ConnectionMoved
from ..handover.transport import ServerConnections, TransportHandover
from ..protocol.close_codes import CloseCode
from ..protocol.origins import ANY_ORIGIN
from ..protocol.request import Headers, Request, address_of, check_field, http_scheme
from ..protocol.state import State
from ..websocket import WebSocket
from .asgi_calls import ASGICalls, Disconnected, Event, mark_as_coroutine_function, received
from .lookup import ASGI_KEY
from .peer_watch import PeerWatch

logger: logging.Logger = logging.getLogger("websocket_handler")

KEY = ASGI_KEY
"""The key of the `WebSocket` in the scope."""

CLIENT_LEFT = 499
"""The status in logs and counters for a client that disconnected before a response, as in nginx."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[Any]]
RawHeaders = Iterable[tuple[bytes, bytes]]


class ASGISession(ASGICalls):
    """One run of an ASGI application on a WebSocket, from its request to its end.

    `fields` are added to every response. `decided` is called with the status of the response
    that is sent.
    """

    def __init__(
        self,
        websocket: WebSocket,
        handover: TransportHandover,
        server: ServerConnections,
        fields: RawHeaders = (),
        decided: Callable[[int], object] = lambda _: None,
    ) -> None:
        super().__init__(websocket)
        self._handover = handover
        handover.on_decided = self._note_decision
        self._server = server
        self._fields = list(fields)
        self._when_decided = decided
        self._connect_received = False
        self._decided = asyncio.Event()
        self._waiting = 0  # coroutines in receive() before the decision
        self._denial: tuple[int, RawHeaders] | None = None
        self._closed_with = (CloseCode.ABNORMAL_CLOSURE, "")
        self._unread: LoopInbox | None = None  # set after the application has closed
        # A function of the class: a bound method would keep the session in a reference cycle.
        self._handle_event: Callable[[ASGISession, Event], object] = ASGISession._decide

    async def run(self, application: Application, scope: Scope) -> None:
        """Run the application, then close or reject a WebSocket that it has left open."""
        scope[KEY] = self._websocket
        self._server.undecided.add(self)
        try:
            result = await application(scope, self.receive, self.send)
        except (Disconnected, ConnectionMoved):
            pass
        except BaseException as error:
            logger.error("%r: Exception in ASGI application", self._websocket, exc_info=error)
            await self._end_abnormally()
            if not isinstance(error, Exception):
                raise
        else:
            if result is not None:
                logger.error("the ASGI application should return None, not %r", result)
            await self._end_normally()
        finally:
            self._server.undecided.discard(self)

    if sys.version_info < (3, 11):  # there, a compiled function cannot be marked

        @mark_as_coroutine_function
        def receive(self) -> Coroutine[Any, None, Event]:
            return super().receive()

        @mark_as_coroutine_function
        def send(self, message: Event) -> Coroutine[Any, None, None]:
            return super().send(message)

    async def _receive_slow_path(self) -> Event:
        """Receive before the WebSocket is accepted, after it is closed, or while another
        coroutine receives."""
        if not self._connect_received:
            self._connect_received = True
            return {"type": "websocket.connect"}
        if self._websocket._outcome is None:
            await self._wait_for_decision()
        while self._is_receiving:
            self._may_receive = self._may_receive or asyncio.Event()
            self._may_receive.clear()
            await self._may_receive.wait()
        if self._messages is not None:
            return await self.receive()
        if self._unread is not None and self._unread.has_message:
            return received(self._unread.take())
        return disconnect(*self._closed_with)

    def _disconnect(self) -> Event:
        """Return the last message for the application: the connection has ended."""
        close = self._websocket._close
        return disconnect(close.code, close.reason)

    async def _wait_for_decision(self) -> None:
        """Wait until the application decides, the client disconnects, or the server shuts down."""
        if self._server.is_closing:
            self._end_undecided(HTTPStatus.SERVICE_UNAVAILABLE)
        watch = PeerWatch(self._handover.transport, lambda: self._end_undecided(CLIENT_LEFT))
        self._waiting += 1
        try:
            await self._decided.wait()
        finally:
            self._waiting -= 1
            watch.close()

    def server_closes(self) -> None:
        """Reject with 503 if the application waits for a message, because the server shuts down."""
        if self._waiting:
            self._end_undecided(HTTPStatus.SERVICE_UNAVAILABLE)

    def _end_undecided(self, status: int) -> None:
        if self._websocket._outcome is None:
            self._deny(status)
            self._handle_event = ASGISession._after_disconnect

    async def _drain(self) -> None:
        """Wait for the peer, above `high_water` unsent bytes."""
        try:
            await self._websocket.adrain()
        except ConnectionClosed as closed:
            raise Disconnected(str(closed)) from None

    def _handle(self, message: Event) -> None:
        self._handle_event(self, message)

    # Handlers of all other messages, by the stage of the conversation

    def _decide(self, message: Event) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol") or None, message.get("headers", ()))
        elif kind == "websocket.close":
            self._deny(HTTPStatus.FORBIDDEN)
        elif kind == "websocket.http.response.start":
            if not 100 <= message["status"] < 600:
                raise RuntimeError(f"{message['status']} is not an HTTP status")
            fields = list(message.get("headers", ()))
            for name, value in decoded(fields):
                check_field(name, value)
            self._denial = (message["status"], fields)
            self._handle_event = ASGISession._deny_with_body
        else:
            raise RuntimeError(f"{kind} was sent before websocket.accept or websocket.close")

    def _close(self, message: Event) -> None:
        if message["type"] != "websocket.close":
            raise RuntimeError(f"{message['type']} was sent after websocket.accept")
        code, reason = message.get("code", CloseCode.NORMAL_CLOSURE), message.get("reason") or ""
        if self._websocket.state in (State.CLOSING, State.CLOSED):
            raise Disconnected("the WebSocket is closed")
        self._websocket.close(code, reason)
        self._closed_with = code, reason
        self._messages, self._unread = None, self._messages
        self._handle_event = ASGISession._after_close

    def _deny_with_body(self, message: Event) -> None:
        kind = message["type"]
        if kind != "websocket.http.response.body":
            raise RuntimeError(f"{kind} was sent after websocket.http.response.start")
        body, is_last = message.get("body", b""), not message.get("more_body", False)
        if self._denial is not None:
            status, fields = self._denial
            self._denial = None
            self._deny(status, fields, body, is_last)
        else:
            self._handover.write(body, is_last)
        if is_last:
            self._handle_event = ASGISession._after_close

    def _after_disconnect(self, message: Event) -> None:
        raise Disconnected(f"{message['type']} was sent after websocket.disconnect")

    def _after_close(self, message: Event) -> None:
        if self._websocket.state is State.CLOSED:
            self._after_disconnect(message)
        raise RuntimeError(f"{message['type']} was sent after the last message")

    # Accepting, rejecting and ending

    def _accept(self, subprotocol: str | None, fields: RawHeaders) -> None:
        websocket = self._websocket
        websocket.response_headers.clear()  # an earlier accept may have failed
        for name, value in decoded((*self._fields, *fields)):
            if name.lower() == "sec-websocket-protocol" and subprotocol is None:
                subprotocol = value  # as in uvicorn's own classes
            else:
                websocket.response_headers.add(name, value)
        settings: dict[str, Any] = {}
        if websocket._settings.allowed_origins is None:  # the application checks the origin
            settings["allowed_origins"] = (ANY_ORIGIN,)
        websocket.connect(subprotocol, **settings)
        self._handle_event = ASGISession._close
        self._handover.complete()
        self._messages = websocket.__aiter__()

    def _deny(
        self, status: int, fields: RawHeaders = (), body: bytes = b"", is_last: bool = True
    ) -> None:
        """Reject with an HTTP response. The connection closes after the body."""
        sent = decoded((*self._fields, *fields))
        present = Headers(sent)
        if is_last and "content-length" not in present:
            sent.append(("Content-Length", str(len(body))))
        if "content-type" not in present:
            sent.append(("Content-Type", "text/plain; charset=utf-8"))
        self._handover.reject(status, sent)
        self._handover.write(body, is_last)
        self._handle_event = ASGISession._after_close if is_last else ASGISession._deny_with_body

    def _note_decision(self, status: int) -> None:
        self._decided.set()
        self._server.undecided.discard(self)
        self._server.track(self._websocket)
        self._when_decided(status)

    async def _end_normally(self) -> None:
        if self._websocket._outcome is None:
            if self._denial is None and not self._server.is_closing:
                logger.error(
                    "%r: the ASGI application neither accepted nor closed", self._websocket
                )
            self._deny_undecided()
        elif self._messages is not None:
            if self._websocket.state is not State.CLOSED:
                self._websocket.close()
        else:  # the application may have called `connect()` itself
            self._handover.complete()

    async def _end_abnormally(self) -> None:
        if self._websocket._outcome is None:
            self._deny_undecided()
        elif self._messages is not None or not self._handover.is_complete:
            self._handover.abort()

    def _deny_undecided(self) -> None:
        """Reject the request after the application has returned without a decision."""
        if self._denial is not None:
            self._deny(*self._denial)
        elif self._server.is_closing:
            self._deny(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR, body=b"Internal Server Error")


def request_of(scope: Scope, method: str = "GET") -> Request:
    """Return the request of a `websocket` scope, which does not contain the method."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string", b"")
    return Request(
        method=method,
        target=(path.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1"),
        headers=Headers(decoded(scope["headers"])),
        http_version=scope.get("http_version", "1.1"),
        remote_address=address_of(*scope["client"]) if scope.get("client") else None,
        scheme=http_scheme(scope.get("scheme")),
    )


def decoded(fields: RawHeaders) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def disconnect(code: int, reason: str) -> Event:
    return {"type": "websocket.disconnect", "code": int(code), "reason": reason}
