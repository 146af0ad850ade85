"""The application in Tornado: with_tornado.py PORT [CERTIFICATE]."""

from __future__ import annotations

import asyncio
import json
import sys

from tornado.web import Application, RequestHandler

import socketio
from websocket_handler.socketio import tornado_handler

from .application import (
    Journal,
    options,
    serve_if_asked,
    state_of,
    tls_of,
    with_async_handlers,
)

sio = socketio.AsyncServer(**{"async_mode": "tornado", **options()})
serve_if_asked(sio)
journal: Journal = []
with_async_handlers(sio, journal)


class State(RequestHandler):
    def get(self) -> None:
        self.write(state_of(sio, journal))


class Emit(RequestHandler):
    async def get(self) -> None:
        room = self.get_argument("room", None)
        await sio.emit("news", self.get_argument("text"), to=room)
        self.write(json.dumps(["sent"]))


async def main() -> None:
    routes = [("/socket.io/", tornado_handler(sio)), ("/state", State), ("/emit", Emit)]
    tls = tls_of(sys.argv[2:])
    Application(routes).listen(int(sys.argv[1]), "127.0.0.1", ssl_options=tls)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
