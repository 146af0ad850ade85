from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from websocket_handler import IS_NATIVE, Engine
from websocket_handler.engine import pure as fallback

from ..support.connections import Peer
from .loops import LOOPS, Run, Test, limit

if not IS_NATIVE:
    fallback.warn_once()  # now, so that the tests do not find it in their log


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine in its own thread, stopped after the test."""
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture(autouse=True)
def _close_peers() -> Iterator[None]:
    """Peers that a test leaves open are closed after it."""
    yield
    while Peer.all:
        Peer.all.pop().sock.close()


ENGINE_PLACES = [(loop, place) for loop in LOOPS for place in ("same loop", "thread")]


@pytest.fixture(params=ENGINE_PLACES, ids="-".join)
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a coroutine in a loop, with an engine in that loop or in a thread."""
    loop_name, place = request.param

    async def with_engine(test: Test) -> None:
        engine = Engine(asyncio.get_running_loop() if place == "same loop" else None)
        try:
            async with limit(20):
                await test(engine)
        finally:
            engine.stop()
            await asyncio.sleep(0)

    def run_it(test: Test) -> None:
        loop = LOOPS[loop_name]()
        try:
            loop.run_until_complete(with_engine(test))
        finally:
            loop.close()

    return run_it


@pytest.fixture(params=LOOPS)
def run_in_loop(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Runs a coroutine in a loop with an engine that runs there."""
    loop = LOOPS[request.param]()

    async def with_engine(test: Test) -> None:
        engine = Engine(asyncio.get_running_loop())
        try:
            async with limit(20):
                await test(engine)
        finally:
            engine.stop()
            await asyncio.sleep(0)

    yield lambda test: loop.run_until_complete(with_engine(test))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
