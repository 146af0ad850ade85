"""Dead peers are detected even while reading is paused; slow live ones are kept."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Engine, State, WebSocket
from websocket_handler.protocol.assembly import Close, Message, Ping
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import by_name

from ..support.connections import Peer, make_websocket
from ..support.programs import wait_for

KEY = b"\x01\x02\x03\x04"
PINGS = {"ping_interval": 0.2, "ping_timeout": 0.2}
MANY_PINGS = 2.0
"""In seconds: several ping intervals, and several times the timeout of a dead peer."""

SO_ATTACH_FILTER = 26
DROP_EVERYTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A packet filter with one instruction: return 0."""


def vanish(sock: socket.socket) -> None:
    """Have the kernel drop packets that arrive for `sock`, as if its machine were off."""
    code = ctypes.create_string_buffer(DROP_EVERYTHING)
    program = struct.pack("@HP", 1, ctypes.addressof(code))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)


def by_unix() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def by_tcp() -> tuple[socket.socket, socket.socket]:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        server.bind(("127.0.0.1", 0))
        server.listen()
        theirs = socket.socket()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 10)
        theirs.connect(server.getsockname())
        ours, _ = server.accept()
    return ours, theirs


def take_over(websocket: WebSocket, pair: tuple[socket.socket, socket.socket]) -> Peer:
    ours, theirs = pair
    websocket.connect()
    websocket._take_over(ours)
    peer = Peer(theirs)
    peer.read_head()
    return peer


def send_frame(peer: Peer, payload: bytes, opcode: int = Opcode.BINARY) -> None:
    peer.sock.sendall(write_frame(opcode, payload, key=KEY))


def fill(peer: Peer) -> None:
    """Send messages until the buffers are full."""
    peer.sock.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        for _ in range(64 << 10):
            send_frame(peer, bytes(1000))
        pytest.fail("everything was taken")
    peer.sock.settimeout(10)


class Answering(threading.Thread):
    """Reads everything from a peer and answers its pings until the connection ends."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.answered = 0
        self.start()

    def run(self) -> None:
        try:
            while True:
                event = self.peer.read()
                if isinstance(event, Ping):
                    send_frame(self.peer, event.payload, Opcode.PONG)
                    self.answered += 1
                elif isinstance(event, Close):
                    return
        except (OSError, AssertionError):  # the end of the connection
            return


def never_listen(websocket: WebSocket, peer: Peer) -> None:
    """More than `high_water` bytes are queued for a first listener."""
    del websocket
    send_frame(peer, bytes(70_000))


def pause(websocket: WebSocket, peer: Peer) -> None:
    del peer
    websocket.pause()


def stop_receiving(websocket: WebSocket, peer: Peer) -> None:
    """More than `high_water` bytes are queued for a thread that receives messages."""
    send_frame(peer, b"first")
    assert websocket.receive(10) == b"first"
    send_frame(peer, bytes(70_000))


UNREAD = [never_listen, pause, stop_receiving]
PAIRS = [by_unix, by_tcp]
Stop = Callable[[WebSocket, Peer], None]
Pair = Callable[[], tuple[socket.socket, socket.socket]]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("stop_reading", UNREAD)
def test_silent_peer_that_is_not_read_is_dropped(
    engine: Engine, stop_reading: Stop, pair: Pair
) -> None:
    websocket = make_websocket(engine, **PINGS)
    peer = take_over(websocket, pair())
    stop_reading(websocket, peer)
    assert websocket.wait_closed(20)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("stop_reading", UNREAD)
def test_peer_whose_pongs_are_not_read_is_kept(
    engine: Engine, stop_reading: Stop, pair: Pair
) -> None:
    websocket = make_websocket(engine, ping_interval=0.2, ping_timeout=0.7, max_control_frames=2)
    peer = take_over(websocket, pair())
    stop_reading(websocket, peer)
    answering = Answering(peer)
    wait_for(lambda: answering.answered > 3, "three answers")
    assert websocket.state is State.OPEN
    websocket.resume()
    websocket.on("message", lambda _: None) if stop_reading is never_listen else None
    if stop_reading is stop_receiving:
        assert websocket.receive(10) == bytes(70_000)
    before = answering.answered
    wait_for(lambda: answering.answered > before + 1, "another answer")
    assert websocket.state is State.OPEN  # nor do all those pongs together count as a flood


def test_idle_peer_is_pinged_after_each_interval_although_the_timeout_is_longer(
    engine: Engine,
) -> None:
    websocket = make_websocket(engine, ping_interval=0.1, ping_timeout=60)
    answering = Answering(take_over(websocket, by_tcp()))
    wait_for(lambda: answering.answered > 2, "three pings within one timeout")
    websocket.abort()


def test_peer_that_cannot_send_its_pongs_is_kept(engine: Engine) -> None:
    websocket = make_websocket(engine, ping_interval=0.2, ping_timeout=0.5)
    peer = take_over(websocket, by_tcp())
    websocket.pause()
    fill(peer)
    assert not websocket.wait_closed(MANY_PINGS)
    websocket.on("message", lambda _: None)
    websocket.resume()
    Answering(peer)
    send_frame(peer, b"still here")


def full_and_paused(websocket: WebSocket, peer: Peer) -> None:
    websocket.pause()
    fill(peer)


def above_high_water(websocket: WebSocket, peer: Peer) -> None:
    del peer
    engine = websocket._engine
    assert engine is not None
    engine._post(lambda: websocket.send(bytes(8 << 20)))


def nothing(websocket: WebSocket, peer: Peer) -> None:
    del websocket, peer


@pytest.mark.parametrize("occupy", [never_listen, full_and_paused, above_high_water, nothing])
def test_vanished_peer_is_dropped(engine: Engine, occupy: Stop) -> None:
    websocket = make_websocket(engine, **PINGS)
    peer = take_over(websocket, by_tcp())
    occupy(websocket, peer)
    vanish(peer.sock)
    assert websocket.wait_closed(20)


@pytest.mark.parametrize("is_behind", [False, True])
def test_vanished_peer_is_dropped_while_closing(engine: Engine, is_behind: bool) -> None:
    websocket = make_websocket(engine, close_timeout=0.3)
    peer = take_over(websocket, by_tcp())
    if is_behind:
        above_high_water(websocket, peer)
    vanish(peer.sock)
    websocket.close()
    assert websocket.wait_closed(20)


@pytest.mark.skipif(not IS_NATIVE, reason="a listener that blocks holds up the engine")
def test_vanished_peer_is_dropped_while_a_listener_blocks(engine: Engine) -> None:
    websocket, over, seen = make_websocket(engine, **PINGS), threading.Event(), threading.Event()

    def block(_: Any) -> None:
        seen.set()
        over.wait(20)

    websocket.on("message", block)
    peer = take_over(websocket, by_tcp())
    send_frame(peer, b"block")
    assert seen.wait(10)
    vanish(peer.sock)
    wait_for(lambda: websocket.state is State.CLOSED, "the end", 20)
    over.set()


def read_slowly(peer: Peer, rate: int, size: int, seconds: float = 60) -> int:
    """Returns how many of `size` bytes arrived when reading `rate` bytes per second."""
    piece, count, begun = max(1, rate // 50), 0, time.monotonic()
    try:
        while count < size and time.monotonic() < begun + seconds:
            data = peer.sock.recv(min(piece, size - count))
            if not data:
                break
            count += len(data)
            time.sleep(0.02)
    except ConnectionResetError:
        pass
    return count


@pytest.fixture(params=["one message", "many messages"])
def download(request: pytest.FixtureRequest, engine: Engine) -> Iterator[tuple[WebSocket, Peer]]:
    websocket = make_websocket(engine, ping_interval=0.4, ping_timeout=0.4)
    peer = take_over(websocket, by_tcp())
    pieces = 1 if request.param == "one message" else 256

    def send() -> None:
        for _ in range(pieces):
            websocket.send(bytes(DOWNLOAD // pieces))

    engine._post(send)
    yield websocket, peer
    websocket.abort()


DOWNLOAD = 2 << 20


def test_slow_reader_receives_everything(download: tuple[WebSocket, Peer]) -> None:
    websocket, peer = download
    assert read_slowly(peer, 600_000, DOWNLOAD) == DOWNLOAD
    assert websocket.state is State.OPEN


def test_reader_below_the_minimum_rate_is_dropped(download: tuple[WebSocket, Peer]) -> None:
    websocket, peer = download
    read_slowly(peer, 50, DOWNLOAD, MANY_PINGS)
    assert websocket.wait_closed(20)


def test_slow_reader_that_answers_no_ping_is_dropped_at_the_end(
    download: tuple[WebSocket, Peer],
) -> None:
    websocket, peer = download
    assert read_slowly(peer, 2_000_000, DOWNLOAD) == DOWNLOAD
    assert websocket.wait_closed(20)


def send_and_close(engine: Engine, websocket: WebSocket) -> None:
    engine._post(partial(websocket.send, bytes(DOWNLOAD)))
    engine._post(partial(websocket.close, 4000))


def test_slow_reader_receives_what_was_sent_before_the_close(engine: Engine) -> None:
    websocket = make_websocket(engine, close_timeout=0.5)
    peer = take_over(websocket, by_tcp())
    send_and_close(engine, websocket)
    assert read_slowly(peer, 600_000, DOWNLOAD) == DOWNLOAD
    rest = b""
    while not rest.endswith(b"\x88\x02\x0f\xa0"):
        data = peer.sock.recv(1 << 16)
        assert data
        rest += data


def test_reader_below_the_minimum_rate_is_dropped_while_closing(engine: Engine) -> None:
    websocket = make_websocket(engine, close_timeout=0.3)
    peer = take_over(websocket, by_tcp())
    send_and_close(engine, websocket)
    read_slowly(peer, 50, DOWNLOAD, MANY_PINGS)
    assert websocket.wait_closed(20)


def test_peer_that_reads_but_answers_no_ping_gets_the_reason(engine: Engine) -> None:
    websocket, ends = make_websocket(engine, **PINGS), list[tuple[int, str]]()
    websocket.on("close", lambda code, reason: ends.append((code, reason)))
    peer = take_over(websocket, by_unix())
    assert isinstance(peer.read(), Ping)
    assert peer.read() == Close(1011, "keepalive ping timeout")
    assert websocket.wait_closed(20)
    assert ends == [(1006, "no answer to a ping")]
    assert peer.sock.recv(1) == b""


def test_peer_that_answers_is_kept_however_often(engine: Engine) -> None:
    websocket = make_websocket(engine, ping_interval=0.05, ping_timeout=0.7)
    websocket.on("message", websocket.send)
    peer = take_over(websocket, by_tcp())
    for _ in range(5):
        ping = peer.read()
        assert isinstance(ping, Ping)
        send_frame(peer, ping.payload, Opcode.PONG)
    send_frame(peer, b"x")
    assert any(peer.read() == Message(b"x") for _ in range(5))


@pytest.mark.skipif(not hasattr(socket, "TCP_KEEPIDLE"), reason="the kernel cannot be asked to")
@pytest.mark.parametrize(("version", "by_system"), [("hixie-75", True), ("RFC 6455", False)])
def test_system_finds_dead_peers_of_a_transport_where_there_are_no_pings(
    version: str, by_system: bool
) -> None:
    async def test() -> int:
        loop = asyncio.get_running_loop()
        engine = Engine(loop)
        ours, theirs = by_tcp()
        with theirs:
            transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
            websocket = make_websocket(engine)
            websocket._begin_as_client(by_name(version), b"", None)
            websocket._take_over(transport)
            found = ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            websocket.abort()
            engine.stop()
            await asyncio.sleep(0.01)
        return found

    assert asyncio.run(test()) == by_system
