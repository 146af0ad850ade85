"""The handover alone: a socket pair replaces the server's connection."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from websocket_handler import (
    Engine,
    Headers,
    Request,
    Settings,
    SocketHandover,
    TransportHandover,
    WebSocket,
    WebSocketError,
)
from websocket_handler.handover.socket import read_early_bytes
from websocket_handler.protocol.assembly import Close, Message

from ..support.connections import HANDSHAKE, Peer
from ..support.programs import wait_for

REQUEST = Request("GET", "/path", Headers(HANDSHAKE.items()), remote_address=("192.0.2.1", 9))
SETTINGS = Settings(max_connections=1, max_connections_per_address=1)


class Connection:
    """A server's connection whose request asks for a WebSocket, and the client's end of it."""

    closes: list[tuple[int, str]]

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.sock, theirs = socket.socketpair()
        self.peer = Peer(theirs)
        self.offer(self.sock)

    def offer(self, sock: socket.socket) -> None:
        self.reader = sock.makefile("rb")
        self.handover = SocketHandover(sock, self.reader, self.engine)
        self.websocket = WebSocket(REQUEST, SETTINGS, handover=self.handover)
        closes = self.closes = []
        self.websocket.on("close", lambda code, reason: closes.append((code, reason)))

    def close(self) -> None:
        """Close the connection, as a server does at the end."""
        self.reader.close()
        self.sock.close()

    def wait_closed(self) -> tuple[int, str]:
        """Returns the close event; it is emitted once, and both limits count the connection no
        longer."""
        wait_for(lambda: self.closes, "the close event")
        wait_for(lambda: self.engine.stats().open == 0, "the place to be free")
        another = WebSocket(REQUEST, SETTINGS, engine=self.engine)
        another.connect()
        assert another._outcome is not None
        assert another._outcome.status == 101
        another.abort()
        (only,) = self.closes
        return only

    def read_response(self) -> tuple[bytes, bytes]:
        head = self.peer.read_head()
        body = b""
        while data := self.peer.sock.recv(1 << 16):
            body += data
        return head, body


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    connection = Connection(engine)
    yield connection
    connection.close()


def test_response_accepts_its_fields_precede_what_was_sent(connection: Connection) -> None:
    websocket = connection.websocket
    websocket.response_headers["X-Mine"] = "1"
    websocket.connect()
    websocket.send("x" * 100_000)
    connection.handover.complete(
        204, [("Set-Cookie", "a=1"), ("x-mine", "2"), ("Content-Type", "a/b"), ("Upgrade", "h2c")]
    )
    head = connection.peer.read_head()
    assert head.startswith(b"HTTP/1.1 101 ")
    assert head.endswith(b"X-Mine: 1\r\nSet-Cookie: a=1\r\n\r\n")
    assert connection.peer.read() == Message("x" * 100_000)
    websocket.abort()
    connection.wait_closed()


def test_response_rejects_no_sent_message_arrives(connection: Connection) -> None:
    connection.websocket.connect()
    connection.websocket.send("never seen")
    connection.websocket.close(4000)
    connection.handover.complete(404, [("X-Why", "gone")], b"nothing here", "Not Here")
    head, body = connection.read_response()
    assert head == b"HTTP/1.1 404 Not Here\r\nX-Why: gone\r\nConnection: close\r\n\r\n"
    assert body == b"nothing here"
    assert connection.wait_closed()[0] == 1006
    assert connection.engine.stats().accepted == 0
    assert connection.engine.stats().refused == {404: 1}


def test_threads_send_while_the_response_rejects_client_gets_only_the_response(
    engine: Engine,
) -> None:
    for _ in range(50):
        connection = Connection(engine)
        connection.websocket.connect()
        is_over = threading.Event()

        def send(websocket: WebSocket = connection.websocket, over: Any = is_over) -> None:
            while not over.is_set():
                try:
                    websocket.send("never seen")
                except WebSocketError:
                    return

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        connection.handover.complete(403, (), b"not you")
        head, body = connection.read_response()
        is_over.set()
        for thread in threads:
            thread.join()
        assert (head.split()[1], body) == (b"403", b"not you")
        connection.close()
        connection.peer.sock.close()
        connection.wait_closed()


@pytest.mark.parametrize("field", [("Set-Cookie", "a\r\nb: c"), ("a b", "c")])
@pytest.mark.parametrize("status", [200, 403])
def test_response_has_a_bad_field_no_byte_is_sent(
    connection: Connection, status: int, field: tuple[str, str]
) -> None:
    connection.websocket.connect()
    with pytest.raises(ValueError, match="header"):
        connection.handover.complete(status, [field])
    connection.handover.abort()
    head, _ = connection.read_response()
    assert head.startswith(b"HTTP/1.1 500 ")
    connection.wait_closed()


def test_handler_that_returns_after_the_101_closes_its_websocket(connection: Connection) -> None:
    connection.websocket.connect()
    with pytest.raises(TimeoutError):
        connection.websocket.receive(0.001)
    assert connection.peer.read_head().startswith(b"HTTP/1.1 101 ")
    connection.handover.complete()
    assert connection.peer.read() == Close(1000, "")
    connection.peer.sock.close()
    connection.wait_closed()


@pytest.mark.parametrize("is_aborted", [False, True])
def test_handler_waits_and_then_fails_closes_with_1011(
    connection: Connection, is_aborted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    connection.websocket.connect()
    assert connection.websocket.drain(10)
    assert connection.peer.read_head().startswith(b"HTTP/1.1 101 ")
    if is_aborted:
        connection.handover.abort()
    else:
        connection.handover.complete(401)
        assert "failed with 401 after the 101" in caplog.text
    assert connection.peer.read() == Close(1011, "internal error")
    connection.peer.sock.close()
    connection.wait_closed()


def test_handler_waits_and_returns_the_websocket_stays(connection: Connection) -> None:
    connection.websocket.connect()
    assert connection.websocket.drain(10)
    connection.handover.complete()
    connection.websocket.send("still here")
    assert connection.peer.read_head().startswith(b"HTTP/1.1 101 ")
    assert connection.peer.read() == Message("still here")
    connection.websocket.abort()
    connection.wait_closed()


def test_server_drops_the_request_the_client_gets_500(connection: Connection) -> None:
    dummy, end = socket.socketpair()
    end.close()
    connection.engine._discard(dummy)  # its thread has to run
    connection.websocket.connect()
    del connection.websocket, connection.handover
    gc.collect()
    head, _ = connection.read_response()
    assert head.startswith(b"HTTP/1.1 500 ")
    connection.wait_closed()


def test_client_disconnects_before_the_response_close_is_emitted(connection: Connection) -> None:
    connection.websocket.connect()
    connection.peer.sock.close()
    connection.handover.complete()
    assert connection.wait_closed()[0] == 1006


def test_client_resets_before_the_response_close_is_emitted(engine: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection = Connection(engine)
        connection.close()
        connection.sock, _ = listener.accept()
        connection.offer(connection.sock)
        connection.websocket.connect()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        connection.handover.complete()
        assert connection.wait_closed()[0] == 1006
        connection.close()


def test_engine_is_stopped_before_the_response_client_gets_503() -> None:
    engine = Engine()
    connection = Connection(engine)
    connection.websocket.connect()
    engine.stop()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        connection.handover.complete()
    assert connection.closes == [(1006, "the engine is closed")]
    assert engine.stats().open == 0
    head = connection.peer.read_head()
    assert head.startswith(b"HTTP/1.1 503 "), head
    connection.close()


def test_server_has_sent_a_response_connect_is_an_error(
    connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    connection.handover.complete(200)
    assert "'/path'" in caplog.text
    assert "did not call connect()" in caplog.text
    with pytest.raises(WebSocketError, match="answered already"):
        connection.websocket.connect()
    assert connection.engine.stats().open == 0


@pytest.mark.parametrize("status", [401, 500])
def test_handler_rejects_without_connect_no_warning(
    connection: Connection, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    connection.handover.complete(status)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_transport_is_closing_before_the_response_close_is_emitted() -> None:
    async def hand_over() -> list[int]:
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        handover = TransportHandover(transport)
        websocket = WebSocket(REQUEST, SETTINGS, handover=handover)
        closes: list[int] = []
        websocket.on("close", lambda code, _: closes.append(code))
        websocket.connect()
        transport.abort()
        await asyncio.sleep(0)
        handover.complete()
        await asyncio.sleep(0)
        theirs.close()
        assert handover.engine is not None
        assert handover.engine.stats().open == 0
        return closes

    assert asyncio.run(hand_over()) == [1006]


class EndlessPeer(io.RawIOBase):
    """Always has more data to read."""

    reads = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.reads += 1
        assert self.reads < 10, "it is read without end"
        buffer[:] = bytes(len(buffer))
        return len(buffer)


@pytest.mark.parametrize("buffered", [0, 1, 4000])
def test_client_keeps_sending_only_the_buffered_bytes_are_taken(buffered: int) -> None:
    peer = EndlessPeer()
    reader = io.BufferedReader(peer, 8192)
    if buffered:
        reader.read(8192 - buffered)
    assert len(read_early_bytes(reader)) == (buffered or 8192)
    assert peer.reads == 1
