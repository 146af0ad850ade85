"""aiohttp, Tornado, and the ASGI servers that do not hand over the connection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from websocket_handler import IS_NATIVE

from ..support.ports import free_port
from ..support.programs import Program, running

HERE = "tests.end_to_end.asgi"
BARE = f"{HERE}.bare:app"
Command = Callable[[int], list[str]]


def serve(command: Command, ready: str) -> contextlib.AbstractContextManager[Program]:
    port = free_port()
    return running(Program(command(port), f"{ready}.*?:({port})", not IS_NATIVE))


AIOHTTP = {
    "asyncio": lambda port: ["-m", f"{HERE}.with_aiohttp", str(port), "asyncio"],
    "uvloop": lambda port: ["-m", f"{HERE}.with_aiohttp", str(port), "uvloop"],
}

OTHER_SERVERS: dict[str, tuple[Command, str]] = {
    "hypercorn": (lambda port: ["-m", "hypercorn", "-b", f"127.0.0.1:{port}", BARE], "Running on"),
    "daphne": (lambda port: ["-m", "daphne", "-p", str(port), BARE], "Listening on TCP"),
    "granian": (
        lambda port: ["-m", "granian", "--interface", "asgi", "--port", str(port), BARE],
        "Listening at",
    ),
    "gunicorn": (
        lambda port: ["-m", "gunicorn", "-k", "asgi", "-b", f"127.0.0.1:{port}", BARE],
        "Listening at",
    ),
}

READY = "Running on"

TORNADO = {
    loop: lambda port, loop=loop: ["-m", "tests.end_to_end.asgi.with_tornado", str(port), loop]
    for loop in ("asyncio", "uvloop")
}
