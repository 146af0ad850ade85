"""A WebSocket of uvicorn is freed when it is closed, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from typing import Any

import uvicorn

from websocket_handler import WebSocket

from ..support.programs import TIMEOUT_S

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


def test_closed_websocket_is_in_no_reference_cycle() -> None:
    seen: list[weakref.ref[WebSocket]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(weakref.ref(scope["websocket"]))
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    async def main() -> None:
        config = uvicorn.Config(
            application,
            ws="websocket_handler.servers.uvicorn:WebSocketProtocol",
            lifespan="off",
            log_config=None,
        )
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = asyncio.ensure_future(server.serve([listening]))
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            writer.write(HANDSHAKE)
            assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
            writer.close()
            while seen[0]() is not None:
                await asyncio.sleep(0.01)
            server.should_exit = True
            await serving

    gc.collect()
    gc.disable()
    try:
        asyncio.run(asyncio.wait_for(main(), TIMEOUT_S))
    finally:
        gc.enable()
