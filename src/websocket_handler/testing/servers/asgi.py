"""Serves ASGI applications, as uvicorn does with this library's protocol class, without uvicorn.

A request is read from a socket pair. For a WebSocket, `ASGISession` runs the application as under
uvicorn: with `websocket` messages, or with the `WebSocket` that `ASGIMiddleware` uses.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from functools import partial
from socket import socket
from typing import Any
from urllib.parse import unquote

from ...engine import loop_engine
from ...errors import WebSocketError
from ...handover.transport import ServerConnections, TransportHandover
from ...protocol.close_codes import CloseCode
from ...protocol.handshake import phrase
from ...protocol.request import Headers, check_field, head, is_websocket_request, tokens
from ...servers.asgi import (
    Application,
    ASGISession,
    Receive,
    Scope,
    Send,
    decoded,
    request_of,
)
from ...servers.asgi_calls import Disconnected, Event
from ...servers.forwarded import in_scope
from ...settings import Settings
from ...websocket import WebSocket
from ..failures import Failures
from . import ADDRESS, HOST


class ASGIServer:
    """Serves one application in the running event loop."""

    def __init__(self, app: Application, settings: Settings | None, failures: Failures) -> None:
        self._app = app
        self.settings: Settings = settings or Settings()
        self._failures = failures
        self.state: dict[str, Any] = {}

    async def application(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; its exceptions are recorded."""
        try:
            await self._app(scope, receive, send)
        except Disconnected:
            raise
        except Exception as error:
            if scope["type"] != "lifespan":
                self._failures.record(error)
            raise

    async def start(self) -> None:
        self.connections = ServerConnections(loop_engine(), CloseCode.GOING_AWAY)
        self._lifespan = Lifespan(self.application, self.state)
        await self._lifespan.start()

    async def serve(self, sock: socket) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.connect_accepted_socket(partial(ASGIConnection, self), sock)
        await connection.run()

    async def stop(self) -> None:
        try:
            await self._lifespan.stop()
        finally:
            del self._lifespan  # leaves no cycle of references to the garbage collector


class Lifespan:
    """One run of the application with the `lifespan` scope."""

    def __init__(self, application: Application, state: dict[str, Any]) -> None:
        """`state` is that of the scope: a lifespan fills it."""
        self._application = application
        self._state = state
        self._received: asyncio.Queue[Event] = asyncio.Queue()
        self._sent: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Raises the exception of the application's startup. Does nothing else if the application
        has no lifespan."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._exchange("startup")

    async def stop(self) -> None:
        """Raises the exception of the application's shutdown."""
        if self._task is not None and not self._task.done():
            await self._exchange("shutdown")
            await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSION, "state": self._state}
        await self._application(scope, self._received.get, self._sent.put)

    async def _exchange(self, phase: str) -> None:
        """Send an event to the application, and wait for its answer or its end."""
        assert self._task is not None
        await self._received.put({"type": f"lifespan.{phase}"})
        answer = asyncio.ensure_future(self._sent.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            if phase == "shutdown":
                self._task.result()
            elif not self._task.cancelled():
                self._task.exception()  # retrieved: without lifespan, applications may raise
            return
        message = answer.result()
        if message["type"] == f"lifespan.{phase}.failed":
            await asyncio.wait({self._task})
            self._task.result()
            raise WebSocketError(f"the {phase} of the application failed: {message['message']}")


VERSION = {"version": "3.0", "spec_version": "2.4"}


class ASGIConnection(asyncio.Protocol):
    """One connection, for one request."""

    def __init__(self, server: ASGIServer) -> None:
        self._server = server
        self._received = bytearray()
        self._is_complete = False
        self._handling: asyncio.Event = asyncio.Event()
        self.disconnected: asyncio.Event = asyncio.Event()
        self._early = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._is_complete:
            return
        self._received += data
        start, end, rest = bytes(self._received).partition(b"\r\n\r\n")
        if not end:
            return
        request_line, *lines = start.decode("latin-1").split("\r\n")
        self._method, self._target, _ = request_line.split(" ")
        pairs = (line.partition(": ") for line in lines)
        self._headers = Headers((name.lower(), value) for name, _, value in pairs)
        self._is_websocket = is_websocket_request(self._method, self._headers)
        if self._is_websocket or len(rest) >= int(self._headers.get("content-length", "0")):
            self._is_complete = True
            self._early = rest
            if self._is_websocket:
                self._transport.pause_reading()
            self._handling.set()

    def connection_lost(self, _: Exception | None) -> None:
        self.disconnected.set()
        self._handling.set()

    async def run(self) -> None:
        """Serve the request until the application is done."""
        await self._handling.wait()
        if not self._is_complete:
            return
        if self._is_websocket:
            await self._run_websocket()
        else:
            await self._run_http()

    async def _run_websocket(self) -> None:
        server, scope = self._server, self._scope("websocket", "ws")
        scope["subprotocols"] = tokens(self._headers.get_all("sec-websocket-protocol"))
        scope["extensions"] = {"websocket.http.response": {}}
        handover = TransportHandover(self._transport, early=self._early, server=server.connections)
        websocket = WebSocket(request_of(scope, self._method), server.settings, handover=handover)
        websocket._follow(partial(in_scope, scope))
        session = ASGISession(websocket, handover, server.connections)
        await session.run(server.application, scope)

    async def _run_http(self) -> None:
        exchange = HTTPExchange(self._transport, self._early, self.disconnected)
        scope = self._scope("http", "http")
        scope["method"] = self._method
        try:
            await self._server.application(scope, exchange.receive, exchange.send)
        except Exception:
            exchange.fail()
        finally:
            self._transport.close()

    def _scope(self, kind: str, scheme: str) -> MutableMapping[str, Any]:
        path, _, query = self._target.partition("?")
        fields = self._headers.fields()
        return {
            "type": kind,
            "asgi": VERSION,
            "http_version": "1.1",
            "scheme": scheme,
            "server": (HOST, 80),
            "client": ADDRESS,
            "root_path": "",
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in fields],
            "state": self._server.state.copy(),
        }


class HTTPExchange:
    """The messages of an `http` scope."""

    def __init__(
        self, transport: asyncio.Transport, body: bytes, disconnected: asyncio.Event
    ) -> None:
        self._transport = transport
        self._body: bytes | None = body
        self._disconnected = disconnected
        self._has_begun = False

    async def receive(self) -> Event:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._disconnected.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Event) -> None:
        if message["type"] == "http.response.start":
            fields = decoded(message.get("headers", ()))
            for name, value in fields:
                check_field(name, value)
            self._begin(message["status"], fields)
        elif message["type"] == "http.response.body":
            self._transport.write(message.get("body", b""))
            if not message.get("more_body", False):
                self._transport.close()
                self._disconnected.set()

    def fail(self) -> None:
        """The application has raised: respond with 500, unless it has begun its response."""
        if not self._has_begun:
            self._begin(500, [("content-type", "text/plain; charset=utf-8")])
            self._transport.write(b"Internal Server Error")

    def _begin(self, status: int, fields: list[tuple[str, str]]) -> None:
        self._has_begun = True
        self._transport.write(head(f"HTTP/1.1 {status} {phrase(status)}", fields))
