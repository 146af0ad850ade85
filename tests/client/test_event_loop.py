"""`aconnect` in the event loop that calls it."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from websocket_handler import Engine, State, WebSocket, WebSocketError, aconnect
from websocket_handler.engine import loop_engine

from ..support.programs import wait_for
from .peers import EchoServer

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    call: Run = request.param
    return call


def test_listener_that_feeds_a_queue_wakes_the_loop(run: Run, server: EchoServer) -> None:
    async def main() -> None:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        threads: set[int] = set()
        async with aconnect(server.url()) as websocket:
            assert websocket._engine is loop_engine()

            @websocket.on("message")
            def put(message: str | bytes) -> None:
                threads.add(threading.get_ident())
                queue.put_nowait(message)

            for number in range(100):
                websocket.send(str(number))
                assert await asyncio.wait_for(queue.get(), 20) == str(number)
        assert threads == {threading.get_ident()}

    run(main())


def test_async_listeners_run_in_the_loop(run: Run, server: EchoServer) -> None:
    async def main() -> None:
        done = asyncio.Event()
        seen: list[Any] = []
        websocket = await aconnect(server.url())

        @websocket.on("message")
        async def receive(message: str | bytes) -> None:
            await asyncio.sleep(0)
            seen.append(message)
            if len(seen) == 3:
                websocket.close()

        @websocket.on("close")
        async def close(code: int, _: str) -> None:
            seen.append(code)
            done.set()

        for message in ("a", b"b", "c"):
            websocket.send(message)
        await asyncio.wait_for(done.wait(), 20)
        assert seen == ["a", b"b", "c", 1000]

    run(main())


def test_connections_of_a_loop_share_one_engine_that_ends_with_it(
    run: Run, server: EchoServer
) -> None:
    async def main() -> list[WebSocket]:
        opened = await asyncio.gather(*(aconnect(server.url()) for _ in range(5)))
        assert {id(websocket._engine) for websocket in opened} == {id(loop_engine())}
        return list(opened)

    run(main())
    gc.collect()
    before, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    for _ in range(5):
        left = run(main())
        assert [websocket.state for websocket in left] == [State.CLOSED] * 5
        assert {websocket.close_code for websocket in left} == {1001}
    del left
    gc.collect()
    wait_for(
        lambda: len(os.listdir("/proc/self/fd")) <= before,  # noqa: PTH208
        "the descriptors to be closed",
    )
    wait_for(lambda: threading.active_count() <= threads, "the threads to end")


def test_engine_with_a_thread_can_be_chosen(run: Run, server: EchoServer) -> None:
    engine = Engine()

    async def listen(_: object) -> None:
        """Never called."""

    async def main() -> None:
        async with aconnect(server.url(), engine=engine) as websocket:
            assert websocket._engine is engine
            with pytest.raises(WebSocketError, match="event loop"):
                websocket.on("message", listen)
            websocket.send("hello")
            assert await asyncio.wait_for(websocket.areceive(), 20) == "hello"

    run(main())
    engine.stop()


def test_iteration_and_many_connections_at_once(run: Run, server: EchoServer) -> None:
    async def echo(number: int) -> list[Any]:
        async with aconnect(server.url()) as websocket:
            for word in range(10):
                websocket.send(f"{number}-{word}")
            received: list[Any] = []
            async for message in websocket:
                received.append(message)
                if len(received) == 10:
                    websocket.close()
            return received

    async def main() -> list[list[Any]]:
        return await asyncio.wait_for(asyncio.gather(*map(echo, range(20))), 30)

    assert run(main()) == [[f"{n}-{word}" for word in range(10)] for n in range(20)]
