"""An ASGI application without a framework: `websocket` routes, ordinary routes that find a
WebSocket in their scope (below /asked), and every misuse."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from websocket_handler import ASGIMiddleware, ConnectionClosed, WebSocket

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JOURNAL: list[list[object]] = []


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await live(scope, receive, send)
    elif scope["path"].startswith("/asked"):
        await asked(scope, receive, send)
    elif scope["type"] == "http":
        await pages(scope, send)
    else:
        await WEBSOCKETS[scope["path"]](scope, receive, send)


async def live(scope: Scope, receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        scope.get("state", {})["begun"] = True
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def pages(scope: Scope, send: Send) -> None:
    answers: dict[str, object] = {
        "/plain": "plain\n",
        "/journal": JOURNAL,
        "/tasks": len(asyncio.all_tasks()),
        "/pid": os.getpid(),
    }
    await respond(send, 200, json.dumps(answers[scope["path"]]).encode())


async def respond(send: Send, status: int, body: bytes, kind: str = "http.response") -> None:
    length = str(len(body)).encode()
    fields = [(b"content-type", b"text/plain"), (b"content-length", length)]
    await send({"type": f"{kind}.start", "status": status, "headers": fields})
    await send({"type": f"{kind}.body", "body": body})


# The `websocket` scope


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "about":
            about = {name: repr(value) for name, value in scope.items()}
            await send({"type": "websocket.send", "text": json.dumps(about)})
        else:
            await send({**event, "type": "websocket.send"})
    JOURNAL.append([event["type"], event["code"], event.get("reason")])


async def accept_with(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    fields = [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    await send({"type": "websocket.accept", "subprotocol": "chat", "headers": fields})
    await send({"type": "websocket.send", "bytes": b"hello", "text": None})
    await send({"type": "websocket.close", "code": 4001, "reason": "that is all"})
    try:
        await send({"type": "websocket.send", "text": "more"})
    except RuntimeError:
        JOURNAL.append(["refused to send more"])
    event = await receive()
    JOURNAL.append([event["type"], event["code"], event.get("reason")])


async def forbidden(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close", "code": 1000})


async def denied(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await respond(send, 401, b"who are you?\n", "websocket.http.response")
    event = await receive()
    JOURNAL.append([event["type"], event["code"]])


async def denied_bit_by_bit(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.http.response.start", "status": 418, "headers": []})
    for piece in (b"I am ", b"a tea", b"pot\n"):
        await send({"type": "websocket.http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0.01)
    await send({"type": "websocket.http.response.body"})


async def flood(_: Scope, receive: Receive, send: Send) -> None:
    """Sends until the peer has disconnected, which raises an error."""
    await receive()
    await send({"type": "websocket.accept"})
    sent = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": bytes(65536)})
            sent += 1
            JOURNAL[:] = [["sent", sent]]
    except OSError:
        JOURNAL[:] = [["sent", sent], ["lost"]]


async def never_receives(_: Scope, receive: Receive, send: Send) -> None:
    """Receives no message for a while, then all."""
    await receive()
    await send({"type": "websocket.accept"})
    await asyncio.sleep(1)
    size = 0
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") is not None:
            await send({"type": "websocket.send", "text": str(size)})
        else:
            size += len(event["bytes"])


async def raise_before(_: Scope, receive: Receive, __: Send) -> None:
    await receive()
    raise RuntimeError("as the test wants it")


async def raise_after(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    raise RuntimeError("as the test wants it")


async def return_before(_: Scope, receive: Receive, __: Send) -> None:
    await receive()


async def return_after(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})


async def send_before(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.send", "text": "too early"})


async def wait(_: Scope, receive: Receive, send: Send) -> None:
    """Waits for a message before it accepts, like a consumer that accepts late."""
    await receive()
    JOURNAL.append(["waiting"])
    event = await receive()
    JOURNAL.append([event["type"], event["code"]])
    try:
        await send({"type": "websocket.accept"})
    except OSError:
        JOURNAL.append(["too late"])


WEBSOCKETS = {
    "/waits": wait,
    "/echo": echo,
    "/accept-with": accept_with,
    "/forbidden": forbidden,
    "/denied": denied,
    "/denied-bit-by-bit": denied_bit_by_bit,
    "/flood": flood,
    "/never-receives": never_receives,
    "/raise-before": raise_before,
    "/raise-after": raise_after,
    "/return-before": return_before,
    "/return-after": return_after,
    "/send-before": send_before,
}


# Ordinary routes


async def route(scope: Scope, receive: Receive, send: Send) -> None:
    path = scope["path"].removeprefix("/asked")
    ws: WebSocket | None = scope["websocket"]
    assert scope["type"] == "http"
    if ws is None:
        await respond(send, 426, b"We only speak WebSockets here\n")
    elif path == "/forbidden":
        await respond(send, 403, b"not you\n")
    elif path == "/waits":
        await receive()
        JOURNAL.append(["waiting"])
        JOURNAL.append([(await receive())["type"], None])
    elif path == "/raise":
        ws.connect()
        raise RuntimeError("as the test wants it")
    elif path == "/conversation":
        ws.connect()
        ws.send("hello")
        try:
            async for message in ws:
                ws.send(message)
        except ConnectionClosed as closed:
            JOURNAL.append(["closed", closed.code])
    elif path == "/thread":
        await asyncio.get_running_loop().run_in_executor(None, connect, ws)
    else:
        connect(ws)
        await respond(send, 200, b"nobody sees this")


def connect(ws: WebSocket) -> None:
    ws.on("message", ws.send)
    ws.on("close", lambda code, reason: JOURNAL.append(["close", code, reason]))
    ws.connect()
    ws.send("hello")


asked = ASGIMiddleware(route)
