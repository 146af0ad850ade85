"""The statistics of an engine and of a connection."""

from __future__ import annotations

import socket
import threading

import pytest

from websocket_handler import Engine, Headers, Request, Settings, Traffic, WebSocket
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import ALL_VERSIONS

from ..support.connections import HANDSHAKE, Peer, client_role, connect, make_websocket
from ..support.programs import wait_for
from .traffic import echoing, frame, leave

RESPONSE_SIZE = len(
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
)


def test_connection_traffic_counts_messages_and_bytes(engine: Engine) -> None:
    websocket, peer = echoing(engine)
    sent = (
        frame(Opcode.TEXT, b"whole")
        + frame(Opcode.BINARY, b"in ", fin=False)
        + frame(Opcode.PING, b"")
        + frame(Opcode.CONTINUATION, b"parts")
    )
    peer.sock.sendall(sent)
    for _ in range(3):
        peer.read()
    answers = len(b"whole") + len(b"in parts") + 3 * 2
    expected = Traffic(
        messages_received=2,
        messages_sent=2,
        frames_received=4,
        frames_sent=3,
        bytes_received=len(sent),
        bytes_sent=RESPONSE_SIZE + answers,
    )
    assert websocket.traffic == expected
    assert engine.stats().traffic == expected
    leave(websocket, peer)
    assert engine.stats().traffic.messages_received == 2  # closed connections stay counted
    assert engine.stats().traffic.bytes_received == len(sent) + 8  # the close frame


def test_large_message_counts_once(engine: Engine) -> None:
    data = bytes(3_000_000)
    websocket = make_websocket(engine, max_message_size=1 << 22)
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    threading.Thread(
        target=peer.sock.sendall, args=(frame(Opcode.BINARY, data),), daemon=True
    ).start()
    assert peer.read() == Message(data)
    assert websocket.traffic.messages_received == websocket.traffic.messages_sent == 1
    assert websocket.traffic.bytes_received == len(data) + 14
    assert websocket.traffic.bytes_sent == RESPONSE_SIZE + len(data) + 10


def test_fragmented_message_counts_once(engine: Engine) -> None:
    websocket, peer = echoing(engine)
    websocket.send(iter(["a", "b", "c"]))
    assert peer.read() == Message("abc")
    assert websocket.traffic[:4] == (0, 1, 0, 3)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_messages_of_every_version_are_counted(engine: Engine, version: object) -> None:
    from websocket_handler.protocol.versions.version import Offer, Version

    assert isinstance(version, Version)
    hello = version._client_request(Offer("localhost", "/", origin="http://localhost"))
    head, _, body = hello.request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")[1:]
    headers = Headers([tuple(line.split(": ", 1)) for line in lines])  # type: ignore[misc]
    request = Request("GET", "/", headers, remote_address="a pair")
    websocket = WebSocket(request, Settings(versions=ALL_VERSIONS), engine=engine)
    said = threading.Event()
    websocket.on("message", lambda _: said.set())
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours, body)
    peer = Peer(theirs)
    response = peer.read_head()
    answer = peer.sock.recv(hello.body_size, socket.MSG_WAITALL)
    fields = [line.split(": ", 1) for line in response.decode().split("\r\n")[1:-2]]
    secret = hello.verify(Headers([tuple(field) for field in fields]), answer)  # type: ignore[misc]
    encoder = version._make_encoder(True, secret)
    data = encoder.message("hello")
    theirs.sendall(data)
    assert said.wait(10)
    websocket.send("and you")
    assert theirs.recv(100)
    assert websocket.traffic[:4] == (1, 1, 1, 1)
    assert websocket.traffic.bytes_received == len(body) + len(data)


def test_engine_stats_count_its_connections(engine: Engine) -> None:
    connections = [echoing(engine) for _ in range(4)]
    stats = engine.stats()
    assert (stats.open, stats.accepted, stats.closed, stats.refused) == (4, 4, {}, {})
    for connection, code in zip(connections[:3], (1000, 1000, 4001), strict=True):
        leave(*connection, code=code)
    wait_for(lambda: engine.stats().open == 1, "three connections to end")
    stats = engine.stats()
    assert (stats.open, stats.accepted, stats.closed) == (1, 4, {1000: 2, 4001: 1})


def test_rejections_are_counted_by_status(engine: Engine) -> None:
    for headers in ({}, {"Origin": "http://elsewhere"}):
        request = Request(
            "GET",
            "/",
            Headers([*HANDSHAKE.items(), *headers.items()]),
            remote_address="a pair",
            http_version="1.1" if headers else "1.0",
        )
        ours, theirs = socket.socketpair()
        refused = WebSocket(request, engine=engine)
        refused.connect()
        refused._take_over(ours)
        assert b"refused" in Peer(theirs).read_head() + theirs.recv(1000)
    stats = engine.stats()
    assert stats.refused == {400: 1, 403: 1}
    assert (stats.open, stats.accepted, stats.closed) == (0, 0, {})


def test_queued_bytes_are_counted(engine: Engine) -> None:
    websocket, peer = echoing(engine)
    threading.Thread(target=websocket.send, args=(bytes(4_000_000),), daemon=True).start()
    wait_for(lambda: engine.stats().buffered > 1_000_000, "unsent bytes")
    peer.sock.close()


def test_client_connections_are_counted(engine: Engine) -> None:
    websocket, peer = client_role(engine)
    assert engine.stats().open == engine.stats().accepted == 1
    peer.sock.close()
    assert websocket.wait_closed(10)
