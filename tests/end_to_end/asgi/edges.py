"""An ASGI application with a route for each edge case of the protocol. `/journal?of=NAME` returns
the events that the route NAME has seen, in words independent of the server's implementation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

JOURNALS: dict[str, list[Any]] = {}
CONTINUE = asyncio.Semaphore(0)
"""Released by a request for `/continue`, with which the client lets a route continue."""

ACCEPT = {"type": "websocket.accept"}
HELLO = {"type": "websocket.send", "text": "hello"}
CLOSE = {"type": "websocket.close"}


class Edge:
    """The messages of one route, and its journal."""

    def __init__(self, name: str, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.journal = JOURNALS.setdefault(name, [])

    def note(self, entry: object) -> None:
        self.journal.append(entry)

    async def receive(self, timeout: float = 10) -> None:
        """Record the next message, or that none arrives."""
        try:
            event = await asyncio.wait_for(self._receive(), timeout)
        except asyncio.TimeoutError:
            self.note("nothing")
            return
        data = event.get("bytes")
        shown = event.get("text") if data is None else data.decode("latin-1")
        self.note([event["type"], event.get("code"), event.get("reason") or "", shown])

    async def send(self, *events: object) -> None:
        """Send a message; record the kind of error that it raises."""
        for event in events:
            try:
                await self._send(event)  # type: ignore[arg-type]
            except OSError:
                self.note("OSError")
            except RuntimeError:
                self.note("RuntimeError")
            except Exception:
                self.note("another error")


def start(status: int, *fields: tuple[bytes, bytes]) -> Event:
    return {"type": "websocket.http.response.start", "status": status, "headers": list(fields)}


def body(data: bytes, more: bool = False) -> Event:
    return {"type": "websocket.http.response.body", "body": data, "more_body": more}


def accept(**fields: object) -> Event:
    return {**ACCEPT, **fields}


def send(**fields: object) -> Event:
    return {"type": "websocket.send", **fields}


def close(**fields: object) -> Event:
    return {**CLOSE, **fields}


SENT: dict[str, list[object]] = {
    "accept": [ACCEPT, HELLO, CLOSE],
    "accept-no-subprotocol": [accept(subprotocol=None), CLOSE],
    "accept-empty-subprotocol": [accept(subprotocol=""), CLOSE],
    "accept-subprotocol": [accept(subprotocol="b"), CLOSE],
    "accept-other-subprotocol": [accept(subprotocol="c"), CLOSE],
    "accept-headers": [
        accept(headers=[(b"x-a", b"1"), (b"X-A", b"2"), (b"set-cookie", b"a"), (b"x-b", b"\xe9")]),
        CLOSE,
    ],
    "accept-header-lists": [accept(headers=[[b"x-a", b"1"]]), CLOSE],
    "accept-no-headers": [accept(headers=[]), CLOSE],
    "accept-subprotocol-header": [
        accept(headers=[(b"sec-websocket-protocol", b"b")]),
        CLOSE,
    ],
    "accept-after-a-failure": [
        accept(subprotocol="c", headers=[(b"x-a", b"1"), (b"x\n", b"")]),
        accept(headers=[(b"x-a", b"2")]),
        CLOSE,
    ],
    "accept-twice": [ACCEPT, ACCEPT, CLOSE],
    "accept-close-accept": [ACCEPT, CLOSE, ACCEPT],
    "send-before": [HELLO, CLOSE],
    "unknown-before": [{"type": "websocket.unknown"}, CLOSE],
    "unknown-after": [ACCEPT, {"type": "websocket.unknown"}, CLOSE],
    "send-kinds": [
        ACCEPT,
        send(text="text"),
        send(bytes=b"bytes"),
        send(text=None, bytes=b"bytes"),
        send(text="text", bytes=None),
        send(text="text", bytes=b"bytes"),
        send(text=""),
        send(bytes=b""),
        send(bytes=bytearray(b"array")),
        CLOSE,
    ],
    "send-nothing": [ACCEPT, send(), send(text=None, bytes=None), CLOSE],
    "send-surrogate": [ACCEPT, send(text="\ud800"), CLOSE],
    "close-code": [ACCEPT, close(code=4321, reason="done")],
    "close-reason-none": [ACCEPT, close(code=1001, reason=None)],
    "close-bad-code": [ACCEPT, close(code=1006), close(code=999), CLOSE],
    "close-long-reason": [ACCEPT, close(code=1000, reason="x" * 124), CLOSE],
    "close-twice": [ACCEPT, CLOSE, CLOSE],
    "send-after-close": [ACCEPT, CLOSE, HELLO],
    "deny": [CLOSE],
    "deny-with-code": [close(code=4001, reason="no")],
    "deny-then-accept": [CLOSE, ACCEPT],
    "deny-then-send": [CLOSE, HELLO],
    "respond": [start(401, (b"x-a", b"1"), (b"content-length", b"5")), body(b"who?\n")],
    "respond-without-length": [start(404), body(b"gone\n")],
    "respond-in-pieces": [start(400), body(b"a", True), body(b"b", True), body(b"c")],
    "respond-status-too-high": [start(700), CLOSE],
    "respond-status-too-low": [start(99), CLOSE],
    "respond-then-accept": [start(400), body(b"no"), ACCEPT],
    "respond-twice": [start(400), start(401), body(b"no")],
    "respond-bad-header": [start(400, (b"x-a", b"1\r\nx-b: 2"))],
    "body-first": [body(b"no"), CLOSE],
}
"""Routes that send these messages in turn and then receive once."""


async def peer_closes(edge: Edge) -> None:
    await edge.send(ACCEPT)
    await edge.receive()
    await edge.receive()


async def peer_closes_then_send(edge: Edge) -> None:
    """The client has seen the end of the connection before the application sends."""
    await edge.send(ACCEPT)
    await edge.receive()
    await asyncio.wait_for(CONTINUE.acquire(), 10)
    await edge.send(HELLO, CLOSE)


async def two_receive(edge: Edge) -> None:
    await edge.send(ACCEPT)
    receivers = [asyncio.create_task(edge.receive()) for _ in range(2)]
    await asyncio.sleep(0)
    await edge.send(HELLO, HELLO)
    await asyncio.gather(*receivers)
    await edge.send(CLOSE)


async def cancelled(edge: Edge) -> None:
    await edge.send(ACCEPT)
    await edge.receive(0.05)
    receiver = asyncio.create_task(edge.receive())
    await asyncio.sleep(0)
    receiver.cancel()
    await asyncio.gather(receiver, return_exceptions=True)
    await edge.send(HELLO)
    await edge.receive()
    await edge.receive(0.05)
    await edge.send(HELLO)
    await edge.receive()
    await edge.send(CLOSE)


async def cancelled_while_another_receives(edge: Edge) -> None:
    await edge.send(ACCEPT)
    first, second = (asyncio.create_task(edge.receive()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await edge.send(HELLO)
    await second
    await edge.send(CLOSE)


async def close_before_receiving(edge: Edge) -> None:
    """A message has arrived, and the application has closed without receiving it."""
    await edge.send(ACCEPT)
    await asyncio.wait_for(CONTINUE.acquire(), 10)
    await edge.send(CLOSE)
    await edge.receive()
    await edge.receive()


async def raise_before(_: Edge) -> None:
    raise KeyError("as the test wants it")


async def raise_after(edge: Edge) -> None:
    await edge.send(ACCEPT)
    raise KeyError("as the test wants it")


async def return_before(_: Edge) -> None:
    pass


async def return_after(edge: Edge) -> None:
    await edge.send(ACCEPT)


async def respond_without_body(edge: Edge) -> None:
    await edge.send(start(404, (b"content-length", b"0")))


ROUTES = {
    "peer-closes": peer_closes,
    "peer-closes-then-send": peer_closes_then_send,
    "two-receive": two_receive,
    "cancelled": cancelled,
    "cancelled-while-another-receives": cancelled_while_another_receives,
    "close-before-receiving": close_before_receiving,
    "raise-before": raise_before,
    "raise-after": raise_after,
    "return-before": return_before,
    "return-after": return_after,
    "respond-without-body": respond_without_body,
}


async def app(scope: Event, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        name = scope["query_string"].decode()
        if scope["path"] == "/continue":
            CONTINUE.release()
        data = json.dumps(JOURNALS.get(name, [])).encode()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": data})
    elif scope["type"] == "websocket":
        name = scope["path"].strip("/")
        edge = Edge(name, receive, send)
        await receive()
        try:
            if name in SENT:
                await edge.send(*SENT[name])
                await edge.receive(1)
            else:
                await ROUTES[name](edge)
        finally:
            edge.note("end")
