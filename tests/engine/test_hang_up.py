"""The peer ends the connection while reading is paused: the end is noticed, once."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, Engine, WebSocket
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import by_name

from ..support.connections import make_websocket
from ..support.programs import wait_for
from .carriers import (
    LOOPS,
    PLACES,
    EngineRunner,
    descriptors,
    finish,
    new_websocket,
    reset,
    running_engine,
    tcp_pair,
)

MESSAGE = write_frame(Opcode.BINARY, bytes(20_000), key=bytes(4))

Prepare = Callable[[WebSocket], object]


def without_a_listener(_: WebSocket) -> None:
    """The received messages fill the backlog."""


def paused(websocket: WebSocket) -> None:
    websocket.on("message", lambda _: None)
    websocket.on("open", websocket.pause)


def with_a_slow_reader(websocket: WebSocket) -> threading.Thread:
    reader = threading.Thread(target=websocket.receive, args=(20,))
    websocket.on("open", reader.start)
    return reader


def with_a_slow_peer(websocket: WebSocket) -> None:
    websocket.on("message", lambda _: None)

    def send_much() -> None:
        for _ in range(12):
            websocket.send(bytes(1 << 20))

    websocket.on("open", send_much)


HOLDING = (without_a_listener, paused, with_a_slow_reader, with_a_slow_peer)


def send_some(peer: socket.socket) -> None:
    peer.settimeout(0.2)
    with contextlib.suppress(OSError):  # once reading is paused
        for _ in range(3):
            peer.sendall(MESSAGE)


SUPPORTED = [place for place in PLACES if IS_NATIVE or place[1] != "TLS"]
"""asyncio cannot take over a TLS socket, so the engine in plain Python cannot either."""


@pytest.fixture(params=SUPPORTED, ids=" with ".join)
def place(request: pytest.FixtureRequest) -> tuple[str, str]:
    found: tuple[str, str] = request.param
    return found


def cpu_seconds_of(seconds: float) -> float:
    """Returns the processor time that this process uses during an idle interval."""
    begin = time.process_time()
    time.sleep(seconds)
    return time.process_time() - begin


def check_end(
    runner: EngineRunner, websocket: WebSocket, ends: list[tuple[int, str]], before: int
) -> None:
    wait_for(lambda: bool(ends), "the close event", 10)
    assert ends[0][0] == 1006
    wait_for(lambda: descriptors() < before, "the descriptor to be given back", 10)
    assert cpu_seconds_of(0.3) < 0.1
    assert len(ends) == 1
    assert runner.engine.stats().open == 0
    assert websocket.wait_closed(10)


@pytest.mark.parametrize("end", [reset, finish], ids=["reset", "fin"])
@pytest.mark.parametrize("hold", HOLDING, ids=lambda hold: hold.__name__)
def test_paused_peer_that_leaves_is_noticed(
    place: tuple[str, str], hold: Prepare, end: Callable[[socket.socket], None]
) -> None:
    kind, carrier = place
    with running_engine(kind) as runner:
        websocket, ends = new_websocket(runner, high_water=10_000)
        hold(websocket)
        peer = runner.connect(websocket, carrier)
        send_some(peer)
        wait_for(lambda: websocket._reading_paused or websocket._above_water, "no more reading")
        before = descriptors() - 1  # without the peer's end
        end(peer)
        check_end(runner, websocket, ends, before)


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
@pytest.mark.parametrize("carrier", ["socket", "TLS"])
@pytest.mark.parametrize("end", [reset, finish], ids=["reset", "fin"])
def test_busy_listener_sees_its_peers_end_afterwards(
    carrier: str, end: Callable[[socket.socket], None]
) -> None:
    entered, released = threading.Event(), threading.Event()

    def block(_: object) -> None:
        entered.set()
        released.wait(20)

    with running_engine("threads") as runner:
        websocket, ends = new_websocket(runner)
        websocket.on("message", block)
        peer = runner.connect(websocket, carrier)
        send_some(peer)
        assert entered.wait(10)
        wait_for(lambda: runner.engine.listener_takeovers > 0, "another thread to take over")
        before = descriptors() - 1
        end(peer)
        assert cpu_seconds_of(1.0) < 0.25
        released.set()
        check_end(runner, websocket, ends, before)


def test_messages_before_the_end_are_received(place: tuple[str, str]) -> None:
    kind, carrier = place
    with running_engine(kind) as runner:
        websocket, ends = new_websocket(runner, high_water=10_000)
        reader = with_a_slow_reader(websocket)
        peer = runner.connect(websocket, carrier)
        for _ in range(4):
            peer.sendall(MESSAGE)
        reader.join(10)  # it has taken the first
        finish(peer)
        wait_for(lambda: bool(ends), "the close event", 10)
        for _ in range(3):
            assert websocket.receive(10) == bytes(20_000)
        with pytest.raises(ConnectionClosed):
            websocket.receive(10)


def test_data_left_by_a_gone_peer_is_bounded(place: tuple[str, str]) -> None:
    """The system's buffers may hold megabytes, even of compressed data."""
    kind, carrier = place
    with running_engine(kind) as runner:
        websocket, ends = new_websocket(runner, high_water=10_000, max_buffered=50_000)
        with_a_slow_reader(websocket)
        peer = runner.connect(websocket, carrier)
        peer.settimeout(0.5)
        with contextlib.suppress(OSError):
            while True:  # until the system's buffers are full
                peer.sendall(MESSAGE)
        reset(peer)
        wait_for(lambda: bool(ends), "the close event", 10)
        inbox = websocket._inbox
        assert inbox is not None
        assert inbox.amount() < 350_000  # the limit, plus one read: 256 KiB in asyncio


@pytest.mark.parametrize("kind", LOOPS)
def test_close_after_a_reset_raises_nothing(kind: str) -> None:
    """hixie-75 has no close frame: `close()` only ends the sending direction."""

    async def test() -> None:
        loop = asyncio.get_running_loop()
        engine = Engine(loop)
        ours, theirs = tcp_pair()
        transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
        websocket = make_websocket(engine)
        closed = asyncio.Event()
        websocket.on("close", lambda *_: closed.set())
        websocket._begin_as_client(by_name("hixie-75"), b"", None)
        websocket._take_over(transport)
        await asyncio.sleep(0)
        watch = select.poll()
        watch.register(ours, 0)
        reset(theirs)
        assert watch.poll(10_000)  # the loop has not noticed the reset
        websocket.close()
        await asyncio.wait_for(closed.wait(), 10)
        engine.stop()

    loop = LOOPS[kind]()
    loop.run_until_complete(test())
    loop.close()
