"""An event loop that ends closes the connections of its engine, and the engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import threading
import weakref
from collections.abc import Callable
from functools import partial

import pytest

from websocket_handler import IS_NATIVE, Engine, WebSocket
from websocket_handler.engine import loop_engine
from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.connections import connect, make_websocket
from ..support.programs import wait_for
from .carriers import CARRIERS, LOOPS, EngineRunner, LoopThread, descriptors, new_websocket, reset

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="asyncio carries the bytes")

GOING_AWAY = b"\x88\x02\x03\xe9"


def run_and_close(thread: LoopThread) -> None:
    """Shut the loop down and close it, as `asyncio.run` does."""
    thread.run(thread.loop.shutdown_asyncgens())
    close_alone(thread)


def close_alone(thread: LoopThread) -> None:
    thread.stop()
    thread.loop.close()


def descriptors_after_a_loop(kind: str) -> int:
    """Returns the descriptors after a first loop of this kind, which may open shared ones."""
    close_alone(LoopThread(kind))
    gc.collect()
    return descriptors()


def read_to_the_end(peer: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := peer.recv(4096):
            data += part
            if data == GOING_AWAY:
                peer.sendall(write_frame(Opcode.CLOSE, b"\x03\xe9", key=bytes(4)))
    return data


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", LOOPS)
def test_loop_shutdown_closes_its_connections_with_1001(kind: str, carrier: str) -> None:
    before = descriptors_after_a_loop(kind)
    for _ in range(3):
        thread = LoopThread(kind)
        runner = EngineRunner(Engine(thread.loop), thread)
        websocket, ends = new_websocket(runner)
        peer = runner.connect(websocket, carrier)
        ending = threading.Thread(target=run_and_close, args=(thread,))
        ending.start()
        assert read_to_the_end(peer) == GOING_AWAY
        ending.join(20)
        assert len(ends) == 1
        assert websocket.wait_closed(10)
        peer.close()
    del thread, runner, websocket, ending
    gc.collect()
    assert descriptors() <= before


@pytest.mark.parametrize("carrier", ["socket", "TLS"])
@pytest.mark.parametrize("kind", LOOPS)
def test_closed_loop_closes_its_connections(kind: str, carrier: str) -> None:
    """Only the loop's `close` is called; where possible the close code is 1001."""
    before = descriptors_after_a_loop(kind)
    for _ in range(3):
        thread = LoopThread(kind)
        runner = EngineRunner(Engine(thread.loop), thread)
        websocket, ends = new_websocket(runner)
        peer = runner.connect(websocket, carrier)
        close_alone(thread)
        assert read_to_the_end(peer) == GOING_AWAY
        assert len(ends) == 1
        late = make_websocket(runner.engine)
        late.connect()
        with pytest.raises(RuntimeError, match="closed"):
            late._take_over(peer)
        peer.close()
        runner.peers.clear()
    del thread, runner, websocket, late
    gc.collect()
    assert descriptors() <= before


def test_asyncio_run_leaves_nothing_of_an_engine() -> None:
    peers = []
    ended: list[int] = []

    async def leave_open() -> None:
        websocket = make_websocket(loop_engine())

        @websocket.on("close")
        async def never_awaited(code: int, _: str) -> None:
            ended.append(code)

        waiting.append(asyncio.ensure_future(websocket.areceive()))
        peers.append(connect(websocket))
        await asyncio.sleep(0)

    waiting: list[asyncio.Future[object]] = []
    gc.collect()
    before = descriptors()
    for _ in range(3):
        asyncio.run(leave_open())
    gc.collect()
    assert descriptors() <= before + len(peers)
    assert all(task.done() for task in waiting)


@pytest.mark.parametrize("kind", LOOPS)
def test_closed_websockets_of_an_idle_engine_are_collected(kind: str) -> None:
    """Connections on transports come and go without an iteration of the engine."""
    thread = LoopThread(kind)
    runner = EngineRunner(Engine(thread.loop), thread)
    closed: list[weakref.ref[WebSocket]] = []
    for _ in range(5):
        websocket, ends = new_websocket(runner, ping_interval=None)
        reset(runner.connect(websocket, "TLS transport"))
        wait_for(partial(bool, ends), "the close event")
        closed.append(weakref.ref(websocket))
    del websocket, ends

    def is_collected() -> bool:
        gc.collect()
        return not any(reference() for reference in closed)

    wait_for(is_collected, "the closed WebSockets to be collected")
    run_and_close(thread)


def test_stopped_engine_ends_before_its_loop() -> None:
    calls: list[Callable[[], object]] = []

    async def stop() -> None:
        engine = loop_engine()
        connect(make_websocket(engine)).sock.close()
        engine.stop()
        calls.append(engine.poll)

    asyncio.run(stop())
    with pytest.raises(RuntimeError, match="closed"):
        calls[0]()
