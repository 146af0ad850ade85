"""Tornado's own server and client, which drop extension parameters without a value."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application
from tornado.websocket import WebSocketHandler, websocket_connect

from websocket_handler import Compression, aconnect, configure_server

MESSAGES = ["hello " * 400, "hello again " * 400, "hello " * 400]


class TornadoEcho(WebSocketHandler):
    def get_compression_options(self) -> dict[str, Any]:
        return {}

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class OurEcho(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ws: Any = self.websocket  # type: ignore[attr-defined]
        ws.on("message", ws.send)
        ws.connect()

    def log_message(self, *_: object) -> None:
        """Does nothing."""


COMPRESSIONS = [
    True,
    Compression(server_no_context_takeover=False),
    Compression(client_no_context_takeover=False),
    Compression(server_max_window_bits=10, client_max_window_bits=10, threshold=0),
]


@pytest.mark.parametrize("compression", COMPRESSIONS, ids=str)
def test_our_client_and_tornado_server_compress(compression: Compression | bool) -> None:
    async def run_over_asgi_messages() -> None:
        sock, port = bind_unused_port()
        server = HTTPServer(Application([("/", TornadoEcho)]))
        server.add_sockets([sock])
        ws = await aconnect(f"ws://127.0.0.1:{port}/", compression=compression)
        async with ws:
            assert ws.extensions.startswith("permessage-deflate")
            for message in MESSAGES:
                ws.send(message)
                assert await ws.areceive() == message
            assert ws.traffic.bytes_received < len("".join(MESSAGES)) // 2
        server.stop()

    asyncio.run(asyncio.wait_for(run_over_asgi_messages(), 30))


@pytest.fixture(params=COMPRESSIONS, ids=str)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of our server with compression."""
    server = configure_server(
        ThreadingHTTPServer(("127.0.0.1", 0), OurEcho), compression=request.param
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_tornado_client_and_our_server_compress(port: int) -> None:
    async def run_over_asgi_messages() -> None:
        client = await websocket_connect(f"ws://127.0.0.1:{port}/", compression_options={})
        for message in MESSAGES:
            await client.write_message(message)
            assert await client.read_message() == message
        client.close()
        assert await client.read_message() is None

    asyncio.run(asyncio.wait_for(run_over_asgi_messages(), 30))
