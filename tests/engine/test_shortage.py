"""An engine that cannot start a thread."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator

import pytest

from websocket_handler import IS_NATIVE, Engine, State, connect
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support import connections
from ..support.connections import Peer, make_websocket
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
