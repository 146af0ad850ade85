"""The part of the application that is the same in every framework."""

from __future__ import annotations

from typing import Any

from websocket_handler import Room, WebSocket

KIB = 1 << 10

closed: list[tuple[int, str]] = []
"""The arguments of the `close` events."""


def open_websocket(ws: WebSocket, path: str, user: str | None, room: Room) -> Any:
    """Register the listeners of the path, and connect. Returns the result of `connect()`."""
    if path == "/fails":
        raise LookupError("the handler failed")
    ws.on("close", lambda code, reason: closed.append((code, reason)))
    if path == "/room":
        ws.on("message", room.send)
        answer = ws.connect()
        room.add(ws)
        return answer
    if path == "/feed":
        ws.on("message", lambda _: feed(ws))
        return ws.connect(max_buffered=256 * KIB)
    if path == "/greeting":
        answer = ws.connect()
        ws.send(f"hello {user}")
        return answer
    ws.on("message", lambda message: answer_message(ws, message))
    subprotocol = "chat.v2" if "chat.v2" in ws.subprotocols else None
    return ws.connect(subprotocol)


def feed(ws: WebSocket) -> None:
    for _ in range(20):
        ws.send(bytes(64 * KIB))


def answer_message(ws: WebSocket, message: str | bytes) -> None:
    if message == "fail":
        raise LookupError("the listener failed")
    if message == "leave":
        ws.close(4001, "you asked for it")
    else:
        ws.send(message)
