"""Receiving messages: `async for` and `areceive()`, `for` and `receive()`."""

from __future__ import annotations

import asyncio
import contextvars
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from websocket_handler import ConnectionClosed, Engine, State, WebSocket, WebSocketError
from websocket_handler.protocol.assembly import Close, Message, Pong
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import close_payload

from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .loops import in_thread

KEY = b"\x01\x02\x03\x04"


async def open_pair(engine: Engine, **settings: Any) -> tuple[WebSocket, Peer]:
    websocket = make_websocket(engine, **settings)
    return websocket, await in_thread(connect, websocket)


def text(message: str) -> bytes:
    return write_frame(Opcode.TEXT, message.encode(), key=KEY)


def close(code: int, reason: str = "") -> bytes:
    return write_frame(Opcode.CLOSE, close_payload(code, reason), key=KEY)


async def echo_each(websocket: WebSocket) -> str:
    async for message in websocket:
        websocket.send(message)
    return "ended"


def test_task_is_resumed_for_each_message_in_order(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        task = asyncio.ensure_future(echo_each(websocket))
        for size in (1, 1, 7, 500):
            sent = [f"{number}/{size}" for number in range(size)]
            await in_thread(peer.sock.sendall, b"".join(map(text, sent)))
            received = await in_thread(lambda n=size: [peer.read() for _ in range(n)])
            assert received == [Message(one) for one in sent]
        await in_thread(peer.sock.sendall, close(1000))
        assert await task == "ended"
        peer.sock.close()

    run(test)


def test_messages_before_the_iteration_are_queued(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        await in_thread(peer.sock.sendall, text("first") + text("second") + close(1000))
        await in_thread(peer.read_to_end)
        assert websocket.state is State.CLOSED
        assert [message async for message in websocket] == ["first", "second"]
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.areceive()
        assert caught.value.code == 1000
        peer.sock.close()

    run(test)


@pytest.mark.parametrize(
    ("end", "code"), [(close(4001, "enough"), 4001), (b"", 1006), (b"\x83\x80" + KEY, 1002)]
)
def test_abnormal_end_raises_in_the_iteration(run: Any, end: bytes, code: int) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        task = asyncio.ensure_future(echo_each(websocket))
        await in_thread(peer.sock.sendall, text("x"))
        assert await in_thread(peer.read) == Message("x")
        await in_thread(peer.sock.sendall, end)
        peer.sock.shutdown(1)
        with pytest.raises(ConnectionClosed) as caught:
            await task
        assert caught.value.code == code
        peer.sock.close()

    run(test)


def test_cancelled_receive_loses_no_message(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        task = asyncio.ensure_future(websocket.areceive())
        await asyncio.sleep(0.02)
        task.cancel("not now")
        with pytest.raises(asyncio.CancelledError):
            await task
        await in_thread(peer.sock.sendall, text("later"))
        assert await websocket.areceive() == "later"

        task = asyncio.ensure_future(websocket.areceive())
        await asyncio.sleep(0.02)
        peer.sock.sendall(text("at the same time"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await websocket.areceive() == "at the same time"
        peer.sock.close()

    run(test)


def test_timeouts_and_sleeps_work_in_a_resumed_task(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)

        async def run_over_asgi_messages() -> list[str]:
            heard = []
            for limit in (0.05, 10, 10):
                try:
                    heard.append(await asyncio.wait_for(websocket.areceive(), limit))
                except asyncio.TimeoutError:
                    heard.append("silence")
                    websocket.send("well?")
                await asyncio.sleep(0.001)
                assert asyncio.current_task() is task
            return heard  # type: ignore[return-value]

        task = asyncio.ensure_future(run_over_asgi_messages())
        assert await in_thread(peer.read) == Message("well?")
        await in_thread(peer.sock.sendall, text("yes") + text("sir"))
        assert await task == ["silence", "yes", "sir"]
        peer.sock.close()

    run(test)


def test_resumed_task_has_its_own_context(run: Any) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody's")

    async def test(engine: Engine) -> None:
        async def names(own: str, websocket: WebSocket) -> None:
            name.set(own)
            async for _ in websocket:
                websocket.send(name.get())

        pairs = [await open_pair(engine) for _ in range(2)]
        tasks = [
            asyncio.ensure_future(names(f"number {number}", websocket))
            for number, (websocket, _) in enumerate(pairs)
        ]
        for _ in range(3):
            for number, (_, peer) in enumerate(pairs):
                await in_thread(peer.sock.sendall, text("who?"))
                assert await in_thread(peer.read) == Message(f"number {number}")
        assert name.get() == "nobody's"
        for (websocket, peer), task in zip(pairs, tasks, strict=True):
            websocket.close()
            peer.sock.sendall(close(1000))
            await task
            peer.sock.close()

    run(test)


def test_task_may_close_what_another_task_receives_from(run: Any) -> None:
    async def test(engine: Engine) -> None:
        waiting, peer = await open_pair(engine)
        ending, other = await open_pair(engine)
        task = asyncio.ensure_future(waiting.areceive())

        async def end_it() -> None:
            async for _ in ending:
                waiting.abort()

        ender = asyncio.ensure_future(end_it())
        await asyncio.sleep(0.02)
        await in_thread(other.sock.sendall, text("now") + close(1000))
        with pytest.raises(ConnectionClosed) as caught:
            await task
        assert caught.value.code == 1006
        await ender
        peer.sock.close()
        other.sock.close()

    run(test)


def test_second_waiting_coroutine_is_an_error(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        task = asyncio.ensure_future(websocket.areceive())
        await asyncio.sleep(0)
        with pytest.raises(WebSocketError, match="another coroutine"):
            await websocket.areceive()
        peer.sock.sendall(text("mine"))
        assert await task == "mine"
        peer.sock.close()

    run(test)


def test_reading_pauses_while_nobody_receives(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine, high_water=10_000)
        message = "x" * 1000
        sent = 0
        peer.sock.settimeout(0.2)
        peer.sock.setsockopt(1, 7, 50_000)  # SO_SNDBUF

        def send_until_it_stops() -> int:
            sent = 0
            data = text(message) * 100
            try:
                for _ in range(1000):
                    sent += peer.sock.send(data[sent % len(data) :])
            except TimeoutError:
                return sent
            pytest.fail("100 MB were read and kept")

        sent = await in_thread(send_until_it_stops)
        whole = sent // len(text(message))
        for _ in range(whole):
            assert await websocket.areceive() == message
        websocket.send("still there")
        peer.sock.settimeout(10)
        assert await in_thread(peer.read) == Message("still there")
        peer.sock.close()

    run(test)


async def holds(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    pytest.fail("the condition has not become true")


def test_reader_that_begins_with_a_full_backlog_keeps_reading_paused(run: Any) -> None:
    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine, high_water=10_000)
        peer.sock.sendall(text("x" * 1000) * 12)
        await holds(lambda: websocket._backlog is not None and websocket._backlog.is_full)
        inbox = websocket.__aiter__()
        await holds(lambda: inbox.is_full)
        assert [len(await inbox.__anext__()) for _ in range(12)] == [1000] * 12
        assert not inbox.is_full
        peer.sock.close()

    run(test)


def test_sends_between_two_awaits_leave_in_one_call(run: Any) -> None:
    """Sends between two awaits are one system call: the peer receives them in one read."""

    async def test(engine: Engine) -> None:
        websocket, peer = await open_pair(engine)
        for number in range(50):
            websocket.send(f"{number:03}")
        if engine.event_loop is not None:
            arrived = await in_thread(peer.sock.recv, 1 << 16)
            assert len(arrived) == 50 * 5
        else:
            for number in range(50):
                assert await in_thread(peer.read) == Message(f"{number:03}")
        peer.sock.close()

    run(test)


def test_threads_receive_messages_in_order(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    with pytest.raises(TimeoutError, match=r"0\.01 seconds"):
        websocket.receive(timeout=0.01)
    peer.sock.sendall(text("one") + text("two"))
    assert websocket.receive(timeout=10) == "one"
    peer.sock.sendall(text("three") + close(1001))
    assert list(websocket) == ["two", "three"]
    with pytest.raises(ConnectionClosed) as caught:
        websocket.receive()
    assert caught.value.code == 1001
    assert peer.read_to_end() == [Close(1001, "")]
    peer.sock.close()


def test_iteration_in_a_thread_raises_on_abnormal_end(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    peer.sock.sendall(text("one"))
    heard = []
    with pytest.raises(ConnectionClosed) as caught:  # noqa: PT012
        for message in websocket:
            heard.append(message)
            peer.sock.close()
    assert heard == ["one"]
    assert caught.value.code == 1006


def test_mixing_listeners_and_receive_is_an_error(engine: Engine) -> None:
    listening = make_websocket(engine)
    listening.on("message", print)
    peer = connect(listening)
    with pytest.raises(WebSocketError, match="listener"):
        listening.receive()
    with pytest.raises(WebSocketError, match="listener"):
        asyncio.run(listening.areceive())
    peer.sock.close()

    receiving = make_websocket(engine)
    with pytest.raises(WebSocketError, match="connect"):
        receiving.receive()
    peer = connect(receiving)
    peer.sock.sendall(text("x"))
    assert receiving.receive() == "x"
    with pytest.raises(WebSocketError, match="cannot add a message listener"):
        receiving.on("message", print)
    with pytest.raises(WebSocketError, match="not both"):
        asyncio.run(receiving.areceive())
    peer.sock.close()


def test_late_listener_gets_earlier_messages(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    peer.sock.sendall(text("one") + text("two"))
    pinged = threading.Event()
    websocket.on("ping", lambda _: pinged.set())
    peer.sock.sendall(write_frame(Opcode.PING, b"", key=KEY))
    assert pinged.wait(10)
    websocket.on("message", websocket.send)
    peer.sock.sendall(text("three"))
    assert peer.read()  # the pong
    assert [peer.read() for _ in range(3)] == [Message(word) for word in ("one", "two", "three")]
    peer.sock.close()


def leave_waiting(websocket: WebSocket, peer: Peer, *messages: str) -> None:
    """Leave messages that no one has received yet in the queue."""
    pinged = threading.Event()
    websocket.once("ping", lambda _: pinged.set())
    peer.sock.sendall(b"".join(map(text, messages)) + write_frame(Opcode.PING, b"", key=KEY))
    assert pinged.wait(10)
    assert peer.read() == Pong(b"")


def test_late_once_listener_gets_one_message(engine: Engine) -> None:
    """The remaining messages wait for the next listener; removing a listener loses none."""
    websocket = make_websocket(engine)
    peer = connect(websocket)
    leave_waiting(websocket, peer, "one", "two", "three")
    websocket.off("message", print)
    websocket.once("message", websocket.send)
    assert peer.read() == Message("one")
    websocket.once("message", websocket.send)
    assert peer.read() == Message("two")
    assert websocket.receive(timeout=10) == "three"
    peer.sock.close()


@pytest.mark.parametrize("end", [WebSocket.close, WebSocket.abort])
def test_late_listener_that_ends_the_connection_gets_no_more(
    engine: Engine, end: Callable[[WebSocket], None]
) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    heard: list[object] = []
    begun, over = threading.Event(), threading.Event()
    leave_waiting(websocket, peer, "one", "two", "three")
    websocket.on("error", heard.append)
    websocket.on("close", lambda code, _: heard.append(code))
    websocket.on("close", lambda *_: over.set())

    @websocket.on("message")
    def end_it(message: str) -> None:
        heard.append(message)
        end(websocket)
        begun.set()
        websocket.send("too late")  # raises

    assert begun.wait(10)
    with suppress(BrokenPipeError):  # after `abort`
        peer.sock.sendall(close(1000))
    assert over.wait(10)
    assert heard[0] == "one"
    assert [type(event) for event in heard[1:]] in ([int], [ConnectionClosed, int])
    peer.sock.close()


@pytest.mark.parametrize("event", ["error", "close"])
def test_listener_added_at_the_end_gets_nothing(engine: Engine, event: str) -> None:
    """`close` is the last event."""
    websocket = make_websocket(engine)
    peer = connect(websocket)
    heard: list[object] = []
    over = threading.Event()
    leave_waiting(websocket, peer, "one", "two")
    websocket.on(event, lambda *_: websocket.on("message", heard.append))  # type: ignore[call-overload]
    websocket.on("close", lambda *_: over.set())
    peer.sock.sendall(b"\xff\xff")
    assert over.wait(10)
    engine._post(over.clear)  # runs after any message the listener could cause
    while over.is_set():
        time.sleep(0.001)
    assert heard == []
    peer.sock.close()


def test_queued_messages_can_be_received_after_the_end(engine: Engine) -> None:
    websocket = make_websocket(engine)
    peer = connect(websocket)
    leave_waiting(websocket, peer, "one", "two")
    peer.sock.sendall(close(1000))
    assert websocket.wait_closed(10)
    assert list(websocket) == ["one", "two"]
    peer.sock.close()


def test_inbox_full_from_the_start_pauses_its_peer(engine: Engine) -> None:
    """More than `high_water` bytes are already queued: reading stays paused until some are
    received."""
    websocket = make_websocket(engine, high_water=10_000)
    peer = connect(websocket)
    leave_waiting(websocket, peer, *["x" * 1000] * 9)
    peer.sock.sendall(text("x" * 1000) * 9)
    peer.sock.settimeout(0.5)
    assert len(websocket.receive(timeout=10)) == 1000
    data = text("x" * 1000) * 100

    def send_much() -> None:
        sent = 0
        for _ in range(1000):
            sent += peer.sock.send(data[sent % len(data) :])

    with pytest.raises(TimeoutError):  # 100 MB are not read and kept
        send_much()
    peer.sock.close()


def test_receive_in_the_engines_own_thread_is_an_error(engine: Engine) -> None:
    websocket = make_websocket(engine)
    refused: list[Exception] = []
    done = threading.Event()

    @websocket.on("open")
    def receive() -> None:
        try:
            websocket.receive()
        except WebSocketError as error:
            refused.append(error)
        done.set()

    peer = connect(websocket)
    assert done.wait(10)
    assert re.match(r"receive\(\) (in the engine.s own thread|would block)", str(refused[0]))
    peer.sock.close()


def test_thread_that_begins_to_receive_at_the_close_gets_what_arrived_before(
    engine: Engine,
) -> None:
    websocket = make_websocket(engine)
    received: list[object] = []

    def receive_all() -> None:
        with suppress(ConnectionClosed):
            while True:
                received.append(websocket.receive(timeout=20))

    receiver = threading.Thread(target=receive_all, daemon=True)

    def begin_to_receive(*_: object) -> None:
        receiver.start()
        wait_for(lambda: websocket._inbox is not None, "the receiver")

    websocket.on("close", begin_to_receive)
    peer = connect(websocket)
    peer.sock.sendall(text("one") + text("two") + close(1000))
    wait_for(lambda: receiver.ident is not None, "the close")
    receiver.join(20)
    assert received == ["one", "two"]
