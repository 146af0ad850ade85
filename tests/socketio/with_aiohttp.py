"""The application in aiohttp: with_aiohttp.py PORT [CERTIFICATE]."""

from __future__ import annotations

import sys

from aiohttp import web

import socketio

from .application import (
    Journal,
    options,
    serve_if_asked,
    state_of,
    tls_of,
    with_async_handlers,
)

sio = socketio.AsyncServer(**{"async_mode": "aiohttp", **options()})
serve_if_asked(sio)
journal: Journal = []
with_async_handlers(sio, journal)


async def state(_: web.Request) -> web.Response:
    return web.json_response(state_of(sio, journal))


async def emit(request: web.Request) -> web.Response:
    await sio.emit("news", request.query["text"], to=request.query.get("room"))
    return web.json_response(["sent"])


if __name__ == "__main__":
    app = web.Application()
    sio.attach(app)
    app.add_routes([web.get("/state", state), web.get("/emit", emit)])
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), ssl_context=tls_of(sys.argv[2:]))
