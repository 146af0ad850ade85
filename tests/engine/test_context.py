"""The context variables that listeners see, and `around`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Engine, WebSocket
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import Peer, connect, make_websocket
from .frames import KEY, frame
from .loops import (
    Run,
    in_thread,
)

user: ContextVar[str] = ContextVar("user", default="nobody")

PING = write_frame(Opcode.PING, b"", key=KEY)
CLOSE = write_frame(Opcode.CLOSE, b"", key=KEY)


def connect_as(name: str, websocket: WebSocket, early: bytes = b"") -> Peer:
    """Call `connect()` where `user` is `name`, as a request's handler would."""

    def handler() -> Peer:
        user.set(name)
        return connect(websocket, early)

    return copy_context().run(handler)


def record_user(websocket: WebSocket, seen: list[tuple[str, str]]) -> None:
    """Record at every event the user that the listener sees."""
    for event in ("open", "message", "ping", "close"):
        websocket.on(event, lambda *_, event=event: seen.append((event, user.get())))


EVERY_EVENT = [(event, "nobody") for event in ("open", "message", "ping", "close")]


def test_listener_in_thread_sees_no_variable_of_the_request(engine: Engine) -> None:
    seen: list[tuple[str, str]] = []
    websocket = make_websocket(engine)
    record_user(websocket, seen)
    peer = connect_as("alice", websocket)
    peer.sock.sendall(frame("hello") + PING + CLOSE)
    peer.read_to_end()
    assert websocket.wait_closed(10)
    assert seen == EVERY_EVENT


def test_listener_in_loop_sees_no_variable_of_any_request(run_in_loop: Run) -> None:
    async def test(_: Engine) -> None:
        user.set("alice")
        engine = Engine(asyncio.get_running_loop())
        for early in (b"", frame("hello")):
            seen: list[tuple[str, str]] = []
            websocket = make_websocket(engine)
            record_user(websocket, seen)
            ours, theirs = socket.socketpair()
            websocket.connect()
            websocket._take_over(ours, early)
            theirs.sendall((b"" if early else frame("hello")) + PING + CLOSE)
            await websocket.await_closed()
            theirs.close()
            assert seen == EVERY_EVENT
        engine.stop()

    run_in_loop(test)


def test_async_listener_sees_no_variable_of_any_request(run_in_loop: Run) -> None:
    async def test(_: Engine) -> None:
        user.set("alice")
        engine = Engine(asyncio.get_running_loop())
        seen: list[str] = []
        over = asyncio.Event()
        websocket = make_websocket(engine)

        @websocket.on("message")
        async def message_received(_: str) -> None:
            seen.append(user.get())

        @websocket.on("close")
        async def closed(*_: object) -> None:
            seen.append(user.get())
            over.set()

        ours, theirs = socket.socketpair()
        websocket.connect()
        websocket._take_over(ours)
        theirs.sendall(frame("hello") + CLOSE)
        await over.wait()
        theirs.close()
        engine.stop()
        assert seen == ["nobody"] * 2

    run_in_loop(test)


def test_listener_over_transport_sees_no_variable_of_the_request(
    run_in_loop: Run,
) -> None:
    async def test(engine: Engine) -> None:
        user.set("alice")
        seen: list[tuple[str, str]] = []
        websocket = make_websocket(engine)
        record_user(websocket, seen)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
        transport.pause_reading()
        websocket.connect()
        websocket._take_over(transport)
        theirs.sendall(frame("hello") + PING + CLOSE)
        await websocket.await_closed()
        theirs.close()
        assert seen == EVERY_EVENT

    run_in_loop(test)


def test_drain_listener_sees_no_variable_of_the_sender(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        for over_transport in (False, True):
            seen: list[str] = []
            drained = asyncio.Event()
            websocket = make_websocket(engine, high_water=1 << 16)
            websocket.on("drain", lambda seen=seen: seen.append(user.get()))
            websocket.on("drain", drained.set)
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            loop = asyncio.get_running_loop()
            connected: Any = ours
            if over_transport:
                connected, _ = await loop.connect_accepted_socket(asyncio.Protocol, ours)
                connected.pause_reading()
            opened = asyncio.Event()
            websocket.on("open", opened.set)
            websocket.connect()
            websocket._take_over(connected)
            await opened.wait()
            user.set("alice")
            websocket.send(bytes(4 << 20))
            reading = asyncio.ensure_future(in_thread(read_all, theirs, 4 << 20))
            await drained.wait()
            await reading
            theirs.close()
            assert seen == ["nobody"]

    def read_all(sock: socket.socket, size: int) -> None:
        while size > 0:
            size -= len(sock.recv(1 << 20))

    run_in_loop(test)


def test_close_listener_sees_no_variable_of_the_aborting_request(
    run_in_loop: Run,
) -> None:
    async def test(engine: Engine) -> None:
        seen: list[str] = []
        closed = asyncio.Event()
        websocket = make_websocket(engine)
        websocket.on("close", lambda *_: seen.append(user.get()))

        @websocket.on("close")
        async def asynchronously(*_: object) -> None:
            seen.append(user.get())
            closed.set()

        peer = await in_thread(connect, websocket)
        user.set("alice")
        websocket.abort()
        await closed.wait()
        peer.sock.close()
        assert seen == ["nobody"] * 2

    run_in_loop(test)


def test_queued_messages_are_delivered_in_an_empty_context(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        websocket = make_websocket(engine)
        peer = await in_thread(connect, websocket)
        pinged = asyncio.Event()
        websocket.on("ping", lambda _: pinged.set())
        peer.sock.sendall(frame("hello") + PING)
        await pinged.wait()  # the message precedes it and has no listener yet
        user.set("alice")
        seen: list[str] = []
        websocket.on("message", lambda _: seen.append(user.get()))
        await asyncio.sleep(0)
        assert seen == ["nobody"]
        peer.sock.close()

    run_in_loop(test)


def check_variable_of_a_listener_stays_there(engine: Engine) -> None:
    alice, bob = make_websocket(engine), make_websocket(engine)

    @alice.on("message")
    def remember(message: str) -> None:
        user.set("alice")
        alice.send(message)

    bob.on("message", lambda _: bob.send(user.get()))
    alice_peer, bob_peer = connect(alice), connect(bob)
    alice_peer.sock.sendall(frame("hello"))
    assert alice_peer.read() == Message("hello")
    bob_peer.sock.sendall(frame("who am I?"))
    assert bob_peer.read() == Message("nobody")
    for peer in (alice_peer, bob_peer):
        peer.sock.close()


def test_variable_set_by_a_listener_in_thread_is_unseen_by_others(engine: Engine) -> None:
    check_variable_of_a_listener_stays_there(engine)


def test_variable_set_by_a_listener_in_loop_is_unseen_by_others(
    run_in_loop: Run,
) -> None:
    async def test(engine: Engine) -> None:
        await in_thread(check_variable_of_a_listener_stays_there, engine)

    run_in_loop(test)


def test_listener_that_blocks_its_thread_ends_in_its_own_context(engine: Engine) -> None:
    go_on = threading.Event()
    slow, quick = make_websocket(engine), make_websocket(engine)

    @slow.on("message")
    def block(_: str) -> None:
        user.set("alice")
        go_on.wait(10)
        slow.send(user.get())

    quick.on("message", lambda _: quick.send(user.get()))
    slow_peer, quick_peer = connect(slow), connect(quick)
    slow_peer.sock.sendall(frame("block"))
    for _ in range(3):
        quick_peer.sock.sendall(frame("who am I?"))
        if not IS_NATIVE:  # the engine has only one thread
            go_on.set()
        assert quick_peer.read() == Message("nobody")
    go_on.set()
    assert slow_peer.read() == Message("alice")
    quick_peer.sock.sendall(frame("who am I?"))
    assert quick_peer.read() == Message("nobody")


def test_keep_context_runs_listeners_in_their_requests_context(engine: Engine) -> None:
    peers = []
    for name in ("alice", "bob"):
        websocket = make_websocket(engine, keep_context=True)
        websocket.on("message", lambda _, websocket=websocket: websocket.send(user.get()))
        websocket.on("message", lambda _: user.set("a listener"))
        peers.append(connect_as(name, websocket))
    for _ in range(2):  # values set by a listener are not kept
        for name, peer in zip(("alice", "bob"), peers, strict=True):
            peer.sock.sendall(frame("who am I?"))
            assert peer.read() == Message(name)


def test_keep_context_runs_async_listeners_in_their_requests_context(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        async def ask(name: str) -> None:
            user.set(name)
            websocket = make_websocket(engine)

            @websocket.on("message")
            async def answer(_: str) -> None:
                websocket.send(user.get())

            ours, theirs = socket.socketpair()
            websocket.connect(keep_context=True)
            websocket._take_over(ours)
            peer = Peer(theirs)
            await in_thread(peer.read_head)
            user.set("later")
            theirs.sendall(frame("who am I?"))
            assert await in_thread(peer.read) == Message(name)
            theirs.close()

        for name in ("alice", "bob"):
            await asyncio.create_task(ask(name))

    run_in_loop(test)


class Log:
    """The uses of a context manager, and of the listeners inside."""

    def __init__(self) -> None:
        self.lines: list[object] = []

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        self.lines.append("enter")
        token = user.set("inside")
        try:
            yield
        except ValueError as error:
            self.lines.append(error.args[0])
            raise
        finally:
            user.reset(token)
            self.lines.append("exit")

    @contextlib.asynccontextmanager
    async def around_async(self) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        with self.around():
            yield
        await asyncio.sleep(0)


def test_around_is_entered_for_each_listener(engine: Engine) -> None:
    log = Log()
    websocket = make_websocket(engine, around=log.around)

    def never(_: str) -> None:
        log.lines.append("never")

    websocket.on("message", never)
    websocket.on("message", lambda message: log.lines.append((message, user.get())))
    websocket.once("message", lambda message: log.lines.append(("once", message)))
    websocket.on("close", lambda *_: log.lines.append(("close", user.get())))
    peer = connect(websocket)
    websocket.off("message", never)
    peer.sock.sendall(frame("1") + frame("2") + CLOSE)
    peer.read_to_end()
    assert websocket.wait_closed(10)
    calls = [("1", "inside"), ("once", "1"), ("2", "inside"), ("close", "inside")]
    assert log.lines == [line for call in calls for line in ("enter", call, "exit")]


def test_around_sees_the_exception_of_a_listener(engine: Engine) -> None:
    log = Log()
    websocket = make_websocket(engine)
    peer_found: list[Peer] = []

    @websocket.on("message")
    def fail(_: str) -> None:
        raise ValueError("a listener's")

    ours, theirs = socket.socketpair()
    websocket.connect(around=log.around)
    websocket._take_over(ours)
    peer_found.append(Peer(theirs))
    peer_found[0].read_head()
    theirs.sendall(frame("hello"))
    (close,) = peer_found[0].read_to_end_or_close()
    assert isinstance(close, Close)
    assert close.code == 1011
    assert log.lines == ["enter", "a listener's", "exit"]


def test_around_that_fails_closes_with_1011(engine: Engine) -> None:
    def fail() -> Any:
        raise RuntimeError("around's")

    websocket = make_websocket(engine, around=fail)
    called: list[object] = []
    websocket.on("message", called.append)
    peer = connect(websocket)
    peer.sock.sendall(frame("hello"))
    (close,) = peer.read_to_end_or_close()
    assert isinstance(close, Close)
    assert close.code == 1011
    assert called == []


@pytest.mark.parametrize("name", ["around", "around_async"])
def test_around_is_entered_for_each_async_listener(run_in_loop: Run, name: str) -> None:
    async def test(engine: Engine) -> None:
        log = Log()
        closed = asyncio.Event()
        websocket = make_websocket(engine, around=getattr(log, name))

        @websocket.on("message")
        async def message_received(message: str) -> None:
            await asyncio.sleep(0)
            log.lines.append((message, user.get()))

        @websocket.once("close")
        async def after_close(*_: object) -> None:
            log.lines.append(("close", user.get()))
            asyncio.get_running_loop().call_later(0.01, closed.set)

        peer = await in_thread(connect, websocket)
        peer.sock.sendall(frame("1") + frame("2") + CLOSE)
        await closed.wait()
        while len(log.lines) < 9:
            await asyncio.sleep(0.01)
        peer.sock.close()
        calls = [("1", "inside"), ("2", "inside"), ("close", "inside")]
        assert log.lines == [line for call in calls for line in ("enter", call, "exit")]

    run_in_loop(test)


def test_async_around_of_a_plain_listener_is_an_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    websocket = make_websocket(engine, around=Log().around_async)
    websocket.on("message", lambda _: None)
    peer = connect(websocket)
    peer.sock.sendall(frame("hello"))
    (close,) = peer.read_to_end_or_close()
    assert isinstance(close, Close)
    assert close.code == 1011
    assert "an asynchronous one needs async def listeners" in caplog.text


def test_around_that_is_not_callable_is_a_type_error(engine: Engine) -> None:
    with pytest.raises(TypeError, match="around is a callable"):
        make_websocket(engine, around=contextlib.nullcontext())


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python has one thread")
def test_thread_that_was_blocked_keeps_no_variable_of_its_listener(engine: Engine) -> None:
    seen: list[str] = []
    blocked, release = threading.Event(), threading.Event()
    websocket = make_websocket(engine)

    @websocket.on("ping")
    def block(_: bytes) -> None:
        blocked.set()
        release.wait(20)

    @websocket.on("message")
    def message_received(message: str) -> None:
        seen.append(user.get())
        user.set(message)

    peer = connect(websocket)
    peer.sock.sendall(PING + frame("alice") + frame("bob"))
    assert blocked.wait(10)
    other = make_websocket(engine)  # is served, so another thread has taken over
    other.on("message", other.send)
    other_peer = connect(other)
    other_peer.sock.sendall(frame("hello"))
    assert other_peer.read() == Message("hello")
    release.set()
    peer.sock.sendall(CLOSE)
    peer.read_to_end()
    assert websocket.wait_closed(10)
    assert seen == ["nobody", "nobody"]
