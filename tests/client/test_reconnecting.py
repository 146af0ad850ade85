"""Connecting again: `async for` over `aconnect`, `for` over `Reconnecting`, and its listeners."""

from __future__ import annotations

import asyncio
import contextlib
import http
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from websocket_handler import (
    ConnectionClosed,
    ConnectionFailed,
    HandshakeFailed,
    Reconnecting,
    State,
    TlsFailed,
    WebSocketError,
    aconnect,
)
from websocket_handler.client import backoff, process_exception, reopening, retrying

from ..support.forks import exit_code_of_child
from ..support.ports import free_port
from ..support.programs import wait_for
from .forms import NothingLeft
from .peers import EchoServer

Iterate = Callable[..., list[str]]


def at_once() -> Iterator[float]:
    return itertools.repeat(0.0)


def iterate_in_thread(url: str, times: int, **options: Any) -> list[str]:
    """Return the echoes of `times` connections."""
    echoes: list[str] = []
    for websocket in Reconnecting(url, **options):
        websocket.send(f"hello {len(echoes)}")
        echoes.append(str(websocket.receive(timeout=20)))
        if len(echoes) == times:
            break
    return echoes


def iterate_in_loop(url: str, times: int, **options: Any) -> list[str]:
    async def iterate() -> list[str]:
        echoes: list[str] = []
        connecting = aconnect(url, **options)
        async with contextlib.aclosing(aiter(connecting)) as opened:
            async for websocket in opened:
                websocket.send(f"hello {len(echoes)}")
                echoes.append(str(await asyncio.wait_for(websocket.areceive(), 20)))
                if len(echoes) == times:
                    break
        return echoes

    return asyncio.run(iterate())


@pytest.fixture(params=[iterate_in_thread, iterate_in_loop], ids=["thread", "loop"])
def iterate(request: pytest.FixtureRequest) -> Iterate:
    call: Iterate = request.param
    return call


def test_iteration_opens_one_connection_after_the_other(
    iterate: Iterate, server: EchoServer
) -> None:
    before = len(server.requests)
    with NothingLeft():
        echoes = iterate(server.url(), 3, reconnect_delays=at_once)
    assert echoes == ["hello 0", "hello 1", "hello 2"]
    assert len(server.requests) == before + 3


def test_iteration_waits_for_a_server_that_starts_later(iterate: Iterate) -> None:
    port = free_port()
    servers: list[EchoServer] = []
    errors: list[Exception] = []

    def start_after_some(error: Exception) -> Exception | None:
        errors.append(error)
        if len(errors) == 3:
            servers.append(EchoServer(port=port))
        return process_exception(error)

    delays = lambda: itertools.repeat(0.01)  # noqa: E731
    options = {"process_exception": start_after_some, "reconnect_delays": delays}
    try:
        assert iterate(f"ws://127.0.0.1:{port}/", 1, **options) == ["hello 0"]
    finally:
        servers[0].close()
    assert len(errors) == 3
    assert all(isinstance(error, ConnectionFailed) for error in errors)


def refusing(*statuses: int, **fields: str) -> Callable[..., Response | None]:
    """Answers the first requests with these statuses and header fields."""
    left = list(statuses)

    def process(_: ServerConnection, __: Request) -> Response | None:
        if not left:
            return None
        status = left.pop(0)
        pairs = [*fields.items(), ("Content-Length", "0")]
        names = [(name.replace("_", "-"), value) for name, value in pairs]
        return Response(status, http.HTTPStatus(status).phrase, Headers(names))

    return process


def test_statuses_from_500_are_retried_and_others_end_the_iteration(iterate: Iterate) -> None:
    server = EchoServer(refusing(500, 502, 503, 403))
    try:
        with NothingLeft(), pytest.raises(HandshakeFailed) as caught:
            iterate(server.url(), 1, reconnect_delays=at_once)
        assert caught.value.status == 403
        assert len(server.requests) == 4
    finally:
        server.close()


def test_hook_decides_about_errors(iterate: Iterate) -> None:
    server = EchoServer(refusing(403, 404, 500))

    class NoServer(Exception): ...

    def decide(error: Exception) -> Exception | None:
        assert isinstance(error, HandshakeFailed)
        return NoServer() if error.status == 500 else None

    try:
        with pytest.raises(NoServer) as caught:
            iterate(server.url(), 1, process_exception=decide, reconnect_delays=at_once)
        assert isinstance(caught.value.__cause__, HandshakeFailed)
        assert len(server.requests) == 3
    finally:
        server.close()


def test_last_error_is_raised_when_there_are_no_more_delays(iterate: Iterate) -> None:
    server = EchoServer(refusing(500, 500, 503, 503))
    try:
        with pytest.raises(HandshakeFailed) as caught:
            iterate(server.url(), 1, reconnect_delays=lambda: [0.0, 0.0])
        assert caught.value.status == 503
        assert len(server.requests) == 3
    finally:
        server.close()


def test_retry_after_is_honoured(iterate: Iterate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def measured(error: Exception) -> float:
        asked.append(retrying.delay_after_error(error))
        return min(asked[-1], 0.2)

    monkeypatch.setattr(reopening, "delay_after_error", measured)
    server = EchoServer(refusing(503, Retry_After="7"))
    try:
        began = time.monotonic()
        assert iterate(server.url(), 1, reconnect_delays=at_once) == ["hello 0"]
        assert time.monotonic() - began > 0.2
        assert asked == [7.0]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("0", 0, 0),
        ("999999", retrying.MAX_RETRY_AFTER_S, retrying.MAX_RETRY_AFTER_S),
        ("9" * 5000, retrying.MAX_RETRY_AFTER_S, retrying.MAX_RETRY_AFTER_S),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("²", 0, 0),
        ("Mon, 99 Foo 2099", 0, 0),
    ],
)
def test_retry_after_is_read_and_bounded(value: str, low: float, high: float) -> None:
    error = HandshakeFailed("no", 503, [("retry-after", value)])
    assert low <= retrying.delay_after_error(error) <= high


@pytest.mark.parametrize(("age", "low", "high"), [(100, 0, 0), (-200, 1, 200)])
def test_retry_after_with_a_date_is_read(age: float, low: float, high: float) -> None:
    date = formatdate(time.time() - age, usegmt=True)
    error = HandshakeFailed("no", 503, [("retry-after", date)])
    assert low <= retrying.delay_after_error(error) <= high


def test_errors_are_classified() -> None:
    transient = [ConnectionFailed("x"), TimeoutError(), HandshakeFailed("x", 500)]
    final = [TlsFailed("x"), HandshakeFailed("x"), HandshakeFailed("x", 429), ValueError()]
    assert [process_exception(error) for error in transient] == [None] * len(transient)
    assert [process_exception(error) for error in final] == final


def test_backoff_grows_to_its_limit_and_varies() -> None:
    series = [list(itertools.islice(backoff(), 12)) for _ in range(50)]
    assert len({delays[0] for delays in series}) > 40
    for delays in series:
        assert 0 <= delays[0] <= retrying.FIRST_DELAY_S
        assert 2 <= delays[1] <= 4
        assert retrying.MAX_DELAY_S / 2 <= delays[-1] <= retrying.MAX_DELAY_S


def test_server_that_closes_at_once_does_not_reset_the_delays() -> None:
    delays = reopening.Delays(lambda: iter([1.0, 2.0, 3.0]))
    assert delays.next() == 1.0
    delays.connection_lasted(0.5)
    assert delays.next() == 2.0
    delays.connection_lasted(2.5)
    assert delays.next() == 1.0


@pytest.mark.parametrize("code", [1012, 1013])
def test_restart_codes_delay_the_next_connection(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "RESTART_DELAY_S", (0.3, 0.4))
    for closed, minimum in ((code, 0.3), (1001, 0.0)):
        server = ClosingServer(closed)
        times: list[float] = []
        try:
            for websocket in Reconnecting(server.url(), reconnect_delays=at_once):
                times.append(time.monotonic())
                if len(times) == 2:
                    break
                assert websocket.wait_closed(20)
            assert times[1] - times[0] >= minimum
        finally:
            server.close()


class ClosingServer(EchoServer):
    """Closes each connection with a code."""

    def __init__(self, code: int) -> None:
        self._code = code
        super().__init__()

    def _echo(self, connection: ServerConnection) -> None:
        connection.close(self._code)


# Listeners


def test_listeners_stay_over_connections_in_a_thread() -> None:
    port = free_port()
    server = EchoServer(port=port)
    feed = Reconnecting(f"ws://127.0.0.1:{port}/", reconnect_delays=lambda: itertools.repeat(0.02))
    events: list[Any] = []
    feed.on("open", lambda: feed.send("subscribe"))
    feed.on("message", events.append)
    feed.on("close", lambda code, _: events.append(code))
    states = [feed.state]
    with feed:
        wait_for(lambda: "subscribe" in events, "the first connection")
        states.append(feed.state)
        server.close()
        wait_for(lambda: feed.state is State.CONNECTING, "the end of the first connection")
        with pytest.raises(ConnectionClosed, match="not connected"):
            feed.send("lost")
        server = EchoServer(port=port)
        wait_for(lambda: events.count("subscribe") == 2, "the second connection")
    server.close()
    assert feed.wait_closed(20)
    assert [*states, feed.state] == [State.CLOSED, State.OPEN, State.CLOSED]
    wait_for(lambda: events[-1] == 1000, "the last close event")
    assert events == ["subscribe", events[1], "subscribe", 1000]
    assert events[1] in (1001, 1006)


def test_listeners_run_in_the_event_loop_of_start() -> None:
    async def main() -> None:
        server = EchoServer()
        events: asyncio.Queue[Any] = asyncio.Queue()
        feed = Reconnecting(server.url(), reconnect_delays=at_once)

        @feed.on("open")
        async def subscribe() -> None:
            feed.send("subscribe")

        @feed.on("message")
        async def put(message: str | bytes) -> None:
            await events.put((message, threading.get_ident()))

        feed.start()
        for _ in range(3):
            assert await asyncio.wait_for(events.get(), 20) == ("subscribe", threading.get_ident())
            assert feed._websocket is not None
            feed._websocket.abort()
        feed.close()
        await asyncio.wait_for(feed.await_closed(), 20)
        assert feed.state is State.CLOSED
        await asyncio.to_thread(server.close)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    with NothingLeft():
        asyncio.run(main())


def test_final_error_is_emitted_and_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    server = EchoServer(refusing(403, 403))
    errors: list[BaseException] = []
    try:
        with NothingLeft():
            with Reconnecting(server.url()) as feed:
                feed.wait_closed(20)
            assert errors == []  # it had no listener
            feed = Reconnecting(server.url())
            feed.on("error", errors.append)
            feed.start()
            assert feed.wait_closed(20)
    finally:
        server.close()
    assert [type(error) for error in errors] == [HandshakeFailed]
    assert feed.state is State.CLOSED
    assert "not connected again" in caplog.text


@pytest.mark.parametrize("in_loop", [False, True])
def test_close_ends_a_wait_for_the_next_attempt(in_loop: bool) -> None:
    url = f"ws://127.0.0.1:{free_port()}/"
    tried = threading.Event()

    def note(error: Exception) -> Exception | None:
        tried.set()
        return process_exception(error)

    hour = {"reconnect_delays": lambda: [3600.0], "process_exception": note}

    def run_in_thread() -> None:
        feed = Reconnecting(url, **hour)  # type: ignore[arg-type]
        feed.start()
        assert tried.wait(20)
        assert feed.state is State.CONNECTING
        feed.close()
        assert feed.wait_closed(20)

    async def run_in_loop() -> None:
        feed = Reconnecting(url, **hour)  # type: ignore[arg-type]
        feed.start()
        assert await asyncio.to_thread(tried.wait, 20)
        await asyncio.to_thread(feed.close)  # from another thread
        await asyncio.wait_for(feed.await_closed(), 20)

    with NothingLeft():
        if in_loop:
            asyncio.run(run_in_loop())
        else:
            run_in_thread()


def test_close_from_another_thread_ends_an_iteration(server: EchoServer) -> None:
    feed = Reconnecting(server.url(), reconnect_delays=at_once)
    states = [feed.state]
    closing = threading.Thread(target=feed.close, args=(4000, "enough"))
    for websocket in feed:
        states.append(feed.state)
        closing.start()
        assert websocket.wait_closed(20)
        assert websocket.close_code == 4000
    closing.join(20)
    assert [*states, feed.state] == [State.CLOSED, State.OPEN, State.CLOSED]


def test_waiting_for_the_end_does_not_block_the_loop(server: EchoServer) -> None:
    async def main() -> None:
        feed = Reconnecting(server.url())
        with feed, pytest.raises(WebSocketError, match=r"await await_closed\(\) instead"):
            feed.wait_closed(20)
        await asyncio.wait_for(feed.await_closed(), 20)
        assert feed.wait_closed()

    asyncio.run(main())


def test_text_form_has_the_url_and_the_state(server: EchoServer) -> None:
    feed = Reconnecting(server.url(host="me:secret@127.0.0.1"))
    assert repr(feed) == f"<Reconnecting ws://…@127.0.0.1:{server.port}/ closed>"


def test_given_socket_cannot_be_opened_again(server: EchoServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        with pytest.raises(ValueError, match="sock= is one connection"):
            Reconnecting(server.url(), sock=sock)
        connecting = aconnect(server.url(), sock=sock)
        with pytest.raises(ValueError, match="sock= is one connection"):
            aiter(connecting)


def test_wrong_use_is_an_error(server: EchoServer) -> None:
    feed = Reconnecting(server.url())
    with pytest.raises(ValueError, match="unknown event"):
        feed.on("mesage")  # type: ignore[call-overload]
    with feed:
        with pytest.raises(WebSocketError, match="already"):
            feed.start()
        with pytest.raises(WebSocketError, match="before start"):
            feed.on("open", print)
        with pytest.raises(ValueError, match="code"):
            feed.close(1006)
    assert feed.wait_closed(20)


def test_start_without_a_thread_can_be_repeated(server: EchoServer) -> None:
    reconnecting = Reconnecting(server.url())
    before = threading.stack_size(1 << 47)  # no address space has such a stack
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            reconnecting.start()
    finally:
        threading.stack_size(before)
    assert reconnecting.state is State.CLOSED
    with reconnecting:
        wait_for(lambda: reconnecting.state is State.OPEN, "the connection")


def test_forked_child_has_one_that_has_ended(server: EchoServer) -> None:
    def check() -> None:
        assert reconnecting.state is State.CLOSED
        assert reconnecting.wait_closed(10)
        with pytest.raises(ConnectionClosed):
            reconnecting.send("from the child")

    with Reconnecting(server.url()) as reconnecting:
        wait_for(lambda: reconnecting.state is State.OPEN, "the connection")
        assert exit_code_of_child(check) == 0
        assert reconnecting.state is State.OPEN
