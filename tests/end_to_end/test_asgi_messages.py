"""WebSockets over ASGI's messages: for any message of the server and any error of its calls, the
connection ends properly and is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from websocket_handler import ASGIMiddleware, Rooms, WebSocket
from websocket_handler.engine import loop_engine

Event = dict[str, Any]

SCOPE: Event = {
    "type": "websocket",
    "path": "/",
    "headers": [(b"host", b"localhost")],
    "subprotocols": [],
    "client": ("192.0.2.1", 1234),
    "extensions": {},
}


class Server:
    """The ASGI server's side: supplies the messages of a list and accepts the sent ones."""

    def __init__(self, *messages: Event | BaseException) -> None:
        connect: Event = {"type": "websocket.connect"}
        self._messages: list[Event | BaseException] = [connect, *messages]
        self.sent: list[MutableMapping[str, Any]] = []
        self.accepted = asyncio.Event()
        self.send_fails: Callable[[MutableMapping[str, Any]], BaseException | None] = lambda _: None

    async def receive(self) -> Event:
        if not self._messages:
            await asyncio.Event().wait()
        message = self._messages.pop(0)
        if message != {"type": "websocket.connect"}:
            await self.accepted.wait()
        if isinstance(message, BaseException):
            raise message
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        error = self.send_fails(message)
        if error is not None:
            raise error
        self.sent.append(message)
        if message["type"] == "websocket.accept":
            self.accepted.set()

    async def serve(self, application: ASGIMiddleware) -> None:
        await asyncio.wait_for(application(dict(SCOPE), self.receive, self.send), 10)


class Seen:
    """An application that connects and records the events of its WebSocket."""

    def __init__(self) -> None:
        self.rooms = Rooms()
        self.closed: list[tuple[int, str]] = []
        self.messages: list[str | bytes] = []
        self.stats: Any = None

    async def __call__(self, scope: Any, _: object, __: object) -> None:
        ws: WebSocket = scope["websocket"]
        ws.on("message", self.messages.append)
        ws.on("close", lambda code, reason: self.closed.append((code, reason)))
        ws.connect(max_connections=1)
        self.rooms["all"].add(ws)

    def run(self, server: Server) -> None:
        async def main() -> None:
            await server.serve(ASGIMiddleware(self))
            engine = loop_engine()
            for _ in range(100):
                if not engine.stats().open:
                    break
                await asyncio.sleep(0.01)
            self.stats = engine.stats()
            self.members = len(self.rooms["all"])
            engine.stop()

        asyncio.run(main())

    def check_end(self) -> None:
        assert len(self.closed) == 1
        assert self.stats.open == 0
        assert self.members == 0


def message(**fields: object) -> Event:
    return {"type": "websocket.receive", **fields}


def gone(**fields: object) -> Event:
    return {"type": "websocket.disconnect", **fields}


@pytest.mark.parametrize(
    ("last", "closed"),
    [
        (gone(), (1005, "")),
        (gone(code=None), (1005, "")),
        (gone(code=1005), (1005, "")),
        (gone(code=1000, reason="bye"), (1000, "bye")),
        (gone(code=4001, reason=None), (4001, "")),
        (gone(code=1006), (1006, "the peer ended the connection without closing it")),
    ],
    ids=repr,
)
def test_disconnect_is_the_close_event(last: Event, closed: tuple[int, str]) -> None:
    seen = Seen()
    seen.run(Server(message(text="one"), message(bytes=b"two", text=None), last))
    seen.check_end()
    assert seen.messages == ["one", b"two"]
    assert seen.closed == [closed]


@pytest.mark.parametrize(
    "bad",
    [
        RuntimeError("as the test wants it"),
        message(),
        message(text="\ud800"),
        message(text=7),
        message(bytes="text"),
        gone(code="1000"),
        gone(code=1000, reason="x" * 200),
        gone(code=1000, reason=b"bytes"),
        {},
    ],
    ids=repr,
)
def test_failure_while_receiving_closes_with_1011(
    bad: Event | BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    seen = Seen()
    server = Server(message(text="one"), bad)
    seen.run(server)
    seen.check_end()
    assert seen.messages == ["one"]
    assert seen.closed[0][0] == 1011
    if not isinstance(bad, dict) or bad.get("type") != "websocket.disconnect":
        assert server.sent[-1]["type"] == "websocket.close"
        assert server.sent[-1]["code"] == 1011
    assert [record.exc_info for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", ["websocket.accept", "websocket.send", "websocket.close"])
@pytest.mark.parametrize("error", [RuntimeError("as the test wants it"), OSError("gone")])
def test_failure_while_sending_ends_the_connection(
    kind: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    class Chatty(Seen):
        async def __call__(self, scope: Any, receive: object, send: object) -> None:
            await super().__call__(scope, receive, send)
            scope["websocket"].send("hello")
            scope["websocket"].close(1000)

    seen = Chatty()
    server = Server()
    server.send_fails = lambda event: error if event["type"] == kind else None
    seen.run(server)
    seen.check_end()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert bool(errors) == (not isinstance(error, OSError))


def test_route_that_waits_in_receive_learns_that_the_client_left() -> None:
    received: list[Event] = []

    async def route(_: Any, receive: Any, __: Any) -> None:
        received.append(await receive())
        received.append(await receive())

    server = Server(gone(code=1006))

    async def main() -> None:
        server.accepted.set()
        await server.serve(ASGIMiddleware(route))
        loop_engine().stop()

    asyncio.run(main())
    assert [event["type"] for event in received] == ["http.request", "http.disconnect"]


def test_aborted_connection_whose_peer_does_not_read_leaves_no_task() -> None:
    """The server's `send` waits for the peer; nothing else would end that wait."""

    class Stuck(Server):
        async def send(self, message: MutableMapping[str, Any]) -> None:
            await super().send(message)
            if message["type"] == "websocket.send":
                await asyncio.Event().wait()

    class Sending(Seen):
        async def __call__(self, scope: Any, receive: object, send: object) -> None:
            await super().__call__(scope, receive, send)
            ws: WebSocket = scope["websocket"]
            ws.on("open", lambda: ws.send("hello"))
            asyncio.get_running_loop().call_later(0.05, ws.abort)

    seen, server = Sending(), Stuck()
    seen.run(server)  # fails after 10 seconds if the application's call does not end
    seen.check_end()
    assert seen.closed == [(1006, "aborted")]
    assert [sent["type"] for sent in server.sent] == ["websocket.accept", "websocket.send"]
