"""The servers that the test suites of the Socket.IO project expect, as a WSGI and an ASGI
application. SOCKETIO_SUITE is "engineio" or "socketio".

"auth" is emitted a moment after the connection: the suites miss a message that arrives in the same
read as the one before.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import os
from typing import Any

import engineio

import socketio

from .application import options, serve_if_asked

SUITE = os.environ["SOCKETIO_SUITE"]
DELAY_S = 0.2


def wsgi_app() -> Any:
    chosen = {"async_mode": "threading", **options()}
    if SUITE == "engineio":
        eio = engineio.Server(**chosen)
        eio.on("message", eio.send)
        serve_if_asked(eio)
        return engineio.WSGIApp(eio)
    sio = socketio.Server(**chosen)
    for namespace in ("/", "/custom"):
        register(sio, namespace)
    serve_if_asked(sio)
    return socketio.WSGIApp(sio)


def register(sio: Any, namespace: str) -> None:
    def greet(sid: str, auth: Any) -> None:
        sio.sleep(DELAY_S)
        sio.emit("auth", auth or {}, to=sid, namespace=namespace)

    @sio.on("connect", namespace=namespace)
    def connect(sid: str, _: Any, auth: Any) -> None:
        sio.start_background_task(greet, sid, auth)

    @sio.on("message", namespace=namespace)
    def message(sid: str, *data: Any) -> None:
        sio.emit("message-back", data, to=sid, namespace=namespace)

    @sio.on("message-with-ack", namespace=namespace)
    def message_with_ack(_: str, *data: Any) -> Any:
        return data


def asgi_app() -> Any:
    chosen = {"async_mode": "asgi", **options()}
    if SUITE == "engineio":
        eio = engineio.AsyncServer(**chosen)
        eio.on("message", eio.send)
        serve_if_asked(eio)
        return engineio.ASGIApp(eio)
    sio = socketio.AsyncServer(**chosen)
    for namespace in ("/", "/custom"):
        register_async(sio, namespace)
    serve_if_asked(sio)
    return socketio.ASGIApp(sio)


def register_async(sio: Any, namespace: str) -> None:
    async def greet(sid: str, auth: Any) -> None:
        await sio.sleep(DELAY_S)
        await sio.emit("auth", auth or {}, to=sid, namespace=namespace)

    @sio.on("connect", namespace=namespace)
    async def connect(sid: str, _: Any, auth: Any) -> None:
        sio.start_background_task(greet, sid, auth)

    @sio.on("message", namespace=namespace)
    async def message(sid: str, *data: Any) -> None:
        await sio.emit("message-back", data, to=sid, namespace=namespace)

    @sio.on("message-with-ack", namespace=namespace)
    async def message_with_ack(_: str, *data: Any) -> Any:
        return data
