"""Bounds on the memory, threads and sessions that one client can take."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import engineio
import pytest
from engineio.async_socket import AsyncSocket
from engineio.socket import Socket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from websocket_handler.socketio import serve
from websocket_handler.socketio.async_requests import AsyncRequests

from ..support.programs import TIMEOUT_S, Program, wait_for
from ..support.raw_client import RawClient, text
from .engineio_client import PATH, PollingClient, connected, finish, websocket
from .servers import BOTH, serving, state, wait_for_state

SIZE = 50_000


@pytest.fixture(scope="module", params=BOTH)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The application, shared by the tests; each leaves it without sessions."""
    with serving(request.param, serve={"max_buffered": 3 * SIZE}) as started:
        yield started


def emit(program: Program, times: int) -> None:
    for _ in range(times):
        program.get(f"/emit?text=x&times={SIZE}")


def test_client_that_does_not_poll_is_disconnected_above_the_limit(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    emit(program, 3)
    assert state(program)["sockets"] == 1
    emit(program, 2)
    wait_for_state(program, sockets=0, environs=0)
    assert finish(client.begin("GET")).status == 400
    assert state(program)["journal"][-1] == ["disconnect", "transport error"]


def test_client_that_polls_gets_more_than_the_limit_in_total(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    for _ in range(4):
        emit(program, 2)
        assert client.poll().count("news") == 2
    client.send("1")
    wait_for_state(program, sockets=0)


def test_empty_packets_of_a_client_that_does_not_poll_are_bounded(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with contextlib.suppress(AssertionError):  # the response is 400 in the end
        for _ in range(30):
            client.send(*16 * ["5"])  # each is answered with a packet
    wait_for_state(program, sockets=0)


def test_end_of_an_upgrade_leaves_the_next_one_alone(program: Program) -> None:
    """A client whose first upgrade ends late cannot begin two others, both of which would open."""
    client = PollingClient(program)
    client.connect()
    with RawClient(program.address).open(f"{PATH}websocket&sid={client.sid}") as first:
        first.send(text("garbage"))
        first.expect_close(1000)  # not answered: it is closing
        with websocket(program, client.sid) as second:
            second.send("2probe")
            assert second.recv(TIMEOUT_S) == "3probe"
            before = state(program)["descriptors"]
            first.reset()
            wait_for(lambda: state(program)["descriptors"] < before, "the first to be closed")
            with pytest.raises(InvalidStatus, match="400"), websocket(program, client.sid):
                pass
            second.send("5")
            second.send('421["echo","second"]')
            assert second.recv(TIMEOUT_S) == '431[["second"]]'
    wait_for_state(program, sockets=0, open=0)


def test_upgrade_of_a_session_that_has_ended_is_closed(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        client.send("1")
        wait_for_state(program, sockets=0)
        upgrade.send("5")
        with pytest.raises(ConnectionClosed):
            upgrade.recv(TIMEOUT_S)
    wait_for_state(program, sockets=0, open=0)


@pytest.mark.parametrize("server", BOTH)
def test_sessions_that_poll_are_limited_by_max_connections(server: str) -> None:
    with serving(server, serve={"max_connections": 2}) as program:
        clients = [PollingClient(program) for _ in range(2)]
        with contextlib.closing(HTTPConnection(*program.address, timeout=TIMEOUT_S)) as http:
            http.request("GET", f"{PATH}polling")
            assert http.getresponse().status == 503
        with pytest.raises(InvalidStatus, match="503"), websocket(program):
            pass
        clients[0].connect()  # those that have a session go on
        clients[1].send("1")
        wait_for_state(program, sockets=1)
        PollingClient(program).connect()
        wait_for_state(program, sockets=2)


@pytest.mark.parametrize("server", BOTH)
def test_client_that_does_not_poll_misses_volatile_events(server: str) -> None:
    limits = {"volatile": ["news"], "high_water": SIZE}
    with serving(server, serve=limits) as program:
        client = PollingClient(program)
        client.connect()
        emit(program, 5)
        client.send('421["echo"]')
        received = client.poll()
        while "431[[]]" not in received:
            received += client.poll()
        assert received.count("news") == 1
        emit(program, 1)
        assert client.poll().count("news") == 1


def test_large_events_pause_reading_before_small_ones_would() -> None:
    """1,024 events of 900 kB would be 900 MB; handlers that have not returned hold about 16 MB."""
    with serving("flask-gunicorn", serve={"threads": 1}) as program, connected(program) as client:
        client.send('42["sleep",8]')
        with sending_in_thread(client, '42["echo","' + 900_000 * "x" + '"]', 40):
            found = wait_for(
                lambda: count if (count := state(program)["unfinished"]) >= 1024 else None,
                "the events to reach the limit",
            )
            assert found < 1300  # some events were read before the pause


@contextlib.contextmanager
def sending_in_thread(client: Any, message: str, times: int) -> Iterator[None]:
    """Send in a thread, which fails once the connection is closed."""

    def send() -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            for _ in range(times):
                client.send(message)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        client.close_socket()
        thread.join(TIMEOUT_S)


def test_second_poll_that_would_wait_in_a_thread_ends_the_session() -> None:
    limits = {"max_connections_per_address": 1}
    with serving("flask-gunicorn", serve=limits) as program, connected(program):
        client = PollingClient(program)
        client.connect()
        first = client.begin("GET")
        wait_for_state(program, polls=1)
        assert finish(client.begin("GET")).status == 400
        response = finish(first)
        assert (response.status, response.body) == (200, "1")  # type: ignore[attr-defined]
        wait_for_state(program, sockets=1)


def test_body_of_a_post_is_received_up_to_the_limit() -> None:
    received: list[int] = []

    async def receive() -> dict[str, Any]:
        received.append(1000)
        return {"type": "http.request", "body": bytes(1000), "more_body": len(received) < 100}

    async def read_body() -> None:
        requests = AsyncRequests(engineio.AsyncServer(async_mode="asgi", max_http_buffer_size=3000))
        scope = {"type": "http", "method": "POST", "path": "/socket.io/", "headers": []}
        environ = await requests.translate(scope, receive, None)
        await environ["wsgi.input"].read(1_000_000)

    asyncio.run(read_body())
    assert sum(received) == 4000


def assert_timer_holds_no_ended_session(eio: Any, kind: Any) -> None:
    session = eio.sockets["sid"] = kind(eio, "sid")
    session.schedule_ping()
    ended = weakref.ref(session)
    eio.sockets.clear()
    del session
    gc.collect()
    assert ended() is None


def test_timers_of_pings_hold_no_session_that_has_ended() -> None:
    assert_timer_holds_no_ended_session(serve(engineio.Server(async_mode="threading")), Socket)


def test_timers_of_pings_of_an_asynchronous_server_hold_no_session() -> None:
    async def end_a_session() -> None:
        eio = serve(engineio.AsyncServer(async_mode="asgi"))
        assert_timer_holds_no_ended_session(eio, AsyncSocket)

    asyncio.run(end_a_session())
