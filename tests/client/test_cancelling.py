"""Cancelling and interrupting a client at each point: nothing is left open."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Reconnecting, aconnect, connect

from ..support.programs import wait_for
from .forms import NothingLeft
from .peers import EchoServer, RawServer

TIMEOUT_S = 20


class SilentServer(RawServer):
    """Accepts connections and reads, but never answers."""

    def url(self, scheme: str) -> str:
        return f"{scheme}://127.0.0.1:{self.port}"


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until no other task is left."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def open_once(url: str, **options: Any) -> None:
    await aconnect(url, **options)


async def open_repeatedly(url: str, **options: Any) -> None:
    async for websocket in aconnect(url, **options):
        await websocket.await_closed()


STAGES: dict[str, Callable[[SilentServer], dict[str, Any]]] = {
    "handshake": lambda silent: {"url": silent.url("ws")},
    "tls": lambda silent: {"url": silent.url("wss"), "ssl": False},
    "http proxy": lambda silent: {"url": "ws://example.com/", "proxy": silent.url("http")},
    "https proxy": lambda silent: {"url": "ws://example.com/", "proxy": silent.url("https")},
    "socks4 proxy": lambda silent: {"url": "ws://192.0.2.1/", "proxy": silent.url("socks4")},
    "socks5 proxy": lambda silent: {"url": "ws://example.com/", "proxy": silent.url("socks5h")},
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("call", [open_once, open_repeatedly])
def test_cancelled_opening_leaves_nothing_open(
    silent: SilentServer, stage: str, call: Callable[..., Coroutine[Any, Any, None]]
) -> None:
    if stage in ("tls", "https proxy") and not IS_NATIVE:
        pytest.skip("TLS needs the native engine")

    async def main() -> None:
        task = asyncio.create_task(call(**STAGES[stage](silent)))
        while not silent.received:  # the client waits for the answer
            await asyncio.sleep(0.01)
        await cancel(task)

    with NothingLeft():
        asyncio.run(main())
        assert silent.ended.acquire(timeout=TIMEOUT_S)


def test_cancelled_resolution_of_a_name_leaves_nothing_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, release = threading.Event(), threading.Event()
    original: Callable[..., Any] = socket.getaddrinfo

    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        if not options.get("flags"):
            asked.set()
            release.wait(TIMEOUT_S)
        return original(*arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def main() -> None:
        task = asyncio.create_task(open_once("ws://slow.example/"))
        await asyncio.to_thread(asked.wait, TIMEOUT_S)
        await cancel(task)
        release.set()

    with NothingLeft():
        asyncio.run(main())


def test_cancelled_wait_for_the_next_attempt_leaves_nothing_open() -> None:
    async def main() -> None:
        failed = asyncio.Event()

        def note(_: Exception) -> None:
            failed.set()

        options: dict[str, Any] = {"reconnect_delays": lambda: [3600.0], "process_exception": note}
        task = asyncio.create_task(open_repeatedly("ws://127.0.0.1:1/", **options))
        await asyncio.wait_for(failed.wait(), TIMEOUT_S)
        await cancel(task)

    with NothingLeft():
        asyncio.run(main())


def test_cancelled_body_of_an_iteration_closes_the_connection(server: EchoServer) -> None:
    async def main() -> None:
        opened = asyncio.Event()

        async def iterate() -> None:
            async for websocket in aconnect(server.url()):
                opened.set()
                await websocket.await_closed()

        task = asyncio.create_task(iterate())
        await asyncio.wait_for(opened.wait(), TIMEOUT_S)
        await cancel(task)

    with NothingLeft():
        asyncio.run(main())


Interrupt = Callable[[Callable[[], object]], None]


@pytest.fixture
def interrupt() -> Iterator[Interrupt]:
    """Interrupts the main thread, as Ctrl-C does, once a condition is true."""
    threads: list[threading.Thread] = []

    def wait_and_interrupt(condition: Callable[[], object]) -> None:
        wait_for(condition, "the client to wait")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    def start(condition: Callable[[], object]) -> None:
        threads.append(threading.Thread(target=wait_and_interrupt, args=(condition,)))
        threads[-1].start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield start
    for thread in threads:
        thread.join(TIMEOUT_S)
    signal.signal(signal.SIGINT, before)


def run_in_loop(url: str, **options: Any) -> None:
    asyncio.run(open_repeatedly(url, **options))


def run_in_thread(url: str, **options: Any) -> None:
    for websocket in Reconnecting(url, **options):
        websocket.wait_closed()


@pytest.mark.parametrize("run", [run_in_loop, run_in_thread])
def test_interrupted_iteration_leaves_nothing_open(
    silent: SilentServer, server: EchoServer, interrupt: Interrupt, run: Callable[..., None]
) -> None:
    before = len(server.requests)
    failures: list[Exception] = []
    options: dict[str, Any] = {"reconnect_delays": lambda: [3600.0]}
    with NothingLeft():
        interrupt(lambda: len(server.requests) > before)
        with pytest.raises(KeyboardInterrupt):
            run(server.url())
        interrupt(lambda: silent.received)
        with pytest.raises(KeyboardInterrupt):
            run(silent.url("ws"))
        interrupt(lambda: failures)
        with pytest.raises(KeyboardInterrupt):
            run("ws://127.0.0.1:1/", process_exception=failures.append, **options)


def test_interrupted_opening_in_a_thread_leaves_nothing_open(
    silent: SilentServer, interrupt: Interrupt
) -> None:
    with NothingLeft():
        interrupt(lambda: silent.received)
        with pytest.raises(KeyboardInterrupt):
            connect(silent.url("ws"))
