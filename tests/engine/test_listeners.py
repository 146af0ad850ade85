"""`async def` listeners, and waiting for a slow peer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading

import pytest

from websocket_handler import ConnectionClosed, Engine, WebSocketError
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.message import close_payload

from ..support.connections import connect, make_websocket
from .frames import KEY, frame
from .loops import LOOPS, Run, in_thread, limit  # noqa: F401 (a fixture)


def test_async_listeners_keep_the_order_of_events(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        seen: list[object] = []
        over = asyncio.Event()
        websocket = make_websocket(engine)

        @websocket.on("open")
        async def opened() -> None:
            await asyncio.sleep(0.05)
            seen.append("open")

        @websocket.on("message")
        async def heard(message: str) -> None:
            await asyncio.sleep(0.05 if message == "1" else 0)
            seen.append(message)
            websocket.send(message)

        @websocket.on("close")
        async def closed(code: int, reason: str) -> None:
            seen.append((code, reason))
            over.set()

        peer = await in_thread(connect, websocket)
        peer.sock.sendall(b"".join(map(frame, "123")))
        assert [await in_thread(peer.read) for _ in range(3)] == [*map(Message, "123")]
        peer.sock.sendall(write_frame(Opcode.CLOSE, close_payload(1000, "bye"), key=KEY))
        await over.wait()
        assert seen == ["open", "1", "2", "3", (1000, "bye")]
        peer.sock.close()

    run_in_loop(test)


def test_slow_async_listener_pauses_only_its_peer(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        go_on = asyncio.Event()
        heard: list[bytes] = []
        slow, quick = make_websocket(engine, high_water=1000), make_websocket(engine)

        @slow.on("message")
        async def slowly(message: bytes) -> None:
            await go_on.wait()
            heard.append(message)

        quick.on("message", quick.send)
        slow_peer, quick_peer = [await in_thread(connect, one) for one in (slow, quick)]
        messages = [bytes([number]) * 100_000 for number in range(100)]
        sending = asyncio.ensure_future(
            in_thread(slow_peer.sock.sendall, b"".join(map(frame, messages)))
        )
        quick_peer.sock.sendall(frame("hello"))
        assert await in_thread(quick_peer.read) == Message("hello")
        while not slow._reading_paused:
            await asyncio.sleep(0.01)
        assert not sending.done()
        go_on.set()
        await sending
        while len(heard) < len(messages):
            await asyncio.sleep(0.01)
        assert heard == messages
        slow_peer.sock.close()
        quick_peer.sock.close()

    run_in_loop(test)


def test_raising_async_listener_closes_with_1011(
    run_in_loop: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(engine: Engine) -> None:
        errors: list[BaseException] = []
        websocket = make_websocket(engine)
        websocket.on("error", errors.append)

        @websocket.on("message")
        async def fail(message: str) -> None:
            await asyncio.sleep(0)
            raise ValueError(message)

        peer = await in_thread(connect, websocket)
        peer.sock.sendall(frame("oh"))
        assert await in_thread(peer.read) == Close(1011, "internal error")
        assert [str(error) for error in errors] == ["oh"]
        peer.sock.close()

    with caplog.at_level(logging.ERROR):
        run_in_loop(test)
    assert "ValueError: oh" in caplog.text


def test_once_and_off_work_with_async_listeners(run_in_loop: Run) -> None:
    async def test(engine: Engine) -> None:
        seen: list[str] = []
        websocket = make_websocket(engine)

        async def first(message: str) -> None:
            seen.append(f"once {message}")

        async def never(message: str) -> None:
            seen.append(f"never {message}")

        async def always(message: str) -> None:
            seen.append(message)
            websocket.send(message)

        websocket.once("message", first)
        websocket.on("message", never)
        websocket.on("message", always)
        websocket.once("message", never)
        websocket.off("message", never)
        websocket.off("message", never)
        peer = await in_thread(connect, websocket)
        peer.sock.sendall(frame("a") + frame("b"))
        assert [await in_thread(peer.read) for _ in range(2)] == [Message("a"), Message("b")]
        assert seen == ["once a", "a", "b"]
        peer.sock.close()

    run_in_loop(test)


def test_async_listener_without_a_loop_is_an_error() -> None:
    engine = Engine()

    async def listener(_: str) -> None: ...

    try:
        with pytest.raises(WebSocketError, match="event loop"):
            make_websocket(engine).on("message", listener)
    finally:
        engine.stop()


# Waiting for a slow peer


def test_adrain_waits_until_the_buffer_has_drained(run: Run) -> None:
    async def test(engine: Engine) -> None:
        websocket = make_websocket(engine)
        peer = await in_thread(connect, websocket)
        await websocket.adrain()
        websocket.send(b"x" * (1 << 24))
        assert websocket.buffered_amount > 1 << 16
        waiting = asyncio.ensure_future(websocket.adrain())
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert await in_thread(peer.read) == Message(b"x" * (1 << 24))
        await waiting
        assert websocket.buffered_amount <= 1 << 14
        peer.sock.close()

    run(test)


def test_adrain_raises_when_the_connection_ends(run: Run) -> None:
    async def test(engine: Engine) -> None:
        websocket = make_websocket(engine)
        peer = await in_thread(connect, websocket)
        websocket.send(b"x" * (1 << 24))
        waiting = asyncio.ensure_future(websocket.adrain())
        await asyncio.sleep(0.05)
        peer.sock.close()
        with pytest.raises(ConnectionClosed):
            await waiting

    run(test)


def test_drain_in_a_thread_waits_until_the_buffer_has_drained() -> None:
    engine = Engine()
    try:
        websocket = make_websocket(engine)
        refused: list[WebSocketError] = []

        def drain_in_the_engine() -> None:
            with contextlib.suppress(WebSocketError):
                websocket.drain()
                return
            refused.append(WebSocketError())

        websocket.on("open", drain_in_the_engine)
        peer = connect(websocket)
        assert websocket.drain(10)
        websocket.send(b"x" * (1 << 24))
        assert not websocket.drain(0.05)
        reader = threading.Thread(target=peer.read)
        reader.start()
        assert websocket.drain(10)
        reader.join()
        assert websocket.buffered_amount <= 1 << 14
        assert len(refused) == 1
        peer.sock.close()
    finally:
        engine.stop()


# Coroutines, and messages read together with the end of the connection


@pytest.mark.parametrize(
    ("end", "code"),
    [(write_frame(Opcode.CLOSE, close_payload(1000), key=KEY), 1000), (b"\xff\x80", 1002)],
)
def test_messages_before_the_end_are_answered(run_in_loop: Run, end: bytes, code: int) -> None:
    async def test(engine: Engine) -> None:
        websocket = make_websocket(engine)
        peer = await in_thread(connect, websocket)

        async def echo() -> None:
            async for message in websocket:
                websocket.send(message)

        echoing = asyncio.ensure_future(echo())
        await asyncio.sleep(0)
        await in_thread(peer.sock.sendall, frame("a") + frame("b") + end)
        *messages, last = await in_thread(peer.read_to_end)
        assert messages == [Message("a"), Message("b")]
        assert isinstance(last, Close)
        assert last.code == code
        with contextlib.suppress(ConnectionClosed):
            await echoing
        peer.sock.close()

    run_in_loop(test)
