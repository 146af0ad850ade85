"""Listeners still running when their connection ends, and eager tasks."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, ConnectionClosed, Engine, State, WebSocket, WebSocketError
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import close_payload

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .frames import frame
from .loops import (  # noqa: F401 (a fixture)
    LOOPS,
    Run,
    in_thread,
)

KEY = b"\x01\x02\x03\x04"


def send_close(peer: Peer) -> None:
    peer.sock.sendall(write_frame(Opcode.CLOSE, close_payload(1001), key=KEY))


def shut_down(peer: Peer) -> None:
    peer.sock.shutdown(socket.SHUT_WR)


def close_socket(peer: Peer) -> None:
    peer.sock.close()


LEAVE = [send_close, shut_down, close_socket]
Leave = Callable[[Peer], None]


def send_until_closed(websocket: WebSocket, over: threading.Event, _: object = None) -> None:
    """A listener that is answering when its connection ends."""
    try:
        for _ in range(2000):
            websocket.send("more")
            over.wait(0.01)
    except ConnectionClosed:
        over.set()
        raise


def assert_ordinary(caplog: pytest.LogCaptureFixture, errors: list[BaseException]) -> None:
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []
    assert [record for record in caplog.records if record.exc_info] == []
    assert errors == []


@pytest.mark.parametrize("leave", LEAVE)
def test_async_listener_that_sends_after_the_end_logs_no_error(
    run_in_loop: Run,
    leave: Leave,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "websocket_handler")

    async def test(engine: Engine) -> None:
        errors: list[BaseException] = []
        codes: list[int] = []
        over = asyncio.Event()
        websocket = make_websocket(engine)
        websocket.on("error", errors.append)

        @websocket.on("message")
        async def stream(_: object) -> None:
            while True:
                websocket.send("more")
                await asyncio.sleep(0.01)

        @websocket.on("close")
        async def closed(code: int, _: str) -> None:
            codes.append(code)
            over.set()

        peer = await in_thread(connect, websocket)
        peer.sock.sendall(frame("go"))
        await in_thread(peer.read)
        leave(peer)
        await over.wait()
        assert codes == [1001 if leave is send_close else 1006]
        assert_ordinary(caplog, errors)

    run_in_loop(test)


@pytest.mark.parametrize("event", ["message", "error", "close"])
def test_listener_that_sends_after_the_end_logs_no_error(
    engine: Engine, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "websocket_handler")
    errors: list[BaseException] = []
    called = threading.Event()
    websocket = make_websocket(engine)

    def listen(*_: object) -> None:
        websocket.close(4000, "enough")
        called.set()
        websocket.send("too late")

    websocket.on(event, listen)  # type: ignore[call-overload]
    if event != "error":
        websocket.on("error", errors.append)
    peer = connect(websocket)
    if event == "error":
        peer.sock.sendall(b"\xff\xff")  # not a protocol error
    else:
        peer.sock.sendall(frame("go"))
    if event == "close":
        send_close(peer)
    assert called.wait(10)
    peer.sock.sendall(write_frame(Opcode.CLOSE, close_payload(4000), key=KEY))
    assert websocket.wait_closed(10)
    assert_ordinary(caplog, errors)


@pytest.mark.skipif(not IS_NATIVE, reason="a listener that blocks holds up the engine")
def test_blocking_listener_that_sends_after_the_end_logs_no_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []
    over = threading.Event()
    websocket = make_websocket(engine)
    websocket.on("error", errors.append)
    websocket.on("message", lambda _: send_until_closed(websocket, over))
    peer = connect(websocket)
    peer.sock.sendall(frame("go"))
    assert peer.read() == Message("more")
    peer.sock.close()
    assert over.wait(10)
    assert websocket.wait_closed(10)
    assert_ordinary(caplog, errors)


def test_listener_that_sends_on_another_connection_that_has_ended_fails(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """The listener must expect this; its own connection is unaffected otherwise."""
    errors: list[BaseException] = []
    websocket, other = make_websocket(engine), make_websocket(engine)
    websocket.on("message", lambda message: other.send(message))
    websocket.on("error", errors.append)
    peer, gone = connect(websocket), connect(other)
    gone.sock.close()
    assert other.wait_closed(10)
    peer.sock.sendall(frame("for the other"))
    assert peer.read() == Close(1011, "internal error")
    assert [type(error) for error in errors] == [ConnectionClosed]
    assert "a listener raised" in caplog.text


def test_slow_consumer_closed_in_a_listener_logs_no_error(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[BaseException] = []
    websocket = make_websocket(engine, max_buffered=64 << 10, close_timeout=0.5)

    def flood(_: object) -> None:
        while True:
            websocket.send(bytes(64 << 10))

    websocket.on("error", errors.append)
    websocket.on("message", flood)
    peer = connect(websocket)
    peer.sock.sendall(frame("go"))
    assert websocket.wait_closed(20)
    assert_ordinary(caplog, errors)


def test_receive_in_a_coroutine_says_what_to_await(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)

    async def receive_as_threads_do() -> object:
        with pytest.raises(WebSocketError, match=r"await areceive\(\)"):
            websocket.receive(timeout=0.1)
        with pytest.raises(WebSocketError, match=r"await areceive\(\)"):
            next(iter(websocket))
        peer.sock.sendall(frame("hello"))
        return await websocket.areceive()  # the failed call has not prevented this

    assert asyncio.run(receive_as_threads_do()) == "hello"


def test_async_listener_where_the_engine_has_a_thread_says_what_to_do(engine: Engine) -> None:
    async def listener(_: object) -> None: ...

    with pytest.raises(WebSocketError, match=r"run_coroutine_threadsafe\(\)"):
        make_websocket(engine).on("message", listener)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
@pytest.mark.parametrize("suspends", [False, True])
def test_async_listeners_in_eager_tasks_receive_every_event(suspends: bool) -> None:
    seen: list[Any] = []

    async def test() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 (3.12)
        engine, over = Engine(loop), asyncio.Event()
        websocket = make_websocket(engine)

        @websocket.on("message")
        async def heard(message: str) -> None:
            if suspends:
                await asyncio.sleep(0)
            seen.append(message)
            if message == "3":
                websocket.close(4000)
                seen.append("closing")

        @websocket.on("close")
        async def closed(code: int, _: str) -> None:
            seen.append(code)
            over.set()

        peer = await in_thread(connect, websocket)
        for message in "123":
            peer.sock.sendall(frame(message))
            await in_thread(wait_for, lambda: message in seen, "the message")  # noqa: B023
        assert websocket.state is State.CLOSING
        peer.sock.sendall(write_frame(Opcode.CLOSE, close_payload(4000), key=KEY))
        await over.wait()
        engine.stop()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(test(), 30))
    assert seen == ["1", "2", "3", "closing", 4000]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="there are no eager tasks")
def test_eager_listener_that_ends_its_connection_is_not_interrupted() -> None:
    seen: list[Any] = []

    async def test() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009 (3.12)
        engine, over = Engine(loop), asyncio.Event()
        websocket = make_websocket(engine)

        @websocket.on("message")
        async def heard(_: str) -> None:
            websocket.abort()
            seen.append("heard")

        @websocket.on("close")
        async def closed(code: int, _: str) -> None:
            seen.append(code)
            over.set()

        peer = await in_thread(connect, websocket)
        peer.sock.sendall(frame("go"))
        await over.wait()
        engine.stop()
        await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(test(), 30))
    assert seen == ["heard", 1006]
