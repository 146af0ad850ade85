"""A client that exceeds a limit is rejected or disconnected; others are unaffected."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from websocket_handler import (
    ConnectionClosed,
    Engine,
    Headers,
    Request,
    Settings,
    State,
    WebSocket,
)
from websocket_handler.protocol.assembly import Close, Message, Ping, Pong
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import HANDSHAKE, Peer, connect, make_websocket
from ..support.programs import wait_for

KEY = b"\x01\x02\x03\x04"
HIGH_WATER = 64 << 10


def ask(peer: Peer, opcode: int, payload: bytes = b"", times: int = 1) -> None:
    peer.sock.sendall(write_frame(opcode, payload, key=KEY) * times)


def request_from(address: str) -> Request:
    return Request("GET", "/", Headers(HANDSHAKE.items()), remote_address=(address, 40000))


def status_of(engine: Engine, settings: Settings, address: str) -> tuple[int, WebSocket, Peer]:
    """Returns the response status for a client at `address`, its WebSocket and its peer."""
    websocket = WebSocket(request_from(address), settings, engine=engine)
    websocket.on("message", websocket.send)
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours)
    peer = Peer(theirs)
    return int(peer.read_head().split()[1]), websocket, peer


def leave(peer: Peer, websocket: WebSocket) -> None:
    peer.sock.close()
    assert websocket.wait_closed(10)


def wait_until_there_are(engine: Engine, number: int) -> None:
    wait_for(lambda: engine.stats().open == number, f"{number} connections")


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_control_frame_flood_ends_the_connection(engine: Engine, opcode: int) -> None:
    websocket, other = make_websocket(engine, max_control_frames=100), make_websocket(engine)
    other.on("message", other.send)
    peer, bystander = connect(websocket), connect(other)
    ask(peer, opcode, b"again", times=101)
    events = peer.read_to_end()
    assert events.pop() == Close(1008, "too many control frames")
    assert events == ([Pong(b"again")] * 100 if opcode == Opcode.PING else [])
    ask(bystander, Opcode.TEXT, b"well?")
    assert bystander.read() == Message("well?")
    assert engine.stats().closed == {1008: 1}


def test_allowed_number_of_control_frames_is_answered(engine: Engine) -> None:
    websocket = make_websocket(engine, max_control_frames=100)
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    for _ in range(2):
        ask(peer, Opcode.PING, b"again", times=100)
        assert [peer.read() for _ in range(100)] == [Pong(b"again")] * 100
        ask(peer, Opcode.TEXT, b"still here")
        assert peer.read() == Message("still here")
        time.sleep(1.01)  # the second has passed


def test_max_connections_rejects_further_handshakes(engine: Engine) -> None:
    settings = Settings(max_connections=2)
    first, one, peer = status_of(engine, settings, "192.0.2.1")
    second, *_ = status_of(engine, settings, "192.0.2.2")
    third, refused, refused_peer = status_of(engine, settings, "192.0.2.3")
    assert (first, second, third) == (101, 101, 503)
    assert refused_peer.sock.recv(1000).endswith(b"too many connections.\n")
    assert refused.state is State.CLOSED
    assert engine.stats().refused == {503: 1}
    leave(peer, one)
    wait_until_there_are(engine, 1)
    assert status_of(engine, settings, "192.0.2.4")[0] == 101


def test_max_connections_per_address_rejects_only_that_address(engine: Engine) -> None:
    settings = Settings(max_connections_per_address=1)
    assert status_of(engine, settings, "192.0.2.1")[0] == 101
    status, one, peer = status_of(engine, settings, "192.0.2.2")
    assert status == 101
    assert status_of(engine, settings, "192.0.2.2")[0] == 429
    leave(peer, one)
    wait_until_there_are(engine, 1)
    assert status_of(engine, settings, "192.0.2.2")[0] == 101


def test_connection_without_its_socket_no_longer_counts(engine: Engine) -> None:
    """The handler has called `connect()` and raised: the integration aborts the WebSocket."""
    settings = Settings(max_connections=1)
    websocket = WebSocket(request_from("192.0.2.1"), settings, engine=engine)
    websocket.connect()
    assert engine.stats().open == 1
    websocket.abort()
    assert engine.stats().open == 0
    assert status_of(engine, settings, "192.0.2.1")[0] == 101


@pytest.mark.parametrize("field", ["max_connections", "max_connections_per_address"])
def test_senseless_limit_is_an_error(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} cannot be -1"):
        Settings(**{field: -1})  # type: ignore[arg-type]


class Reader(threading.Thread):
    """Reads the bytes sent to a peer, once told to start."""

    def __init__(self, peer: Peer, messages: int) -> None:
        super().__init__(daemon=True)
        self.peer, self.left = peer, messages
        self.go = threading.Event()

    def run(self) -> None:
        assert self.go.wait(20)
        for _ in range(self.left):
            assert isinstance(self.peer.read(), Message)


def wait_until_sender_blocks(websocket: WebSocket) -> None:
    """Wait until a thread waits for the send buffer to drain, and the peer must read first. Then
    the buffer may be below high water: the kernel may have accepted a part since."""
    wait_for(
        lambda: websocket._blocked and websocket._is_behind() and websocket._drain_waiters,
        "the sender to wait",
    )


def test_thread_blocks_in_send_while_its_peer_is_behind(engine: Engine) -> None:
    websocket = make_websocket(engine)
    reader = Reader(connect(websocket), messages=3000)
    reader.start()
    most, sent = 0, 0

    def send_all() -> None:
        nonlocal most, sent
        for _ in range(3000):
            websocket.send(b"x" * 4096)
            most = max(most, websocket.buffered_amount)
            sent += 1

    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    wait_until_sender_blocks(websocket)
    assert sent < 3000
    reader.go.set()
    sender.join(20)
    reader.join(20)
    assert not sender.is_alive()
    assert not reader.is_alive()
    assert most < 2 * HIGH_WATER


def test_thread_blocked_in_send_learns_that_the_connection_ended(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    raised: list[ConnectionClosed] = []

    def send_all() -> None:
        try:
            while True:
                websocket.send(b"x" * 4096)
        except ConnectionClosed as closed:
            raised.append(closed)

    sender = threading.Thread(target=send_all, daemon=True)
    sender.start()
    wait_until_sender_blocks(websocket)
    peer.sock.close()
    sender.join(10)
    assert [closed.code for closed in raised] == [1006]


def test_listener_never_blocks_in_send(engine: Engine) -> None:
    """The connection is closed at the hard limit."""
    websocket = make_websocket(engine, max_buffered=1 << 20, close_timeout=1.0)
    ended: list[ConnectionClosed] = []

    def flood(_: object) -> None:
        try:
            while True:
                websocket.send(b"x" * 4096)
        except ConnectionClosed as closed:
            ended.append(closed)

    websocket.on("message", flood)
    peer = connect(websocket)
    ask(peer, Opcode.TEXT)
    events = peer.read_to_end()
    assert events[-1] == Close(1008, "slow consumer")
    assert [(closed.code, closed.reason) for closed in ended] == [(1008, "slow consumer")]


def test_fragment_sender_blocks_while_its_peer_is_behind(engine: Engine) -> None:
    websocket = make_websocket(engine)
    reader = Reader(connect(websocket), messages=1)
    reader.start()
    most = 0

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for number in range(2000):
            if number == 1000:
                reader.go.set()
            most = max(most, websocket.buffered_amount)
            yield bytes(1024)

    reader.go.set()
    websocket.send(pieces())
    reader.join(20)
    assert not reader.is_alive()
    assert most < 2 * HIGH_WATER


def test_paused_connection_reads_again_after_resume(engine: Engine) -> None:
    websocket = make_websocket(engine)
    arrived = threading.Semaphore(0)
    messages: list[str] = []

    def note(message: str) -> None:
        messages.append(message)
        arrived.release()
        if message == "stop":
            websocket.pause()

    websocket.on("message", note)
    peer = connect(websocket)
    ask(peer, Opcode.TEXT, b"stop")
    assert arrived.acquire(timeout=10)
    ask(peer, Opcode.PING, b"are you there")
    ask(peer, Opcode.TEXT, b"later")
    peer.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        peer.sock.recv(100)  # not even a pong
    assert messages == ["stop"]
    websocket.resume()
    assert arrived.acquire(timeout=10)
    assert messages == ["stop", "later"]
    peer.sock.settimeout(10)
    assert peer.read() == Pong(b"are you there")


def test_paused_connection_can_be_closed(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    websocket.pause()
    websocket.close(1000, "enough")
    assert peer.read() == Close(1000, "enough")
    ask(peer, Opcode.CLOSE, (1000).to_bytes(2, "big"))
    assert websocket.wait_closed(10)


def test_paused_connection_stops_a_flood(engine: Engine) -> None:
    websocket = make_websocket(engine)
    websocket.on("message", lambda _: None)
    peer = connect(websocket)
    websocket.pause()
    peer.sock.setblocking(False)
    frames = write_frame(Opcode.BINARY, bytes(4096), key=KEY) * 10_000
    with pytest.raises(BlockingIOError):
        peer.sock.sendall(frames)
    assert websocket.traffic.bytes_received < 1 << 20


def test_latency_is_that_of_the_last_ping(engine: Engine) -> None:
    websocket = make_websocket(engine)
    told = threading.Event()
    websocket.on("pong", lambda _: told.set())
    peer = connect(websocket)
    assert websocket.latency is None
    websocket.ping("hello")
    assert peer.read() == Ping(b"hello")
    time.sleep(0.05)
    ask(peer, Opcode.PONG, b"hello")
    assert told.wait(10)
    assert websocket.latency is not None
    assert 0.05 <= websocket.latency < 10
    round_trips = engine.stats().round_trips
    assert sum(round_trips.counts) == 1
    assert round_trips.total == websocket.latency


def test_engine_pings_measure_the_latency(engine: Engine) -> None:
    websocket = make_websocket(engine, ping_interval=0.05)
    peer = connect(websocket)
    ping = peer.read()
    assert isinstance(ping, Ping)
    ask(peer, Opcode.PONG, ping.payload)
    wait_for(lambda: websocket.latency is not None, "the latency")


def test_unsolicited_pong_changes_no_latency(engine: Engine) -> None:
    websocket = make_websocket(engine)
    told = threading.Event()
    websocket.on("pong", lambda _: told.set())
    peer = connect(websocket)
    websocket.ping("hello")
    ask(peer, Opcode.PONG, b"something else")
    assert told.wait(10)
    assert websocket.latency is None
