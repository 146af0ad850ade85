"""Callbacks that change the engine during the call."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Engine, State, WebSocket
from websocket_handler.engine import fan_out
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.prepared import PreparedMessage

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for

if IS_NATIVE:
    from websocket_handler.engine.engine import EpollEngine

KEY = b"\x01\x02\x03\x04"
EVENTS = {
    "open": b"",
    "message": write_frame(Opcode.TEXT, b"hello", key=KEY) * 3,
    "ping": write_frame(Opcode.PING, b"", key=KEY) * 3,
    "pong": write_frame(Opcode.PONG, b"", key=KEY) * 3,
    "drain": write_frame(Opcode.TEXT, b"flood", key=KEY),
    "error": b"\xff\xff",
    "close": write_frame(Opcode.CLOSE, b"\x03\xe8", key=KEY),
}


@pytest.fixture(params=["thread", "loop"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param == "thread":
        engine = Engine()
        yield engine
        engine.stop()
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    engine = Engine(loop)
    yield engine
    engine.stop()
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def texts(*messages: str) -> bytes:
    return b"".join(write_frame(Opcode.TEXT, one.encode(), key=KEY) for one in messages)


class Ends:
    """Counts the `close` events of connections."""

    def __init__(self) -> None:
        self.codes: dict[WebSocket, list[int]] = {}

    def of(self, websocket: WebSocket) -> WebSocket:
        codes = self.codes[websocket] = []
        websocket.on("close", lambda code, _: codes.append(code))
        return websocket

    def have_all_come(self) -> bool:
        return all(self.codes.values())


def has_left(engine: Engine) -> bool:
    return not engine._channels() and (not IS_NATIVE or engine.fileno() < 0)


@pytest.mark.parametrize("how", ["stop", "close"])
@pytest.mark.parametrize("event", EVENTS)
def test_engine_stopped_by_a_listener_closes_every_connection_once(
    engine: Engine, event: str, how: str
) -> None:
    ends = Ends()
    others = [connect(ends.of(make_websocket(engine))) for _ in range(3)]
    websocket = ends.of(make_websocket(engine))
    if event == "drain":
        websocket.on("message", lambda _: websocket.send(bytes(1 << 20)))
    websocket.on(event, lambda *_: getattr(engine, how)())  # type: ignore[call-overload]
    peer = connect(websocket, is_aborted=event == "open")
    if event != "open":
        peer.sock.sendall(EVENTS[event])
    if event == "drain":
        peer.read_to_end_or_close()
    wait_for(ends.have_all_come, "every connection to end")
    wait_for(lambda: has_left(engine), "the engine to give everything back")
    assert [len(codes) for codes in ends.codes.values()] == [1] * 4
    for one in (peer, *others):
        one.read_to_end_or_close()


@pytest.mark.parametrize("how", ["stop", "close"])
def test_engine_stopped_by_a_posted_call_runs_the_other_calls(engine: Engine, how: str) -> None:
    ends, made, hold = Ends(), list[int](), threading.Event()
    connect(ends.of(make_websocket(engine)))
    engine._post(lambda: hold.wait(10))  # so that the next calls are queued together
    for number in range(3):
        engine._post(lambda number=number: made.append(number))  # type: ignore[misc]
    engine._post(getattr(engine, how))
    for number in range(3, 6):
        engine._post(lambda number=number: made.append(number))  # type: ignore[misc]
    hold.set()
    wait_for(ends.have_all_come, "the connection to end")
    wait_for(lambda: has_left(engine), "the engine to give everything back")
    assert made == [0, 1, 2, 3, 4, 5]


def test_engine_stopped_in_a_blocked_listener_is_closed_by_its_thread() -> None:
    engine, ends, release = Engine(), Ends(), threading.Event()
    websocket = ends.of(make_websocket(engine))
    inside = threading.Event()

    def block(_: object) -> None:
        inside.set()
        assert release.wait(20)

    websocket.on("message", block)
    peer = connect(websocket)
    peer.sock.sendall(EVENTS["message"])
    assert inside.wait(10)
    engine.stop(timeout=0)
    release.set()
    wait_for(ends.have_all_come, "the connection to end")
    wait_for(lambda: has_left(engine), "the engine to give everything back")


@pytest.mark.skipif(not IS_NATIVE, reason="the other engine attaches in its own thread only")
def test_connection_attached_by_another_thread_while_the_engine_closes_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, ends = Engine(), Ends()
    first, late = ends.of(make_websocket(engine)), ends.of(make_websocket(engine))
    is_attaching, may_attach, attached = (threading.Event() for _ in range(3))

    def pause() -> bool:
        is_attaching.set()
        return may_attach.wait(10)

    def attach_the_other(*_: object) -> None:
        may_attach.set()
        assert attached.wait(10)

    def attach() -> None:
        connect(late)
        attached.set()

    monkeypatch.setattr(late, "_can_attach_inline", pause)
    first.on("close", attach_the_other)
    connect(first)
    threading.Thread(target=attach).start()
    assert is_attaching.wait(10)
    engine.stop()
    wait_for(ends.have_all_come, "both connections to end")
    wait_for(lambda: has_left(engine), "the engine to give everything back")


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
def test_engine_stopped_while_a_thread_takes_over_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, ends, stopped = Engine(), Ends(), threading.Event()
    websocket = ends.of(make_websocket(engine))

    def stop_in_another_thread() -> None:
        thread = threading.Thread(target=engine.stop, args=(0,))
        thread.start()
        thread.join(10)
        stopped.set()

    def send_and_block(_: object) -> None:
        websocket.send("flushed by the thread that takes over")
        websocket._tell_when_flushed = True
        assert stopped.wait(10)

    monkeypatch.setattr(websocket, "_flushed", stop_in_another_thread)
    websocket.on("message", send_and_block)
    connect(websocket).sock.sendall(write_frame(Opcode.TEXT, b"hello", key=KEY))
    wait_for(ends.have_all_come, "the connection to end")
    wait_for(lambda: has_left(engine), "the engine to give everything back")


def test_waiting_for_the_end_after_the_engine_has_stopped_returns(engine: Engine) -> None:
    websocket = make_websocket(engine)
    connect(websocket)
    engine.stop()
    wait_for(lambda: has_left(engine), "the engine to give everything back")
    assert websocket.wait_closed(10)


def test_close_all_by_a_listener_closes_every_connection(engine: Engine) -> None:
    ends = Ends()
    peers = [connect(ends.of(make_websocket(engine, close_timeout=0.2))) for _ in range(3)]
    websocket = ends.of(make_websocket(engine, close_timeout=0.2))
    websocket.on("message", lambda _: engine.close_all(timeout=0))
    peers.append(connect(websocket))
    peers[-1].sock.sendall(EVENTS["message"])
    wait_for(ends.have_all_come, "every connection to end")
    assert [len(codes) for codes in ends.codes.values()] == [1] * 4


def test_connection_added_by_a_listener_is_served(engine: Engine) -> None:
    added: list[Peer] = []

    def add(_: object) -> None:
        late = make_websocket(engine)
        late.on("message", late.send)
        ours, theirs = socket.socketpair()
        late.connect()
        late._take_over(ours, write_frame(Opcode.TEXT, b"early", key=KEY))
        added.append(Peer(theirs))

    websocket = make_websocket(engine)
    websocket.once("message", add)
    peer = connect(websocket)
    peer.sock.sendall(write_frame(Opcode.TEXT, b"go", key=KEY))
    wait_for(lambda: added, "the connection to be added")
    added[0].read_head()
    assert added[0].read() == Message("early")


class Recorder:
    """A slow listener that records the listeners running at the same time."""

    def __init__(self, pause: float) -> None:
        self.pause = pause
        self.begun: list[str] = []
        self.done: list[str] = []
        self.most = self._inside = 0

    def __call__(self, message: str) -> None:
        self._inside += 1
        self.most = max(self.most, self._inside)
        self.begun.append(message)
        time.sleep(self.pause)
        self.done.append(message)
        self._inside -= 1


def with_backlog(engine: Engine) -> tuple[WebSocket, Peer]:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    peer.sock.sendall(texts("1", "2", "3"))
    wait_for(lambda: websocket._backlog and len(websocket._backlog.messages) == 3, "a backlog")
    return websocket, peer


@pytest.mark.parametrize("by", ["thread", "listener", "own listener"])
def test_listener_added_to_a_backlog_gets_messages_in_order_one_by_one(
    engine: Engine, by: str
) -> None:
    websocket, peer = with_backlog(engine)
    recorder = Recorder(0.1)
    if by == "thread":
        websocket.on("message", recorder)
    elif by == "listener":
        other = make_websocket(engine)
        other.on("message", lambda _: websocket.on("message", recorder))
        connect(other).sock.sendall(texts("go"))
    else:
        websocket.on("ping", lambda _: websocket.on("message", recorder))
        peer.sock.sendall(EVENTS["ping"][:6])
    wait_for(lambda: recorder.begun, "the first message")
    peer.sock.sendall(texts("4", "5"))
    wait_for(lambda: len(recorder.done) == 5, "all messages")
    assert recorder.begun == ["1", "2", "3", "4", "5"]
    assert recorder.most == 1


def test_two_listeners_added_to_a_backlog_both_receive_it(engine: Engine) -> None:
    websocket, peer = with_backlog(engine)
    recorders = Recorder(0), Recorder(0)
    hold = threading.Event()
    engine._post(lambda: hold.wait(10))
    for recorder in recorders:
        websocket.on("message", recorder)
    hold.set()
    peer.sock.sendall(texts("4"))
    for recorder in recorders:
        wait_for(lambda recorder=recorder: len(recorder.done) == 4, "all messages")  # type: ignore[misc]
        assert recorder.done == ["1", "2", "3", "4"]


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
def test_listener_added_while_another_blocks_waits_for_it() -> None:
    engine, release, inside = Engine(), threading.Event(), threading.Event()
    websocket, peer = with_backlog(engine)

    def block(_: object) -> None:
        inside.set()
        assert release.wait(20)

    websocket.on("ping", block)
    peer.sock.sendall(EVENTS["ping"][:6])
    assert inside.wait(10)
    echo = make_websocket(engine)
    echo.on("message", echo.send)
    other = connect(echo)
    other.sock.sendall(texts("taken over"))
    assert other.read() == Message("taken over")
    recorder = Recorder(0)
    websocket.on("message", recorder)
    other.sock.sendall(texts("again"))
    assert other.read() == Message("again")
    assert recorder.begun == []
    release.set()
    wait_for(lambda: recorder.done == ["1", "2", "3"], "the messages")
    engine.stop()


@pytest.mark.skipif(not IS_NATIVE, reason="asyncio reads by itself")
@pytest.mark.parametrize("size", [5, 100_000])
def test_messages_sent_before_the_connection_broke_are_delivered(size: int) -> None:
    engine: Any = EpollEngine()  # the test runs its iterations
    websocket = make_websocket(engine)
    heard, ends = list[object](), list[int]()
    websocket.on("message", heard.append)
    websocket.on("close", lambda code, _: ends.append(code))
    peer = connect(websocket)
    engine.poll(0)
    message = "m" * 10_000
    peer.sock.sendall(texts(message) * 12 + EVENTS["close"])  # more than one read returns
    peer.sock.close()
    websocket.send(bytes(size))  # fails with a broken pipe before the engine has read
    end = time.monotonic() + 10
    while websocket.state is not State.CLOSED and time.monotonic() < end:
        engine.poll(0.1)
    assert heard == [message] * 12
    assert ends == [1000]
    assert engine._channels() == []
    engine.close()


def test_transport_closed_before_the_handover_ends_the_connection() -> None:
    async def main() -> list[int]:
        loop = asyncio.get_running_loop()
        engine = Engine(loop)
        ours, theirs = socket.socketpair()
        with theirs:
            transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
            transport.abort()
            for _ in range(5):
                await asyncio.sleep(0)
            websocket = make_websocket(engine, ping_interval=None)
            ends: list[int] = []
            websocket.on("close", lambda code, _: ends.append(code))
            websocket.connect()
            websocket._take_over(transport)
            await asyncio.wait_for(websocket.await_closed(), 10)
            assert engine.stats().open == 0
            engine.stop()
            return ends

    assert asyncio.run(main()) == [1006]


def test_prepared_message_behind_a_small_one_arrives_whole(engine: Engine) -> None:
    websocket = make_websocket(engine, high_water=1 << 20)
    large = b"y" * 50_000

    def answer(_: object) -> None:
        websocket.send("x" * 1000)
        fan_out((websocket,), PreparedMessage(large))
        websocket._send_prepared(PreparedMessage(large)) if not IS_NATIVE else None

    websocket.on("message", answer)
    peer = connect(websocket)
    peer.sock.sendall(EVENTS["message"][:11] * 20)
    for _ in range(20):
        assert peer.read() == Message("x" * 1000)
        assert peer.read() == Message(large)
