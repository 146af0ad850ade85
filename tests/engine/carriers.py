"""WebSockets over TCP on every carrier: a socket, TLS, an asyncio transport.

On every engine: with its own threads, in an asyncio loop, in a uvloop loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import trustme
import uvloop

from websocket_handler import Engine, WebSocket

from ..support.connections import make_websocket
from ..support.tls import trusting

Result = TypeVar("Result")

CARRIERS = ("socket", "TLS", "transport", "TLS transport")

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

PLACES = [
    *(("threads", carrier) for carrier in CARRIERS[:2]),
    *((loop, carrier) for loop in LOOPS for carrier in CARRIERS),
]
"""The place where an engine runs, and the carriers its connections can use there."""

AUTHORITY = trustme.CA()
server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
AUTHORITY.issue_cert("localhost").configure_cert(server_context)
client_context = trusting(AUTHORITY)


class LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self, kind: str) -> None:
        self.loop = LOOPS[kind]()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(20)


class EngineRunner:
    """A running engine, and the means to give it connections."""

    def __init__(self, engine: Engine, thread: LoopThread | None) -> None:
        self.engine = engine
        self.thread = thread
        self.peers: list[socket.socket] = []

    def connect(self, websocket: WebSocket, carrier: str) -> socket.socket:
        """Connect `websocket`; returns its peer, which has read the 101."""
        ours, theirs = tcp_pair()
        websocket.connect()
        if "transport" in carrier:
            assert self.thread is not None
            peer = self._give_transport(websocket, ours, theirs, "TLS" in carrier)
        else:
            if carrier == "TLS":
                ours, theirs = secure_pair(ours, theirs)
            self._give(websocket, ours)
            peer = theirs
        self.peers.append(peer)
        read_head(peer)
        return peer

    def _give(self, websocket: WebSocket, connected: socket.socket | asyncio.Transport) -> None:
        async def give() -> None:
            websocket._take_over(connected)

        if self.thread is None:
            websocket._take_over(connected)
        else:
            self.thread.run(give())

    def _give_transport(
        self, websocket: WebSocket, ours: socket.socket, theirs: socket.socket, is_tls: bool
    ) -> socket.socket:
        async def give() -> None:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                asyncio.Protocol, ours, ssl=server_context if is_tls else None
            )
            transport.pause_reading()
            websocket._take_over(transport)

        assert self.thread is not None
        given = asyncio.run_coroutine_threadsafe(give(), self.thread.loop)
        if is_tls:
            theirs = client_context.wrap_socket(theirs, server_hostname="localhost")
        given.result(20)
        return theirs


@contextlib.contextmanager
def running_engine(kind: str) -> Iterator[EngineRunner]:
    """An engine with "threads", or in a loop of `LOOPS`."""
    thread = None if kind == "threads" else LoopThread(kind)
    runner = EngineRunner(Engine(thread.loop if thread else None), thread)
    try:
        yield runner
    finally:
        for peer in runner.peers:
            peer.close()
        if thread is None:
            runner.engine.stop(10)
        else:
            thread.run(thread.loop.shutdown_asyncgens())
            thread.stop()
            thread.loop.close()


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        theirs = socket.create_connection(listener.getsockname())
        ours, _ = listener.accept()
    theirs.settimeout(20)
    return ours, theirs


def secure_pair(ours: socket.socket, theirs: socket.socket) -> tuple[socket.socket, socket.socket]:
    secured: list[socket.socket] = []
    server = threading.Thread(
        target=lambda: secured.append(server_context.wrap_socket(ours, server_side=True))
    )
    server.start()
    theirs = client_context.wrap_socket(theirs, server_hostname="localhost")
    server.join(20)
    return secured[0], theirs


def read_head(peer: socket.socket) -> None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = peer.recv(1)
        assert byte, head
        head += byte


def reset(peer: socket.socket) -> None:
    """End the connection with RST."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(peer.detach())


def finish(peer: socket.socket) -> None:
    """End the connection with FIN (RST if unread data is left), without close_notify."""
    os.close(peer.detach())


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def new_websocket(runner: EngineRunner, **settings: Any) -> tuple[WebSocket, list[tuple[int, str]]]:
    """Returns an unconnected WebSocket, and the list of its future `close` events."""
    websocket = make_websocket(runner.engine, **settings)
    ends: list[tuple[int, str]] = []
    websocket.on("close", lambda code, reason: ends.append((code, reason)))
    return websocket, ends
