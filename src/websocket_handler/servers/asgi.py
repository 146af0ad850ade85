"""ASGI applications: the `websocket` scope, and WebSockets as requests of ordinary routes.

Knows the messages of the ASGI specification (HTTP & WebSocket, version 2.4), and no server:
a server's integration makes the WebSocket, the scope and the hand-over, and has a
`Conversation` run the application.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ..errors import ConnectionClosed
from ..inbox import LoopInbox
from ..protocol.check import ABNORMAL_CLOSURE, NORMAL_CLOSURE
from ..protocol.origins import ANY_ORIGIN
from ..protocol.request import Headers, Request, address_of, check_field, head
from ..protocol.state import State
from ..websocket import WebSocket
from .handover import HandOver
from .lookup import ASGI_KEY

logger = logging.getLogger("websocket_handler")

KEY = ASGI_KEY
"""Where an application finds our WebSocket in its scope."""

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[Any]]
RawHeaders = Iterable[tuple[bytes, bytes]]


class Disconnected(OSError):
    """The connection is over; what an application gets that goes on sending (ASGI 2.4)."""


class Conversation:
    """One WebSocket and the application that it belongs to, from its request to its end.

    `fields` are added to every response, `decided` is called with the status of the one that
    is sent.
    """

    def __init__(
        self,
        websocket: WebSocket,
        hand_over: HandOver,
        fields: RawHeaders = (),
        decided: Callable[[int], object] = lambda _: None,
    ) -> None:
        self._websocket = websocket
        self._hand_over = hand_over
        self._fields = list(fields)
        self._when_decided = decided
        self._connect_received = False
        self._decided = asyncio.Event()
        self._denial: tuple[int, RawHeaders] | None = None
        self._closed_with = (ABNORMAL_CLOSURE, "")
        self._messages: LoopInbox | None = None  # from the moment it is accepted
        self._go_on_with: Callable[[Event], object] = self._decide

    async def run(self, application: Application, scope: Scope) -> None:
        """The application's whole life with this WebSocket, and what its end leads to."""
        scope[KEY] = self._websocket
        try:
            result = await application(scope, self.receive, self.send)
        except Disconnected:
            pass
        except BaseException as error:
            logger.error("%r: the ASGI application raised", self._websocket, exc_info=error)
            await self._end_abnormally()
            if not isinstance(error, Exception):
                raise
        else:
            if result is not None:
                logger.error("the ASGI application should return None, not %r", result)
            await self._end_normally()

    async def receive(self) -> Event:
        """The next message for the application."""
        if not self._connect_received:
            self._connect_received = True
            return {"type": "websocket.connect"}
        websocket = self._websocket
        if websocket.outcome is None:
            await self._decided.wait()
        if self._messages is None:  # denied, or closed by the application
            return disconnect(*self._closed_with)
        try:
            message = await self._messages.__anext__()
        except (StopAsyncIteration, ConnectionClosed):
            return disconnect(websocket._close.code, websocket._close.reason)
        if isinstance(message, str):
            return {"type": "websocket.receive", "text": message}
        return {"type": "websocket.receive", "bytes": message}

    async def send(self, message: Event) -> None:
        """A message from the application; waits while the peer is far behind."""
        if self._messages is None or message["type"] != "websocket.send":
            self._go_on_with(message)
            return
        websocket = self._websocket
        text = message.get("text")
        try:
            websocket.send(message["bytes"] if text is None else text)
            if websocket._above_water:
                await websocket.adrain()
        except ConnectionClosed as closed:
            raise Disconnected(str(closed)) from None

    # What any other message does, by how far the conversation has come

    def _decide(self, message: Event) -> None:
        kind = message["type"]
        if kind == "websocket.accept":
            self._accept(message.get("subprotocol"), message.get("headers", ()))
        elif kind == "websocket.close":
            self._deny(HTTPStatus.FORBIDDEN)
        elif kind == "websocket.http.response.start":
            self._denial = (message["status"], message.get("headers", ()))
            self._go_on_with = self._deny_with_body
        else:
            raise RuntimeError(f"{kind} was sent before websocket.accept or websocket.close")

    def _close(self, message: Event) -> None:
        if message["type"] != "websocket.close":
            raise RuntimeError(f"{message['type']} was sent after websocket.accept")
        code, reason = message.get("code", NORMAL_CLOSURE), message.get("reason") or ""
        if self._websocket.state in (State.CLOSING, State.CLOSED):
            raise Disconnected("the WebSocket is closed")
        self._websocket.close(code, reason)
        self._closed_with = code, reason
        self._messages = None
        self._go_on_with = self._be_over

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
            self._websocket.write_response(body, is_last)
        if is_last:
            self._go_on_with = self._be_over

    def _be_over(self, message: Event) -> None:
        raise RuntimeError(f"{message['type']} was sent after the end")

    # What becomes of the connection

    def _accept(self, subprotocol: str | None, fields: RawHeaders) -> None:
        websocket = self._websocket
        for name, value in (*self._fields, *fields):
            websocket.response_headers.add(name.decode("latin-1"), value.decode("latin-1"))
        settings: dict[str, Any] = {}
        if websocket._settings.allowed_origins is None:  # it is the application that judges
            settings["allowed_origins"] = (ANY_ORIGIN,)
        websocket.connect(subprotocol, **settings)
        self._go_on_with = self._close
        self._hand_over_now()
        self._messages = websocket.__aiter__()

    def _deny(
        self, status: int, fields: RawHeaders = (), body: bytes = b"", is_last: bool = True
    ) -> None:
        """An HTTP response, after which the connection closes: its body may end with that."""
        sent = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in (*self._fields, *fields)
        ]
        for name, value in sent:
            check_field(name, value)
        if is_last and "content-length" not in Headers(sent):
            sent.append(("Content-Length", str(len(body))))
        sent = [field for field in sent if field[0].lower() not in ("connection", "upgrade")]
        start_line = f"HTTP/1.1 {status} {phrase(status)}"
        self._websocket.respond(head(start_line, [*sent, ("Connection", "close")]))
        self._websocket.write_response(body, is_last)
        self._go_on_with = self._be_over if is_last else self._deny_with_body
        self._hand_over.secure()
        self._hand_over_now()

    def _hand_over_now(self) -> None:
        outcome = self._websocket.outcome
        assert outcome is not None
        self._hand_over.complete(self._websocket)
        self._decided.set()
        self._when_decided(int(outcome.status))

    async def _end_normally(self) -> None:
        if self._websocket.outcome is None:
            logger.error("%r: the ASGI application neither accepted nor closed", self._websocket)
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR)
        elif not self._decided.is_set():  # the application itself called `connect()`
            self._hand_over_now()
        else:
            self._websocket.close()

    async def _end_abnormally(self) -> None:
        if self._websocket.outcome is None:
            self._deny(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._hand_over.abandon(self._websocket)


def request_of(scope: Scope, method: str = "GET") -> Request:
    """The request that a `websocket` scope came as. Such a scope does not tell the method."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    query = scope.get("query_string", b"")
    return Request(
        method=method,
        target=(path.partition(b"?")[0] + (b"?" + query if query else b"")).decode("latin-1"),
        headers=Headers(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
        ),
        http_version=scope.get("http_version", "1.1"),
        remote_address=address_of(*scope["client"]) if scope.get("client") else None,
        scheme="https" if scope.get("scheme") in ("wss", "https") else "http",
    )


def disconnect(code: int, reason: str) -> Event:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def phrase(status: int) -> str:
    """The reason phrase of a status, as far as it has one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
