"""Prints the bytes that an idle connection of a browser keeps, in a process of its own: what other
tests import, such as Django, changes what a connection keeps for its listeners."""

from __future__ import annotations

import gc
import os
import socket
import sys
import tracemalloc
from base64 import b64encode
from typing import TypeAlias

from websocket_handler.engine import Engine
from websocket_handler.protocol.request import Headers, Request
from websocket_handler.settings import Settings
from websocket_handler.websocket import WebSocket

from ..support.programs import wait_for
from ..support.raw_client import masked, text

WARM_UP, COUNT = 50, 300

Pairs: TypeAlias = list[tuple[socket.socket, socket.socket]]


def browsers_request(port: int) -> Request:
    fields = {
        "Host": "chat.example.com",
        "Connection": "Upgrade",
        "Pragma": "no-cache",
        "Cache-Control": "no-cache",
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0.0.0",
        "Upgrade": "websocket",
        "Origin": "http://chat.example.com",
        "Sec-WebSocket-Version": "13",
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Accept-Language": "en-US,en;q=0.9",
        "Cookie": "session=" + os.urandom(46).hex(),
        "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
    }
    return Request("GET", "/chat?room=1", Headers(fields.items()), "1.1", ("192.0.2.1", port))


def ignore(_: object) -> None:
    """A listener that all connections share."""


def connect(engine: Engine, kept: list[WebSocket | None], numbers: range, pairs: Pairs) -> None:
    """Connect a browser to each of these pairs, and wait until each has sent a message."""
    for number in numbers:
        own, peer = pairs[number]
        websocket = WebSocket(browsers_request(number), Settings(), engine=engine)
        websocket.on("message", ignore)
        websocket.connect()
        websocket._take_over(own)
        peer.sendall(masked(text("hi")))
        kept[number] = websocket
    wait_for(lambda: engine.stats().traffic.messages_received == numbers.stop, "all messages")
    gc.collect()


def main() -> None:
    engine = Engine()
    pairs = [socket.socketpair() for _ in range(WARM_UP + COUNT)]
    kept: list[WebSocket | None] = [None] * len(pairs)  # it does not grow while memory is traced
    connect(engine, kept, range(WARM_UP), pairs)
    tracemalloc.start()
    connect(engine, kept, range(WARM_UP, len(pairs)), pairs)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    last = kept[-1]
    assert last is not None
    assert last.request.headers["Cookie"].startswith("session=")
    engine.stop()
    sys.stdout.write(f"{size / COUNT}\n")


if __name__ == "__main__":
    main()
