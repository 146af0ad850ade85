"""A packet that goes to many clients is encoded and framed once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from aiohttp import web
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

import socketio
from websocket_handler.protocol.prepared import PreparedMessage
from websocket_handler.socketio import serve

from ..support.programs import TIMEOUT_S
from .engineio_client import PATH

NEWS = '42["news",{"text":"hi"}]'


@pytest.fixture
def created(monkeypatch: pytest.MonkeyPatch) -> list[PreparedMessage]:
    """The messages with the news that have been encoded."""
    messages: list[PreparedMessage] = []

    class Recorded(PreparedMessage):
        __slots__ = ()

        def __init__(self, data: Any) -> None:
            super().__init__(data)
            if data == NEWS:
                messages.append(self)

    monkeypatch.setattr("websocket_handler.socketio.packets.PreparedMessage", Recorded)
    return messages


class QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Write nothing."""


@contextlib.contextmanager
def wsgi_server(application: Any) -> Iterator[str]:
    with make_server("127.0.0.1", 0, application, handler_class=QuietHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"ws://127.0.0.1:{server.server_port}{PATH}websocket"
        finally:
            server.shutdown()
            thread.join()


@contextlib.asynccontextmanager
async def aiohttp_server(sio: Any) -> AsyncIterator[str]:
    app = web.Application()
    sio.attach(app)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"ws://127.0.0.1:{runner.addresses[0][1]}{PATH}websocket"
    finally:
        await runner.cleanup()


def test_packet_of_a_synchronous_server_is_framed_once(created: list[PreparedMessage]) -> None:
    sio = serve(socketio.Server(async_mode="threading"))
    with wsgi_server(socketio.WSGIApp(sio)) as url, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url, compression=None)) for _ in range(3)]
        for client in clients:
            client.send("40")
            while not str(client.recv(TIMEOUT_S)).startswith("40"):
                pass
        sio.emit("news", {"text": "hi"})
        assert [client.recv(TIMEOUT_S) for client in clients] == 3 * [NEWS]
    assert [len(message.frames) for message in created] == [1]


async def emit_to_three() -> None:
    sio = serve(socketio.AsyncServer(async_mode="aiohttp"))
    async with aiohttp_server(sio) as url, contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(connect_async(url, compression=None)) for _ in range(3)
        ]
        for client in clients:
            await client.send("40")
            while not str(await client.recv()).startswith("40"):
                pass
        await sio.emit("news", {"text": "hi"})
        assert [await client.recv() for client in clients] == 3 * [NEWS]


def test_packet_of_an_asynchronous_server_is_framed_once(created: list[PreparedMessage]) -> None:
    asyncio.run(asyncio.wait_for(emit_to_three(), TIMEOUT_S))
    assert [len(message.frames) for message in created] == [1]
