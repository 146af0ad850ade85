"""The routes of every application: one function for handlers in threads, one for coroutines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

from websocket_handler import WebSocket

REQUEST_ID = "seven"
"""The header X-Request-Id of every response."""

WAIT_LIMIT_S = 20.0
CLOSED: dict[str, list[int]] = {}
"""The codes of the `close` events, for each path."""

user: ContextVar[str] = ContextVar("user", default="nobody")
client_spoke = threading.Event()


class Response(NamedTuple):
    status: int
    body: str


@contextlib.contextmanager
def as_user() -> Iterator[None]:
    token = user.set("around")
    try:
        yield
    finally:
        user.reset(token)


def respond(request: Any, path: str) -> Response:
    """Return the response of the handler of `path`, in a thread."""
    ws = WebSocket.of(request)
    if ws is not None and path == "/client-gone":
        with told_to_client(ws) as has_left:
            wait_until(has_left)
            return respond_at_once(ws, path)
    if ws is not None and path == "/receives":
        ws.connect()
        ws.send(ws.receive(WAIT_LIMIT_S))
        return Response(200, "received")
    return respond_at_once(ws, path)


async def respond_in_loop(request: Any, path: str) -> Response:
    """Return the response of the handler of `path`, in a coroutine."""
    ws = WebSocket.of(request)
    if ws is not None and path == "/client-gone":
        with told_to_client(ws) as has_left:
            await wait_in_loop_until(has_left)
            return respond_at_once(ws, path)
    if ws is not None and path == "/receives":
        ws.connect()
        ws.send(await ws.areceive())
        return Response(200, "received")
    return respond_at_once(ws, path)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_LIMIT_S
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


async def wait_in_loop_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_LIMIT_S
    while not condition() and time.monotonic() < end:
        await asyncio.sleep(0.01)


@contextlib.contextmanager
def told_to_client(ws: WebSocket) -> Iterator[Callable[[], bool]]:
    """Tell the client by files in its folder that its handler runs, and how it ended; yields a
    function that returns whether the client has left."""
    folder = Path(ws.request.headers["X-Folder"])
    (folder / "entered").touch()
    outcome = "cancelled"
    try:
        yield (folder / "left").exists
        outcome = "connected"
    finally:
        (folder / outcome).touch()


def respond_at_once(ws: WebSocket | None, path: str) -> Response:
    if ws is None:
        return Response(200, json.dumps(CLOSED) if path == "/closed" else "plain")
    if path == "/refuses":
        return Response(403, "not you")
    ws.on("close", lambda code, _: CLOSED.setdefault(path, []).append(code))
    user.set("of the request")
    ROUTES.get(path, echo)(ws)
    if path == "/raises":
        raise RuntimeError("as the test wants it")
    if path == "/connects-twice":
        ws.connect()
    return Response(401 if path == "/aborts" else 200, "connected")


def wait_for_client() -> None:
    """Work that follows the response of /works-on, in a thread."""
    wait_until(client_spoke.is_set)


async def wait_for_client_in_loop() -> None:
    """Work that follows the response of /works-on, in a coroutine."""
    await wait_in_loop_until(client_spoke.is_set)


# The handlers


def echo(ws: WebSocket, **settings: Any) -> None:
    ws.on("message", ws.send)
    ws.connect(**settings)


def works_on(ws: WebSocket) -> None:
    client_spoke.clear()
    ws.on("message", lambda _: client_spoke.set())
    echo(ws)


def send_user(ws: WebSocket, **settings: Any) -> None:
    ws.on("message", lambda _: ws.send(user.get()))
    ws.connect(**settings)


def send_client(ws: WebSocket) -> None:
    """Send the client's address and the scheme of its request."""
    address, scheme = ws.request.remote_address, ws.request.scheme
    ws.connect()
    ws.send(json.dumps([address[0] if isinstance(address, tuple) else None, scheme]))


def send_when_closed(ws: WebSocket) -> None:
    ws.on("close", lambda *_: ws.send("too late"))
    echo(ws)


def forget_to_connect(ws: WebSocket) -> None:
    ws.on("message", ws.send)


ROUTES: dict[str, Callable[[WebSocket], object]] = {
    "/works-on": works_on,
    "/context": send_user,
    "/keeps-context": lambda ws: send_user(ws, keep_context=True),
    "/around": lambda ws: send_user(ws, around=as_user),
    "/client": send_client,
    "/some-origins": lambda ws: echo(ws, allowed_origins=["https://other.example"]),
    "/any-origin": lambda ws: echo(ws, allowed_origins="*"),
    "/sends-when-closed": send_when_closed,
    "/forgets": forget_to_connect,
    "/limited": lambda ws: echo(ws, max_connections=1),
    "/closes-at-once": lambda ws: ws.reject(4003, "not yours"),
}
