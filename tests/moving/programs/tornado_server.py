"""Tornado on a port that the next process shares: `tornado_server.py PORT`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from websocket_handler import WebSocket, amove_connections

from . import mode
from .mode import report


class Handler(RequestHandler):
    def prepare(self) -> None:
        WebSocket.of(self)  # from now on, the request has the client's address

    async def get(self) -> None:
        ws = WebSocket.of(self)
        if ws is None:
            self.write(str(os.getpid()))
            return
        if self.request.path == "/receive":
            ws.connect()
            async for message in ws:
                ws.send(mode.answer(ws, message))
            return
        about = f"{self.request.remote_ip} {self.request.protocol} {ws.request.remote_address}"
        is_asked = self.request.path == "/facts"
        ws.on("message", lambda message: ws.send(about if is_asked else mode.answer(ws, message)))
        ws.connect()


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = HTTPServer(Application([(r"/.*", Handler)]))
    port = int(sys.argv[1])
    server.add_sockets(bind_sockets(port, "127.0.0.1", reuse_port=True))
    report(f"ready on port {port}")
    await stop.wait()
    server.stop()
    report(await amove_connections(window=0.5, timeout=mode.timeout()))


if __name__ == "__main__":
    asyncio.run(main())
