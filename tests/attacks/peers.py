"""Measurements of the scorecard that are not attacks, made in the same way for this library and for
well-known servers: memory per connection, dead peers, server shutdown, repeated connects.

Each server has its own default settings; the client is the same.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..support.ports import free_port
from ..support.programs import Program, running
from ..support.raw_client import RawClient, close, text
from .rig import KIB, MIB, at_scale, settled_memory

HELLO = text("hello")
KIBIBYTE = text("x" * 1024)
OFFER: dict[str, str | None] = {"Sec-WebSocket-Extensions": "permessage-deflate"}
PING_TIMEOUT_S = 60

WEBSOCKETS_SERVER = """
import asyncio, sys, websockets
async def echo(websocket):
    async for message in websocket:
        await websocket.send(message)
async def main():
    async with websockets.serve(echo, "127.0.0.1", int(sys.argv[1])) as server:
        import signal
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, server.close)
        print("ready on port", sys.argv[1], flush=True)
        await server.wait_closed()
asyncio.run(main())
"""


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI application for uvicorn, with uvicorn's own WebSocket class and with ours."""
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": event["text"]})


def uvicorn(*options: str) -> list[str]:
    words = ["-m", "uvicorn", "--port", str(free_port()), *options, "--log-level", "info"]
    return [*words, "--no-access-log", "--lifespan", "off", "tests.attacks.peers:echo"]


def contestants() -> dict[str, list[str]]:
    """Name and version of each server, and the command that starts it."""
    version = importlib.metadata.version
    ours = "websocket_handler.servers.uvicorn:WebSocketProtocol"
    return {
        "ours, http.server": ["-m", "tests.attacks.serving"],
        "ours, uvicorn": uvicorn("--ws", ours),
        f"websockets {version('websockets')}": ["-c", WEBSOCKETS_SERVER, str(free_port())],
        f"uvicorn {version('uvicorn')}, its default": uvicorn(),
    }


def started(words: list[str]) -> contextlib.AbstractContextManager[Program]:
    ready = r"(?:ready on port |running on http://127\.0\.0\.1:)(\d+)"
    return running(Program(words, ready, not IS_NATIVE, 20_000))


MEASUREMENTS: dict[str, Callable[[Program], str]] = {
    "an idle connection, no compression": lambda program: _idle(program, None),
    "an idle connection that agreed to compression, 1 KiB echoed": lambda program: _idle(
        program, OFFER
    ),
    "memory that 1e6 connections which came and went leave": lambda program: _churn(program),
    "SIGTERM: told with 1001 or 1012": lambda program: _end(program),
    "a dead peer is found after": lambda program: _death(program),
}


def measure() -> dict[str, dict[str, str]]:
    """The measurements of each server; every duration comes from a separate process."""
    found: dict[str, dict[str, str]] = {}
    for name in contestants():
        found[name] = {}
        for what, look in MEASUREMENTS.items():
            with started(contestants()[name]) as program:
                found[name][what] = look(program)
    return found


def _idle(program: Program, offer: dict[str, str | None] | None) -> str:
    count = at_scale(500, 2000)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(RawClient(program.address)).open(headers=offer)
        before = settled_memory(program)
        for _ in range(count):
            client = stack.enter_context(RawClient(program.address)).open(headers=offer)
            client.send(KIBIBYTE if offer else HELLO)
            first, second = client.read(2)
            length = second & 127
            client.read(int.from_bytes(client.read(2), "big") if length == 126 else length)
            assert first & 15 == Opcode.TEXT
        return f"{(settled_memory(program) - before) / count / KIB:.1f} KiB"


def _churn(program: Program) -> str:
    def come_and_go() -> None:
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
            client.send(close(1000))
            client.expect_close(1000)
            client.expect_end()

    count = at_scale(5000, 100_000)
    for _ in range(count):  # until memory use is stable
        come_and_go()
    before = settled_memory(program)
    for _ in range(count):
        come_and_go()
    return f"{(settled_memory(program) - before) / MIB * 1e6 / count:.0f} MiB (from {count})"


def _death(program: Program) -> str:
    with RawClient(program.address).open() as client:
        begun = time.monotonic()
        client.sock.settimeout(PING_TIMEOUT_S)
        try:
            client.read_to_end()
        except TimeoutError:
            return f"more than {PING_TIMEOUT_S} s"
        except ConnectionResetError:
            pass
        return f"{time.monotonic() - begun:.1f} s"


def _end(program: Program) -> str:
    count, told = 30, 0
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)).open() for _ in range(count)]
        program.end_soon(signal.SIGTERM)
        for client in clients:
            with contextlib.suppress(AssertionError, EOFError, OSError):
                opcode, payload, _ = client.read_frame()
                code = int.from_bytes(payload[:2], "big")
                told += opcode == Opcode.CLOSE and code in (1001, 1012)
                client.send(close(code))
    return f"{told} of {count}"


if __name__ == "__main__":
    for name, figures in measure().items():
        sys.stdout.write(f"{name}: {figures}\n")
