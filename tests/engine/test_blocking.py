"""A blocking listener delays its own connection and no other."""

from __future__ import annotations

import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from websocket_handler import IS_NATIVE, Engine, State, WebSocket
from websocket_handler.connection import lifecycle as connection
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.state import Step, advance

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for

KEY = b"\x01\x02\x03\x04"

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop()


def frame(message: str) -> bytes:
    return write_frame(Opcode.TEXT, message.encode(), key=KEY)


def ask(peer: Peer, message: str) -> None:
    peer.sock.sendall(frame(message))


class Blocking:
    """A connection whose listener blocks on "block" and echoes all other messages."""

    def __init__(self, engine: Engine, **settings: float) -> None:
        self.blocked, self.release = threading.Event(), threading.Event()
        self.websocket: WebSocket = make_websocket(engine, **settings)
        self.ends: list[tuple[int, str]] = []
        self.over = threading.Event()
        self.websocket.on("message", self.listen)
        self.websocket.on("close", self.end)
        self.peer = connect(self.websocket)

    def listen(self, message: str) -> None:
        if message == "block":
            self.websocket.send("blocking")
            self.blocked.set()
            assert self.release.wait(20)
        self.websocket.send(message)

    def end(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))
        self.over.set()

    def block(self) -> None:
        ask(self.peer, "block")
        assert self.blocked.wait(10)

    def close(self) -> None:
        self.release.set()
        self.peer.sock.close()


def echoing(engine: Engine) -> Peer:
    websocket = make_websocket(engine)
    websocket.on("message", websocket.send)
    return connect(websocket)


def test_blocked_listener_leaves_other_connections_served(engine: Engine) -> None:
    blocking, other = Blocking(engine), echoing(engine)
    blocking.block()
    assert blocking.peer.read() == Message("blocking")
    for number in range(100):
        ask(other, str(number))
        assert other.read() == Message(str(number))
    late = echoing(engine)  # a new connection is accepted, too
    ask(late, "late")
    assert late.read() == Message("late")
    blocking.close()
    other.sock.close()
    late.sock.close()


def test_messages_of_a_blocked_connection_keep_their_order(engine: Engine) -> None:
    blocking, other = Blocking(engine), echoing(engine)
    same_read = [f"a{number}" for number in range(50)]
    blocking.peer.sock.sendall(frame("block") + b"".join(map(frame, same_read)))
    assert blocking.blocked.wait(10)
    later = [f"b{number}" for number in range(50)]
    for message in later:
        ask(blocking.peer, message)
    ask(other, "meanwhile")
    assert other.read() == Message("meanwhile")
    blocking.release.set()
    expected = ["blocking", "block", *same_read, *later]
    assert [blocking.peer.read() for _ in expected] == [Message(one) for one in expected]
    blocking.close()
    other.sock.close()


def test_many_listeners_block_at_once_others_are_served(engine: Engine) -> None:
    blocking = [Blocking(engine) for _ in range(20)]
    other = echoing(engine)
    for one in blocking:
        one.block()
    ask(other, "still")
    assert other.read() == Message("still")
    for one in blocking:
        one.release.set()
        assert [one.peer.read() for _ in range(2)] == [Message("blocking"), Message("block")]
        ask(one.peer, "again")
        assert one.peer.read() == Message("again")
        one.close()
    other.sock.close()


def test_listener_threads_are_reused_and_bounded(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(threads=3)
    other = echoing(engine)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            blocking = [Blocking(engine) for _ in range(2)]
            for one in blocking:
                one.block()
            ask(other, "still")
            assert other.read() == Message("still")
            for one in blocking:
                one.close()
                assert one.over.wait(10)
    assert "the next listener that blocks delays all connections" in caplog.text
    assert len([one for one in threading.enumerate() if one in engine._threads]) == 3
    engine.stop()
    other.sock.close()


def test_exhausted_threads_are_logged_at_doubling_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = Engine(threads=2)
    with caplog.at_level(logging.WARNING):
        for times in range(1, 8):
            blocking = Blocking(engine)
            blocking.block()
            wait_for(lambda: engine.stats().threads_exhausted == times, "the count")  # noqa: B023
            blocking.close()
            assert blocking.over.wait(10)
    engine.stop()
    logged = re.findall(r"engine threads is in use \(time (\d+)\)", caplog.text)
    assert logged == ["1", "2", "4"]


def test_reset_of_a_blocked_connection_causes_no_spinning(engine: Engine) -> None:
    blocking, other = Blocking(engine), echoing(engine)
    blocking.block()
    ask(other, "first")
    assert other.read() == Message("first")
    blocking.peer.sock.close()
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.2  # no thread spins
    ask(other, "second")
    assert other.read() == Message("second")
    assert blocking.ends == []
    blocking.release.set()
    assert blocking.over.wait(10)
    assert blocking.ends[0][0] == 1006
    other.sock.close()


def test_blocked_connection_is_not_dropped_as_dead(engine: Engine) -> None:
    blocking = Blocking(engine, ping_interval=0.05, ping_timeout=0.05)
    blocking.block()
    assert blocking.peer.read() == Message("blocking")
    time.sleep(0.5)
    blocking.release.set()
    assert blocking.peer.read() == Message("block")
    assert blocking.ends == []
    blocking.close()


def test_close_from_a_blocked_listener_ends_the_connection(engine: Engine) -> None:
    blocking, other = Blocking(engine), echoing(engine)
    listener = blocking.listen

    def close_at_last(message: str) -> None:
        listener(message)
        blocking.websocket.close(4000, "enough")

    blocking.websocket.off("message", listener)
    blocking.websocket.on("message", close_at_last)
    blocking.block()
    ask(other, "meanwhile")
    assert other.read() == Message("meanwhile")
    blocking.release.set()
    assert blocking.peer.read() == Message("blocking")
    assert blocking.peer.read() == Message("block")
    assert blocking.peer.read() == (4000, "enough", b"")
    blocking.close()
    other.sock.close()


def test_abort_of_a_blocked_connection_ends_it(engine: Engine) -> None:
    blocking, other = Blocking(engine), echoing(engine)
    blocking.block()
    ask(other, "meanwhile")
    assert other.read() == Message("meanwhile")
    blocking.websocket.abort()
    assert blocking.over.wait(10)
    blocking.release.set()
    ask(other, "and after")
    assert other.read() == Message("and after")
    blocking.close()
    other.sock.close()


def test_two_threads_end_a_connection_close_is_emitted_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread is blocked in a listener, the other one polls the engine."""
    websocket = make_websocket(engine)
    together = threading.Barrier(2, timeout=0.5)

    def advance_slowly(state: State, step: Step) -> State | None:
        following = advance(state, step)
        with suppress(threading.BrokenBarrierError):  # no other thread may pass here meanwhile
            together.wait()
        return following

    monkeypatch.setattr(connection, "advance", advance_slowly)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(websocket._step(Step.LOST)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(results) == [False, True]


@pytest.mark.parametrize("event", ["open", "ping", "drain"])
def test_blocking_listener_of_any_event_leaves_others_served(engine: Engine, event: str) -> None:
    blocked, release = threading.Event(), threading.Event()
    other = echoing(engine)
    websocket = make_websocket(engine)
    seen: list[str] = []

    def block(*_: object) -> None:
        blocked.set()
        assert release.wait(20)
        seen.append(event)

    websocket.once(event, block)  # type: ignore[call-overload]
    websocket.on("message", seen.append)
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours, frame("early"))
    peer = Peer(theirs)
    if event == "ping":
        theirs.sendall(write_frame(Opcode.PING, b"", key=KEY))
    elif event == "drain":
        peer.read_head()
        websocket.send(b"x" * (1 << 20))
        peer.read()
    assert blocked.wait(10)
    ask(peer, "late")
    ask(other, "meanwhile")
    assert other.read() == Message("meanwhile")
    release.set()
    deadline = time.monotonic() + 10
    while len(seen) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    expected = ["open", "early"] if event == "open" else ["early", event]
    assert seen == [*expected, "late"]
    theirs.close()
    other.sock.close()


def test_computing_listener_leaves_others_served(engine: Engine) -> None:
    """The listener never releases the GIL voluntarily."""
    other, websocket = echoing(engine), make_websocket(engine)
    done = threading.Event()

    def compute(_: str) -> None:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            sum(range(1000))
        done.set()

    websocket.on("message", compute)
    peer = connect(websocket)
    ask(peer, "go")
    ask(other, "meanwhile")
    assert other.read() == Message("meanwhile")
    assert not done.is_set()
    assert done.wait(10)
    peer.sock.close()
    other.sock.close()


def test_resets_at_any_moment_of_blocking_leave_others_served(engine: Engine) -> None:
    """Many connections open, block briefly and are reset, while others continue."""
    other = echoing(engine)
    for number in range(300):
        websocket = make_websocket(engine)
        websocket.on("message", lambda _, pause=number % 12 / 1000: time.sleep(pause))
        ours, theirs = socket.socketpair()
        websocket.connect()
        websocket._take_over(ours)
        theirs.sendall(frame("a") + frame("b") + struct.pack("!H", 0xFFFF) * (number % 2))
        theirs.close()
        if number % 10 == 0:
            ask(other, str(number))
            assert other.read() == Message(str(number))
    ask(other, "end")
    assert other.read() == Message("end")
    other.sock.close()
