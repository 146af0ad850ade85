"""The application in Tornado: with_tornado.py PORT LOOP [CERTIFICATE]."""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import signal
import ssl
import sys

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from websocket_handler import ALL_VERSIONS, ConnectionClosed
from websocket_handler.servers.tornado import close_all_websockets, websocket

from .. import misuse

JOURNAL: list[list[object]] = []


class Echo(RequestHandler):
    def get(self) -> None:
        ws = websocket(self, versions=ALL_VERSIONS)
        if ws is None:
            self.set_status(426)
            self.write("We only speak WebSockets here\n")
            return
        if self.request.path == "/forbidden":
            self.set_status(403)
            self.write("not you\n")
            return
        ws.on("message", ws.send)
        ws.on("close", lambda code, reason: JOURNAL.append(["close", code, reason]))
        ws.connect(max_message_size=1 << 24)
        ws.send("hello")
        if self.request.path == "/raise":
            raise RuntimeError("as the test wants it")
        if self.request.path == "/body":
            self.write("nobody")
            self.flush()
            self.finish("sees this")


class Misused(RequestHandler):
    def get(self, kind: str) -> None:
        misuse.connect(websocket(self), kind)
        if kind == "body":
            self.write("nobody sees this")


class Later(RequestHandler):
    """Connects in a coroutine, after a delay."""

    async def get(self) -> None:
        await asyncio.sleep(0.01)
        ws = websocket(self)
        assert ws is not None
        ws.on("message", ws.send)
        ws.connect(max_message_size=1 << 24)
        ws.send("hello")
        await asyncio.sleep(0.01)


class ASGISession(RequestHandler):
    async def get(self) -> None:
        ws = websocket(self, max_message_size=1 << 24, versions=ALL_VERSIONS)
        assert ws is not None
        ws.connect()
        ws.send("hello")
        try:
            async for message in ws:
                ws.send(message)
        except ConnectionClosed as closed:
            JOURNAL.append(["closed", closed.code])
        JOURNAL.append(["the end"])


class Plain(RequestHandler):
    def get(self) -> None:
        self.write(json.dumps("plain\n"))


class Journal(RequestHandler):
    def get(self) -> None:
        self.write(json.dumps(JOURNAL))


class Tasks(RequestHandler):
    def get(self) -> None:
        self.write(json.dumps(len(asyncio.all_tasks())))


ROUTES = {
    **dict.fromkeys(("/echo", "/forbidden", "/raise", "/body"), Echo),
    r"/misuse/(\w+)": Misused,
    "/later": Later,
    "/conversation": ASGISession,
    "/plain": Plain,
    "/journal": Journal,
    "/tasks": Tasks,
}


async def serve(port: int, certificate: list[str]) -> None:
    context = None
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
    server = HTTPServer(Application(list(ROUTES.items())), ssl_options=context)
    server.listen(port, "127.0.0.1")
    print(f"Running on http{'s' * bool(context)}://127.0.0.1:{port}", flush=True)  # noqa: T201
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    server.stop()
    await close_all_websockets()
    await server.close_all_connections()


def main() -> None:
    port, loop, *certificate = sys.argv[1:]
    logging.basicConfig(level=logging.INFO)
    new_loop = importlib.import_module(loop).new_event_loop()
    asyncio.set_event_loop(new_loop)
    new_loop.run_until_complete(serve(int(port), certificate))
    new_loop.close()


if __name__ == "__main__":
    main()
