"""An engine for which the system has no threads, descriptors or memory."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import gc
import hashlib
import logging
import os
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocket_handler import (
    IS_NATIVE,
    Engine,
    Headers,
    Request,
    Settings,
    SocketHandover,
    State,
    TransportHandover,
    WebSocket,
    connect,
)
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support import connections
from ..support.connections import HANDSHAKE, Peer, make_websocket
from ..support.programs import wait_for

KEY = b"\x01\x02\x03\x04"
HELLO = write_frame(Opcode.TEXT, b"hello", key=KEY)


@contextlib.contextmanager
def no_threads() -> Iterator[None]:
    """No thread can start inside: its stack would exceed the address space limit."""
    before = threading.stack_size(1 << 47)
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            threading.Thread(target=print).start()
        yield
    finally:
        threading.stack_size(before)


def test_handshake_without_a_thread_gets_503_and_succeeds_later() -> None:
    engine = Engine()
    with no_threads():
        websocket = make_websocket(engine)
        ends: list[int] = []
        websocket.on("close", lambda code, _: ends.append(code))
        websocket.connect()
        ours, theirs = socket.socketpair()
        websocket._take_over(ours)
    with theirs:
        assert Peer(theirs).read_head().startswith(b"HTTP/1.1 503 ")
    assert (ends, websocket.state) == ([1006], State.CLOSED)
    assert (engine.stats().open, dict(engine.stats().refused)) == (0, {503: 1})
    later = make_websocket(engine)
    later.on("message", later.send)
    peer = connections.connect(later)
    peer.sock.sendall(HELLO)
    assert peer.read() == Message("hello")
    engine.stop()


def test_engine_stops_before_the_handover_handshake_gets_503() -> None:
    engine = Engine()
    websocket = make_websocket(engine, max_connections=1)
    ends: list[int] = []
    websocket.on("close", lambda code, _: ends.append(code))
    websocket.connect()
    engine.stop()
    ours, theirs = socket.socketpair()
    with pytest.raises(RuntimeError, match="closed"):
        websocket._take_over(ours)
    with theirs:
        assert Peer(theirs).read_head().startswith(b"HTTP/1.1 503 ")
    assert ends == [1006]
    assert engine.stats().open == 0


def test_client_that_cannot_start_a_thread_raises() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        answering = threading.Thread(target=answer_one, args=(listening,))
        answering.start()
        engine = Engine()
        port = listening.getsockname()[1]
        with no_threads(), pytest.raises(RuntimeError, match="no thread"):
            connect(f"ws://127.0.0.1:{port}/", engine=engine)
        answering.join(10)
    assert engine.stats().open == 0


def answer_one(listening: socket.socket) -> None:
    """Complete the handshake of one client, and read until it disconnects."""
    accepted, _ = listening.accept()
    with accepted:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += accepted.recv(1)
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        accepted.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        while accepted.recv(100):
            pass


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
def test_listener_takeover_without_a_spare_thread_recovers_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine, release, inside = Engine(), threading.Event(), threading.Event()

    def block(_: object) -> None:
        inside.set()
        assert release.wait(30)

    echo, slow = make_websocket(engine), make_websocket(engine)
    echo.on("message", echo.send)
    slow.on("message", block)
    echoing, blocking = connections.connect(echo), connections.connect(slow)
    with caplog.at_level(logging.WARNING), no_threads():
        blocking.sock.sendall(HELLO)
        assert inside.wait(10)
        for _ in range(3):
            echoing.sock.sendall(HELLO)
            assert echoing.read() == Message("hello")
        assert engine.stats().threads_exhausted == 1
    assert caplog.text.count("no thread can be started") == 1
    wait_for(lambda: len(engine._threads) == 3, "another stand-by")
    again = make_websocket(engine)
    inside.clear()
    again.on("message", block)
    connections.connect(again).sock.sendall(HELLO)
    assert inside.wait(10)
    echoing.sock.sendall(HELLO)
    assert echoing.read() == Message("hello")
    release.set()
    engine.stop()


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
def test_engine_without_its_second_thread_serves() -> None:
    engine = Engine()
    started = threading.Thread.start

    first = threading.Event()

    def start(thread: threading.Thread) -> None:
        """Only one more thread can start."""
        if first.is_set():
            raise RuntimeError("can't start new thread")
        first.set()
        started(thread)

    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        peer = connections.connect(websocket)
        peer.sock.sendall(HELLO)
        assert peer.read() == Message("hello")
        wait_for(lambda: engine.stats().threads_exhausted == 1, "the shortage to be counted")
    wait_for(lambda: len(engine._threads) == 2, "another stand-by")
    engine.stop()


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
@pytest.mark.parametrize("broken", ["thread", "logging"])
def test_thread_that_takes_over_polls_although_it_cannot_get_a_standby(broken: str) -> None:
    """No memory for another thread, or no log line about it: the poller must not end."""
    engine, release, inside = Engine(), threading.Event(), threading.Event()

    def block(_: object) -> None:
        inside.set()
        assert release.wait(30)

    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    echo, slow = make_websocket(engine), make_websocket(engine)
    echo.on("message", echo.send)
    slow.on("message", block)
    echoing, blocking = connections.connect(echo), connections.connect(slow)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "__init__", fail)
        if broken == "logging":
            patch.setattr(logging.getLogger("websocket_handler"), "warning", fail)
        blocking.sock.sendall(HELLO)
        assert inside.wait(10)
        for _ in range(3):
            echoing.sock.sendall(HELLO)
            assert echoing.read() == Message("hello")
    release.set()
    engine.stop()


def test_check_without_memory_closes_the_connection(engine: Engine) -> None:
    """No ping can be sent: without another deadline the connection would stay for ever."""
    websocket = make_websocket(engine, ping_interval=0.05)
    peer = connections.connect(websocket)
    send, failures = websocket._send_frame, [MemoryError]

    def fail_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        send(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websocket, "_send_frame", fail_once)
        assert peer.read_to_end_or_close() == [Close(1011, "internal error")]
    peer.sock.close()
    wait_for(lambda: engine.stats().open == 0, "the end")


def test_connection_that_cannot_be_closed_holds_up_no_other(engine: Engine) -> None:
    websockets = [make_websocket(engine) for _ in range(3)]
    peers = [connections.connect(websocket) for websocket in websockets]

    def fail(*_: object) -> None:
        raise MemoryError

    for peer in peers:
        threading.Thread(target=answer_close, args=(peer,)).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(websockets[1], "_send_close", fail)
        is_closed = engine.close_all(timeout=10)
    assert is_closed
    assert [websocket.close_code for websocket in websockets] == [1001, 1006, 1001]


def answer_close(peer: Peer) -> None:
    if peer.read_to_end_or_close():
        peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xe9", key=KEY))
    peer.sock.close()


def test_invalid_close_code_of_close_all_is_an_error_at_once(engine: Engine) -> None:
    connections.connect(make_websocket(engine))
    with pytest.raises(ValueError, match="1006"):
        engine.close_all(1006, timeout=10)


@pytest.mark.parametrize("server_keeps_fd", [True, False])
def test_engine_cannot_start_at_connect_the_client_gets_503(server_keeps_fd: bool) -> None:
    engine = Engine()
    sock, theirs = socket.socketpair()
    peer = Peer(theirs)
    with sock, sock.makefile("rb") as reader:
        handover = SocketHandover(sock, reader, engine, server_keeps_fd=server_keeps_fd)
        request = Request("GET", "/", Headers(HANDSHAKE.items()), remote_address="a pair")
        websocket = WebSocket(request, Settings(max_connections=1), handover=handover)
        ends: list[int] = []
        websocket.on("close", lambda code, _: ends.append(code))
        with no_threads():
            websocket.connect()
            handover.complete()
        sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")  # as a server does: discarded
    assert peer.read_head().startswith(b"HTTP/1.1 503 ")
    assert (ends, engine.stats().open) == ([1006], 0)
    engine.stop()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """No descriptor can be opened inside."""
    gc.collect()  # else it may close some inside
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_no_descriptor_for_the_socket_of_a_transport_it_is_served_nevertheless() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.pause_reading()
        handover = TransportHandover(transport)
        request = Request("GET", "/", Headers(HANDSHAKE.items()), remote_address="a pair")
        websocket = WebSocket(request, handover=handover)
        websocket.on("message", websocket.send)
        websocket.connect()
        with no_descriptors():
            handover.complete()
        received = b""
        await loop.sock_sendall(theirs, HELLO)
        while not received.endswith(b"\x81\x05hello"):
            received += await asyncio.wait_for(loop.sock_recv(theirs, 1 << 16), 10)
        theirs.close()
        await websocket.await_closed()

    asyncio.run(main())


@pytest.mark.skipif(not IS_NATIVE, reason="the other engine needs none before its first connection")
def test_no_descriptors_for_the_default_engine_the_server_keeps_the_connection() -> None:
    """`connect()` raises, and the server answers the request."""
    sock, theirs = socket.socketpair()
    with sock, theirs, sock.makefile("rb") as reader, pytest.MonkeyPatch.context() as patch:
        patch.setattr("websocket_handler.engine._default", None)
        handover = SocketHandover(sock, reader, server_keeps_fd=False)
        request = Request("GET", "/", Headers(HANDSHAKE.items()), remote_address="a pair")
        websocket = WebSocket(request, handover=handover)
        with no_descriptors(), pytest.raises(OSError, match="Too many open files"):
            websocket.connect()
        assert not handover.is_detached
        handover.abort()
        sock.sendall(b"HTTP/1.1 500 ")
        assert theirs.recv(100) == b"HTTP/1.1 500 "


@pytest.mark.skipif(IS_NATIVE, reason="the native engine has its descriptors from the start")
def test_no_descriptors_for_the_loop_of_an_engine_the_client_gets_503() -> None:
    def fail() -> None:  # really without descriptors, Python logs an error of its own
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    engine = Engine()
    websocket = make_websocket(engine)
    ours, theirs = socket.socketpair()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", fail)
        websocket.connect()
        websocket._take_over(ours)
    with theirs:
        assert Peer(theirs).read_head().startswith(b"HTTP/1.1 503 ")
    peer = connections.connect(later := make_websocket(engine))
    wait_for(lambda: later.state is State.OPEN, "the next handshake")
    peer.sock.close()
    engine.stop()
