"""The actions of an application on its WebSocket, for the target `engine`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from websocket_handler import WebSocket
from websocket_handler.errors import WebSocketError


def broken_off() -> Iterator[str]:
    yield "begun, "
    raise ValueError("on purpose")


def leave(_: WebSocket) -> None:
    raise SystemExit


ACTIONS: tuple[Callable[[WebSocket], object], ...] = (
    lambda websocket: websocket.send("hello"),
    lambda websocket: websocket.send(b"\x00" * 200),
    lambda websocket: websocket.send("large " * 12_000),
    lambda websocket: websocket.send(("in ", "frag", "ments")),
    lambda websocket: websocket.send("compressed " * 40, compress=True),
    lambda websocket: websocket.ping(b"ping"),
    lambda websocket: websocket.close(),
    lambda websocket: websocket.close(4000, "reason"),
    lambda websocket: websocket.pause(),
    lambda websocket: websocket.resume(),
    lambda websocket: websocket.abort(),
    lambda websocket: websocket.send(broken_off()),
    lambda websocket: websocket.send("\ud800"),
    leave,
    lambda websocket: websocket.once("message", websocket.send),
    lambda websocket: websocket.receive(timeout=0),
    lambda websocket: websocket.drain(timeout=0),
)
EXPECTED = (WebSocketError, ValueError, TimeoutError, SystemExit)
