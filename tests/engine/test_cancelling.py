"""Coroutines cancelled at any await leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, WebSocket, aconnect, configure_server
from websocket_handler.engine import default_engine, loop_engine
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import Peer, make_websocket
from ..support.programs import wait_for
from .carriers import client_context, descriptors, server_context

SCHEMES = ["ws", "wss"] if IS_NATIVE else ["ws"]


async def cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def other_tasks() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


class Stalled:
    """A server that stops responding at a given stage of the handshake."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_there, self.has_ended = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as sock:
            sock.settimeout(20)
            with contextlib.suppress(OSError):  # which is an end as well
                self._resume_reading(sock)
        self.has_ended.set()

    def _resume_reading(self, sock: socket.socket) -> None:
        if self._stage == "hello":
            sock.recv(1)
        elif self._stage == "secure response":
            with server_context.wrap_socket(sock, server_side=True) as secured:
                self._answer(secured)
                return
        elif self._stage == "response":
            self._answer(sock)
            return
        self._wait(sock)

    def _answer(self, sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        self._wait(sock)

    def _wait(self, sock: socket.socket) -> None:
        self.is_there.set()
        while sock.recv(4096):
            pass


@pytest.mark.parametrize("stage", ["hello", "secure response", "response"])
def test_handshake_that_is_cancelled_closes_its_socket(stage: str) -> None:
    if stage != "response" and not IS_NATIVE:
        pytest.skip("TLS needs the native engine")

    async def begin_and_cancel() -> None:
        server = Stalled(stage)
        scheme = "ws" if stage == "response" else "wss"
        url = f"{scheme}://localhost:{server.port}/"
        context = client_context if scheme == "wss" else None
        connecting = asyncio.ensure_future(aconnect(url, ssl=context, open_timeout=60))
        assert await asyncio.to_thread(server.is_there.wait, 20)
        await cancel(connecting)
        assert await asyncio.to_thread(server.has_ended.wait, 20)
        assert not other_tasks()

    asyncio.run(begin_and_cancel())


class EchoHandler(BaseHTTPRequestHandler):
    websocket: WebSocket

    def do_GET(self) -> None:
        self.websocket.on("message", self.websocket.send)
        self.websocket.connect()

    def log_message(self, *_: object) -> None:
        """Logs nothing."""


@contextlib.contextmanager
def echo_server(scheme: str) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EchoHandler)
    if scheme == "wss":
        server.socket = server_context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    configure_server(server)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"{scheme}://localhost:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join(20)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_cancelled_after_any_iteration_leaves_no_connection(scheme: str) -> None:
    async def connect_and_cancel(url: str, iterations: int) -> bool:
        context = client_context if scheme == "wss" else None
        connecting = asyncio.ensure_future(aconnect(url, ssl=context, open_timeout=60))
        for _ in range(iterations):
            await asyncio.sleep(0.0005)
            if connecting.done():
                break
        was_done = connecting.done()
        await cancel(connecting)
        if not connecting.cancelled():
            async with connecting.result() as websocket:
                websocket.send("hello")
                assert await websocket.areceive() == "hello"
        return was_done

    async def connect_and_cancel_everywhere(url: str) -> None:
        iterations = 0
        while not await connect_and_cancel(url, iterations):
            iterations += 1
        assert not other_tasks()
        while loop_engine().stats().open:
            await asyncio.sleep(0.01)

    with echo_server(scheme) as url:
        asyncio.run(connect_and_cancel_everywhere(url))


def test_waits_that_are_cancelled_leave_no_listener() -> None:
    async def wait_and_cancel() -> None:
        websocket, peer = connect_in_loop()
        await asyncio.to_thread(peer.read_head)
        websocket.on("drain", lambda: None)
        websocket.send(bytes(4 << 20))
        listeners = websocket._listeners
        waits: list[Callable[[], Awaitable[object]]] = [
            websocket.await_closed,
            websocket.adrain,
            websocket.areceive,
        ]
        for wait in waits * 3:
            waiting = asyncio.ensure_future(wait())
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await cancel(waiting)
        assert websocket._listeners == listeners
        assert websocket._drain_waiters is None
        peer.sock.sendall(write_frame(Opcode.TEXT, b"not lost", key=bytes(4)))
        peer.sock.settimeout(20)
        reading = asyncio.ensure_future(asyncio.to_thread(peer.read))
        assert await asyncio.wait_for(websocket.areceive(), 20) == "not lost"
        await reading
        websocket.abort()
        assert not other_tasks()

    asyncio.run(wait_and_cancel())


def test_threads_whose_waits_time_out_leave_no_listener() -> None:
    websocket, peer = connect_in_loop()
    peer.read_head()
    websocket.send(bytes(4 << 20))
    listeners = websocket._listeners
    for _ in range(3):
        assert not websocket.wait_closed(0.01)
        assert not websocket.drain(0.01)
    wait_for(lambda: websocket._listeners == listeners, "the listeners to be taken off")
    wait_for(lambda: websocket._drain_waiters is None, "nobody to wait")
    websocket.abort()


def test_end_of_async_with_that_is_cancelled_drops_the_connection() -> None:
    async def leave_and_cancel() -> None:
        websocket, peer = connect_in_loop()
        await asyncio.to_thread(peer.read_head)
        before = descriptors()

        async def use() -> None:
            async with websocket:
                pass

        using = asyncio.ensure_future(use())
        assert (await asyncio.to_thread(peer.read)) is not None  # the close frame: no answer
        await cancel(using)
        await asyncio.wait_for(websocket.await_closed(), 5)
        assert await asyncio.to_thread(peer.sock.recv, 100) == b""
        assert descriptors() < before
        assert not other_tasks()

    asyncio.run(leave_and_cancel())


def connect_in_loop() -> tuple[WebSocket, Peer]:
    """A WebSocket of the running loop's engine or of the default engine, and its peer."""
    try:
        engine = loop_engine()
    except RuntimeError:
        engine = default_engine()
    ours, theirs = socket.socketpair()
    websocket = make_websocket(engine, ping_interval=None)
    websocket.connect()
    websocket._take_over(ours)
    return websocket, Peer(theirs)
