"""Every unsent message is counted and bounded, wherever it is queued."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial

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
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.prepared import PreparedMessage
from websocket_handler.protocol.versions import by_name

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .carriers import LoopThread, running_engine

KEY = b"\x01\x02\x03\x04"
HIGH_WATER = 64 << 10


class Fragmented:
    """A fragmented message that a thread keeps unfinished until `end()`."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._begun, self._resume_reading = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()
        assert self._begun.wait(10)

    def _send(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            self._websocket.send(self._pieces())

    def _pieces(self) -> Iterator[str]:
        yield "first"
        self._begun.set()
        self._resume_reading.wait(20)
        yield "last"

    def end(self) -> None:
        self._resume_reading.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_messages_queued_behind_fragments_are_counted(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    fragmented = Fragmented(websocket)
    websocket.send(bytes(1000))
    websocket.send("text")
    assert 1004 <= websocket.buffered_amount < 1500
    fragmented.end()
    assert [peer.read() for _ in range(3)] == [
        Message("firstlast"),
        Message(bytes(1000)),
        Message("text"),
    ]
    assert websocket.buffered_amount == 0


def test_peer_is_not_read_while_answers_wait_for_fragments(engine: Engine) -> None:
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    peer = connect(websocket)
    fragmented = Fragmented(websocket)
    frame = write_frame(Opcode.BINARY, bytes(30_000), key=KEY)
    peer.sock.settimeout(0.5)
    sent = 0
    with contextlib.suppress(TimeoutError):
        for _ in range(1000):
            sent += peer.sock.send(frame[sent % len(frame) :])
        pytest.fail("everything was taken")
    assert websocket.state is State.OPEN
    assert HIGH_WATER < websocket.buffered_amount < 16 * HIGH_WATER
    peer.sock.settimeout(10)
    fragmented.end()
    assert peer.read() == Message("firstlast")
    assert peer.read() == Message(bytes(30_000))


def test_threads_block_while_the_queue_behind_fragments_is_full(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    fragmented = Fragmented(websocket)
    websocket.send(bytes(HIGH_WATER))
    with pytest.raises(TimeoutError):
        websocket.send("too early", timeout=0.05)
    waiting = threading.Thread(target=websocket.send, args=("in time",), daemon=True)
    waiting.start()
    fragmented.end()
    waiting.join(20)
    assert not waiting.is_alive()
    assert [peer.read() for _ in range(3)] == [
        Message("firstlast"),
        Message(bytes(HIGH_WATER)),
        Message("in time"),
    ]


def test_queue_behind_fragments_over_its_limit_closes_the_connection(engine: Engine) -> None:
    websocket = make_websocket(engine, max_buffered=HIGH_WATER)
    peer = connect(websocket)
    fragmented, refused, codes = Fragmented(websocket), threading.Event(), list[int]()

    def send() -> None:
        try:
            for _ in range(10):
                websocket.send(bytes(HIGH_WATER))
        except ConnectionClosed as closed:
            codes.append(closed.code)
            refused.set()

    engine._post(send)
    assert refused.wait(10)
    assert codes == [1008]
    assert websocket.state is State.CLOSING
    peer.sock.sendall(write_frame(Opcode.CLOSE, b"\x03\xf0", key=KEY))
    assert websocket.wait_closed(10)
    assert websocket.buffered_amount < HIGH_WATER
    fragmented.end()


def test_generator_may_send_other_messages(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)

    def pieces() -> Iterator[str]:
        yield "first"
        for _ in range(3):
            websocket.send(bytes(HIGH_WATER))
        yield "last"

    sending = threading.Thread(target=websocket.send, args=(pieces(),), daemon=True)
    sending.start()
    assert [peer.read() for _ in range(4)] == [Message("firstlast")] + [
        Message(bytes(HIGH_WATER))
    ] * 3
    sending.join(10)
    assert not sending.is_alive()


@pytest.fixture
def incomplete(engine: Engine) -> tuple[WebSocket, socket.socket]:
    """A hixie-76 connection whose client has not yet sent the end of its handshake."""
    fields = {
        "Host": "localhost",
        "Upgrade": "WebSocket",
        "Connection": "Upgrade",
        "Origin": "http://localhost",
        "Sec-WebSocket-Key1": "1 2",
        "Sec-WebSocket-Key2": "3 3",
    }
    settings = Settings(versions=(by_name("hixie-76"),))
    websocket = WebSocket(Request("GET", "/", Headers(fields.items())), settings, engine=engine)
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours)
    peer = Peer(theirs)
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    return websocket, theirs


def test_messages_queued_before_the_handshake_are_bounded(
    incomplete: tuple[WebSocket, socket.socket],
) -> None:
    websocket, theirs = incomplete
    websocket.send("x" * (HIGH_WATER + 1))
    assert HIGH_WATER < websocket.buffered_amount < 2 * HIGH_WATER
    with pytest.raises(TimeoutError):
        websocket.send("too early", timeout=0.05)
    waiting = threading.Thread(target=websocket.send, args=("in time",), daemon=True)
    waiting.start()
    theirs.sendall(b"12345678")
    received = b""
    while not received.endswith(b"\x00in time\xff"):
        data = theirs.recv(1 << 16)
        assert data
        received += data
    waiting.join(10)
    assert not waiting.is_alive()
    assert b"too early" not in received


def test_queue_before_the_handshake_over_its_limit_closes_the_connection(
    engine: Engine, incomplete: tuple[WebSocket, socket.socket]
) -> None:
    websocket, _ = incomplete
    refused = threading.Event()

    def send() -> None:
        try:
            for _ in range(20):
                websocket.send("x" * (1 << 20))
        except ConnectionClosed:
            refused.set()

    engine._post(send)
    assert refused.wait(10)
    assert websocket.buffered_amount < 20 << 20


def test_send_with_timeout_to_a_slow_peer_raises(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    engine._post(partial(websocket.send, bytes(1 << 20)))
    wait_for(lambda: websocket.buffered_amount > HIGH_WATER, "unsent bytes above high water")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            websocket.send("late", timeout=0.02)
    wait_for(lambda: not websocket._drain_waiters, "the sends that timed out to leave nothing")
    assert websocket.state is State.OPEN
    assert peer.read() == Message(bytes(1 << 20))
    websocket.send("in time", timeout=10)
    assert peer.read() == Message("in time")


def test_fragments_that_time_out_close_the_connection(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    with pytest.raises(TimeoutError):
        websocket.send((bytes(1 << 20) for _ in range(3)), timeout=0.1)
    assert Close(1011, "message aborted") in peer.read_to_end_or_close()


def test_prepared_message_is_refused_only_while_its_notice_would_wait(engine: Engine) -> None:
    """Otherwise a room would retry it again and again."""
    websocket, prepared = make_websocket(engine), PreparedMessage("prepared")
    peer = connect(websocket)
    fragmented = Fragmented(websocket)
    websocket.send(bytes(HIGH_WATER))
    assert not websocket._send_prepared(prepared)
    drained = threading.Event()
    engine._post(partial(websocket._on_drained, drained.set))
    assert not drained.wait(0.1)
    fragmented.end()
    assert drained.wait(10)
    assert websocket._send_prepared(prepared)
    assert [peer.read() for _ in range(3)] == [
        Message("firstlast"),
        Message(bytes(HIGH_WATER)),
        Message("prepared"),
    ]


def connect_observed(
    engine: Engine, loop: LoopThread, during_write: Callable[[WebSocket], object]
) -> tuple[WebSocket, Peer, threading.Thread]:
    """Connect a WebSocket over an asyncio transport. `during_write` runs in the returned thread
    before the first `write` after the 101 returns, if it does not need what the writer holds."""
    ours, theirs = socket.socketpair()
    websocket, peer = make_websocket(engine), Peer(theirs)
    observer = threading.Thread(target=during_write, args=(websocket,), daemon=True)

    async def give() -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            asyncio.Protocol, ours
        )
        transport.pause_reading()
        write = transport.write
        websocket.connect()
        websocket._take_over(transport)
        await asyncio.to_thread(peer.read_head)

        def observed_write(data: bytes) -> None:
            write(data)
            if observer.ident is None:
                observer.start()
                observer.join(0.3)

        transport.write = observed_write  # type: ignore[method-assign, assignment]

    loop.run(give())
    return websocket, peer, observer


def test_message_passed_to_a_transport_is_counted_once() -> None:
    counts: list[int] = []
    with running_engine("asyncio") as runner:
        assert runner.thread is not None
        websocket, _, observer = connect_observed(
            runner.engine, runner.thread, lambda ws: counts.append(ws.buffered_amount)
        )
        websocket.send(bytes(4 << 20))
        wait_for(lambda: counts, "the count")
        observer.join(10)
        assert counts[0] < 5 << 20
        websocket.abort()


def test_message_sent_during_a_write_is_unsent_until_the_peer_reads() -> None:
    with running_engine("asyncio") as runner:
        assert runner.thread is not None
        websocket, peer, observer = connect_observed(
            runner.engine, runner.thread, lambda ws: ws.send(bytes(4 << 20))
        )
        websocket.send("small")
        assert peer.read() == Message("small")
        wait_for(lambda: websocket.buffered_amount > HIGH_WATER, "unsent bytes")
        observer.join(10)
        assert not websocket.drain(0.01)
        assert peer.read() == Message(bytes(4 << 20))
        assert websocket.drain(10)
