"""Closing every connection: at once, or spread over time."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from websocket_handler import Engine, WebSocketError
from websocket_handler.protocol.assembly import Close, Message

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .traffic import echoing, frame


class Client(threading.Thread):
    """Answers the close frame, and records its arrival time."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(daemon=True)
        self.peer = peer
        self.closed_at = 0.0
        self.close: Close | None = None
        self.before: list[object] = []

    def run(self) -> None:
        while self.close is None:
            event = self.peer.read()
            if isinstance(event, Close):
                self.close, self.closed_at = event, time.monotonic()
            else:
                self.before.append(event)
        self.peer.sock.sendall(frame(8, self.close.code.to_bytes(2, "big")))
        self.peer.sock.close()


def test_drain_over_a_window_spreads_the_closes(engine: Engine) -> None:
    clients = [Client(echoing(engine)[1]) for _ in range(40)]
    for client in clients:
        client.start()
    begin = time.monotonic()
    assert engine.close_all(window=2.0, reason="new version")
    for client in clients:
        client.join(10)
    assert {client.close for client in clients} == {Close(1012, "new version")}
    times = sorted(client.closed_at - begin for client in clients)
    assert times[5] < 1.5  # expected after 0.3 s: some early
    assert times[-1] > 1.6
    assert sum(time < 1.0 for time in times) < 35  # not all at once


def test_handshake_after_drain_is_rejected(engine: Engine) -> None:
    client = Client(echoing(engine)[1])
    client.start()
    assert engine.close_all(window=0.1)
    late = make_websocket(engine)
    late.connect()
    assert late._outcome is not None
    assert late._outcome.status == 503


def test_messages_sent_before_drain_are_delivered(engine: Engine) -> None:
    websocket, peer = echoing(engine)
    client = Client(peer)
    websocket.send(b"x" * 50_000)
    client.start()
    assert engine.close_all(window=0.05)
    client.join(10)
    assert client.before == [Message(b"x" * 50_000)]


def test_drain_waits_for_silent_peers_no_longer_than_its_timeout(engine: Engine) -> None:
    _, peer = echoing(engine)
    assert not engine.close_all(window=0.05, timeout=0.1)
    assert peer.read() == Close(1012, "")


def test_drain_of_an_empty_engine_returns_at_once(engine: Engine) -> None:
    assert engine.close_all(window=10)


def test_drain_in_the_engines_own_thread_is_an_error(engine: Engine) -> None:
    websocket = make_websocket(engine)
    raised: list[Exception] = []
    done = threading.Event()

    def listener(_: object) -> None:
        try:
            engine.close_all(window=1)
        except WebSocketError as error:
            raised.append(error)
        done.set()

    websocket.on("message", listener)
    peer = connect(websocket)
    peer.sock.sendall(frame(1, b"go"))
    assert done.wait(10)
    assert str(raised[0]) == "close_all() with a window would block the engine's own thread"


@pytest.mark.parametrize("code", [1005, 999])
def test_drain_with_invalid_close_code_is_an_error(engine: Engine, code: int) -> None:
    echoing(engine)
    with pytest.raises(ValueError, match=str(code)):
        engine.close_all(window=0.05, code=code)


class StoppingSocket(socket.socket):
    """Stops an engine when that begins to attach the socket."""

    stop: Callable[[], None] | None = None

    def setblocking(self, flag: bool) -> None:
        super().setblocking(flag)
        if self.stop is not None:
            stop, self.stop = self.stop, None
            stop()


@pytest.mark.parametrize("timeout", [None, 0], ids=["waiting", "not waiting"])
@pytest.mark.parametrize("has_listener", [False, True])
def test_engine_stopped_while_a_connection_is_attached_ends_it(
    timeout: float | None, has_listener: bool
) -> None:
    engine = Engine()
    connect(make_websocket(engine)).sock.close()  # the engine runs
    websocket, ends = make_websocket(engine), list[int]()
    websocket.on("close", lambda code, _: ends.append(code))
    if has_listener:  # then the native engine attaches the socket in its own thread
        websocket.on("open", lambda: None)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(10)
        websocket.connect()
        stopping = StoppingSocket(fileno=ours.detach())
        stopping.stop = partial(engine.stop, timeout)
        websocket._take_over(stopping)
        wait_for(lambda: ends, "close to be emitted")
        wait_for(lambda: engine.stats().open == 0, "the connection to be released")
        wait_for(lambda: has_ended(theirs), "the socket to be closed")
    engine.stop()
    assert ends == [1006]


def has_ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1000)
    except ConnectionResetError:
        return True


def test_engine_in_a_loop_stopped_while_a_connection_is_attached_ends_it() -> None:
    async def attach_and_stop() -> list[int]:
        engine = Engine(asyncio.get_running_loop())
        websocket, ends = make_websocket(engine), list[int]()
        websocket.on("close", lambda code, _: ends.append(code))
        ours, theirs = socket.socketpair()
        with theirs:
            websocket.connect()
            websocket._take_over(ours)
            engine.stop()
            await asyncio.wait_for(websocket.await_closed(), 10)
            assert engine.stats().open == 0
            await asyncio.to_thread(wait_for, lambda: has_ended(theirs), "the socket to be closed")
        return ends

    assert asyncio.run(attach_and_stop()) == [1006]


def test_engine_stopped_again_by_a_close_listener_ends_its_thread() -> None:
    before = set(threading.enumerate())
    engine = Engine()
    websocket = make_websocket(engine)
    websocket.on("close", lambda *_: engine.stop())
    with connect(websocket).sock as peer:
        engine.stop()
        wait_for(lambda: set(threading.enumerate()) <= before, "the thread to end")
        assert has_ended(peer)
