"""The application beside FastAPI, in `socketio.ASGIApp`."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi import FastAPI

import socketio

from .application import Journal, options, serve_if_asked, state_of, with_async_handlers

chosen = options()
queue = chosen.pop("message_queue", None)
if queue is not None:
    chosen["client_manager"] = socketio.AsyncRedisManager(queue, "flask-socketio")
sio = socketio.AsyncServer(**{"async_mode": "asgi", **chosen})
serve_if_asked(sio)
journal: Journal = []
with_async_handlers(sio, journal)
api = FastAPI()


@api.get("/state")
async def state() -> dict[str, Any]:
    return state_of(sio, journal)


@api.get("/emit")
async def emit(text: str, room: str | None = None, times: int = 1) -> list[float]:
    """Emit a text. Returns the seconds of the call of `emit`."""
    begin = time.perf_counter()
    await sio.emit("news", text * times, to=room)
    return [time.perf_counter() - begin]


@api.get("/allow")
async def allow(origins: str) -> list[str]:
    """Change the allowed origins, to the JSON in the query."""
    sio.eio.cors_allowed_origins = json.loads(origins)
    return ["changed"]


app = socketio.ASGIApp(sio, api)
