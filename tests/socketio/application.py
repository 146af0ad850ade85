"""The application of the tests: the same handlers on a synchronous and on an asynchronous server.

The environment variable SOCKETIO_OPTIONS has options of the server in JSON, SOCKETIO_SERVE those
of `serve`; SOCKETIO_SERVE=none leaves the server to python-socketio.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
from typing import Any

import socketio
from websocket_handler import default_engine
from websocket_handler.socketio import serve

Journal = list[list[str]]


def options() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(os.environ.get("SOCKETIO_OPTIONS", "{}"))
    return found


def serve_if_asked(server: Any) -> None:
    serving = os.environ.get("SOCKETIO_SERVE", "{}")
    if serving != "none":
        serve(server, **json.loads(serving))


def tls_of(certificates: list[str]) -> ssl.SSLContext | None:
    """Return the context of a server with the only certificate; None without one."""
    if not certificates:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates[0])
    return context


def state_of(server: Any, journal: Journal) -> dict[str, Any]:
    sockets = list(server.eio.sockets.values())
    outboxes = [one.queue for one in sockets]
    return {
        "journal": journal,
        "sockets": len(sockets),
        "websockets": sum(one.upgraded for one in sockets),
        "environs": len(server.environ),
        "rooms": len(server.manager.rooms),
        "others": len(server._binary_packet) + len(server.manager.callbacks),
        "polls": sum(getattr(one, "has_poll", False) for one in outboxes),
        "unfinished": sum(getattr(one, "_unfinished", 0) for one in outboxes),
        "tasks": count_tasks(),
        "threads": threading.active_count(),
        "thread_names": sorted(one.name for one in threading.enumerate()),
        "handler_threads": sum("socketio-handler" in one.name for one in threading.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "open": default_engine().stats().open,
    }


def count_tasks() -> int:
    """Return the number of tasks of the event loop; 0 without one."""
    with contextlib.suppress(RuntimeError):
        return len(asyncio.all_tasks())
    return 0


def with_handlers(sio: Any, journal: Journal) -> None:
    """Register the handlers of a `socketio.Server`."""

    @sio.on("connect")
    def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        if auth == {"refuse": True}:
            raise socketio.exceptions.ConnectionRefusedError("not welcome", {"code": 7})
        sio.save_session(sid, {"agent": environ.get("HTTP_X_AGENT", "")})
        sio.emit("greeting", sorted(auth or {}), to=sid)

    @sio.on("disconnect")
    def disconnect(_: str, reason: str) -> None:
        journal.append(["disconnect", reason])

    @sio.on("echo")
    @sio.on("echo", namespace="/other")
    def echo(_: str, *data: Any) -> Any:
        return list(data)

    @sio.on("join")
    def join(sid: str, room: str) -> None:
        sio.enter_room(sid, room)

    @sio.on("remember")
    def remember(sid: str, text: str) -> None:
        with sio.session(sid) as session:
            session["text"] = text

    @sio.on("recall")
    def recall(sid: str) -> Any:
        return sio.get_session(sid)

    @sio.on("environ")
    def look(sid: str) -> Any:
        environ = sio.get_environ(sid)
        return [environ["PATH_INFO"], environ.get("HTTP_X_AGENT")]

    @sio.on("ask")
    def ask(sid: str) -> Any:
        return sio.call("question", 41, to=sid, timeout=10)

    @sio.on("sleep")
    def sleep(_: str, seconds: float) -> float:
        sio.sleep(seconds)
        return seconds

    @sio.on("fail")
    def fail(_: str) -> None:
        raise RuntimeError("a handler that raises")

    @sio.on("leave")
    def leave(sid: str) -> None:
        sio.disconnect(sid)


def with_async_handlers(sio: Any, journal: Journal) -> None:
    """Register the same handlers of a `socketio.AsyncServer`."""

    @sio.on("connect")
    async def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
        if auth == {"refuse": True}:
            raise socketio.exceptions.ConnectionRefusedError("not welcome", {"code": 7})
        await sio.save_session(sid, {"agent": environ.get("HTTP_X_AGENT", "")})
        await sio.emit("greeting", sorted(auth or {}), to=sid)

    @sio.on("disconnect")
    async def disconnect(_: str, reason: str) -> None:
        journal.append(["disconnect", reason])

    @sio.on("echo")
    @sio.on("echo", namespace="/other")
    async def echo(_: str, *data: Any) -> Any:
        return list(data)

    @sio.on("join")
    async def join(sid: str, room: str) -> None:
        await sio.enter_room(sid, room)

    @sio.on("remember")
    async def remember(sid: str, text: str) -> None:
        async with sio.session(sid) as session:
            session["text"] = text

    @sio.on("recall")
    async def recall(sid: str) -> Any:
        return await sio.get_session(sid)

    @sio.on("environ")
    async def look(sid: str) -> Any:
        environ = sio.get_environ(sid)
        return [environ["PATH_INFO"], environ.get("HTTP_X_AGENT")]

    @sio.on("ask")
    async def ask(sid: str) -> Any:
        return await sio.call("question", 41, to=sid, timeout=10)

    @sio.on("sleep")
    async def sleep(_: str, seconds: float) -> float:
        await sio.sleep(seconds)
        return seconds

    @sio.on("fail")
    async def fail(_: str) -> None:
        raise RuntimeError("a handler that raises")

    @sio.on("leave")
    async def leave(sid: str) -> None:
        await sio.disconnect(sid)
