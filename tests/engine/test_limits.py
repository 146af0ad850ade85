"""Who asks for too much is refused, or loses the connection; nobody else does."""

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

KEY = b"\x01\x02\x03\x04"
HIGH_WATER = 64 << 10


def ask(peer: Peer, opcode: int, payload: bytes = b"", times: int = 1) -> None:
    peer.sock.sendall(write_frame(opcode, payload, key=KEY) * times)


def request_from(address: str) -> Request:
    return Request("GET", "/", Headers(HANDSHAKE.items()), remote_address=(address, 40000))


def status_of(engine: Engine, settings: Settings, address: str) -> tuple[int, WebSocket, Peer]:
    """What somebody at `address` is answered."""
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
    end = time.monotonic() + 10
    while engine.stats().open != number:
        assert time.monotonic() < end, engine.stats()
        time.sleep(0.005)


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
def test_a_flood_of_control_frames_ends_the_connection(engine: Engine, opcode: int) -> None:
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


def test_as_many_control_frames_as_are_allowed(engine: Engine) -> None:
    websocket = make_websocket(engine, max_control_frames=100)
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    for _ in range(2):
        ask(peer, Opcode.PING, b"again", times=100)
        assert [peer.read() for _ in range(100)] == [Pong(b"again")] * 100
        ask(peer, Opcode.TEXT, b"still here")
        assert peer.read() == Message("still here")
        time.sleep(1.01)  # the second is over


def test_the_limit_on_all_connections(engine: Engine) -> None:
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


def test_the_limit_on_those_of_one_address(engine: Engine) -> None:
    settings = Settings(max_connections_per_address=1)
    assert status_of(engine, settings, "192.0.2.1")[0] == 101
    status, one, peer = status_of(engine, settings, "192.0.2.2")
    assert status == 101
    assert status_of(engine, settings, "192.0.2.2")[0] == 429
    leave(peer, one)
    wait_until_there_are(engine, 1)
    assert status_of(engine, settings, "192.0.2.2")[0] == 101


def test_one_that_never_gets_its_socket_counts_no_longer(engine: Engine) -> None:
    """The handler has called `connect()` and raised: the integration aborts it."""
    settings = Settings(max_connections=1)
    websocket = WebSocket(request_from("192.0.2.1"), settings, engine=engine)
    websocket.connect()
    assert engine.stats().open == 1
    websocket.abort()
    assert engine.stats().open == 0
    assert status_of(engine, settings, "192.0.2.1")[0] == 101


@pytest.mark.parametrize("field", ["max_connections", "max_connections_per_address"])
def test_limits_that_make_no_sense(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} cannot be -1"):
        Settings(**{field: -1})  # type: ignore[arg-type]


class Reader(threading.Thread):
    """Reads what a peer is sent, from when it is told to."""

    def __init__(self, peer: Peer, messages: int) -> None:
        super().__init__(daemon=True)
        self.peer, self.left = peer, messages
        self.go = threading.Event()

    def run(self) -> None:
        assert self.go.wait(20)
        for _ in range(self.left):
            assert isinstance(self.peer.read(), Message)


def test_a_thread_waits_in_send_for_a_peer_that_is_behind(engine: Engine) -> None:
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
    end = time.monotonic() + 10
    while websocket.buffered_amount <= HIGH_WATER:
        assert time.monotonic() < end
        time.sleep(0.005)
    assert sent < 3000
    reader.go.set()
    sender.join(20)
    reader.join(20)
    assert not sender.is_alive()
    assert not reader.is_alive()
    assert most < 2 * HIGH_WATER


def test_who_waits_in_send_is_told_of_the_end(engine: Engine) -> None:
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
    end = time.monotonic() + 10
    while websocket.buffered_amount <= HIGH_WATER:
        assert time.monotonic() < end
        time.sleep(0.005)
    peer.sock.close()
    sender.join(10)
    assert [closed.code for closed in raised] == [1006]


def test_a_listener_never_waits_in_send(engine: Engine) -> None:
    """It is given up where it is hopelessly behind."""
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


def test_pieces_of_a_message_wait_too(engine: Engine) -> None:
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


def test_paused_and_resumed(engine: Engine) -> None:
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


def test_a_paused_connection_can_be_closed(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    websocket.pause()
    websocket.close(1000, "enough")
    assert peer.read() == Close(1000, "enough")
    ask(peer, Opcode.CLOSE, (1000).to_bytes(2, "big"))
    assert websocket.wait_closed(10)


def test_pausing_holds_a_flood_back(engine: Engine) -> None:
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


def test_the_engine_measures_by_itself(engine: Engine) -> None:
    websocket = make_websocket(engine, ping_interval=0.05)
    peer = connect(websocket)
    ping = peer.read()
    assert isinstance(ping, Ping)
    ask(peer, Opcode.PONG, ping.payload)
    end = time.monotonic() + 10
    while websocket.latency is None:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_an_unasked_for_pong_is_no_measurement(engine: Engine) -> None:
    websocket = make_websocket(engine)
    told = threading.Event()
    websocket.on("pong", lambda _: told.set())
    peer = connect(websocket)
    websocket.ping("hello")
    ask(peer, Opcode.PONG, b"something else")
    assert told.wait(10)
    assert websocket.latency is None
