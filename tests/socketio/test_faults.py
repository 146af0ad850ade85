"""Clients that vanish, break the protocol or flood, and handlers that fail."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from ..support.programs import TIMEOUT_S, Program, wait_for
from .engineio_client import PollingClient, connected, finish, receive, vanish, websocket
from .servers import BOTH, serving, state, wait_for_state

on_both = pytest.mark.parametrize("server", BOTH)


@pytest.fixture(scope="module", params=BOTH)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The application, shared by the tests; each leaves it without sessions."""
    with serving(request.param, max_http_buffer_size=100_000) as started:
        steady_state(started)
        yield started


def assert_nothing_is_left(program: Program, before: dict[str, int]) -> None:
    """Wait until the sessions are gone, and the descriptors as many as before."""
    wait_for_state(program, sockets=0, environs=0, rooms=0)
    wait_for(
        lambda: state(program)["descriptors"] <= before["descriptors"],
        f"the descriptors of {before} in {state(program)}",
        20,
    )


def steady_state(program: Program) -> dict[str, int]:
    """Return the state after the first client, when threads and descriptors have been created."""
    with connected(program) as client:
        client.send('421["echo"]')
        receive(client)
    return wait_for_state(program, sockets=0)


def test_reset_connections_leave_nothing(program: Program) -> None:
    before = steady_state(program)
    for _ in range(5):
        with connected(program) as client:
            vanish(client)
    assert_nothing_is_left(program, before)
    assert state(program)["journal"][-5:] == 5 * [["disconnect", "transport close"]]


def read_without_pongs(client: ClientConnection) -> None:
    while True:
        client.recv(TIMEOUT_S)


@on_both
def test_client_without_pongs_is_disconnected(server: str) -> None:
    with serving(server, ping_interval=0.5, ping_timeout=1) as program:
        before = steady_state(program)
        with connected(program) as client:
            with pytest.raises(ConnectionClosed):
                read_without_pongs(client)
            assert_nothing_is_left(program, before)
        assert state(program)["journal"][1:] == [["disconnect", "ping timeout"]]


@on_both
def test_client_with_pongs_stays_connected(server: str) -> None:
    with (
        serving(server, ping_interval=0.5, ping_timeout=1) as program,
        connected(program) as client,
    ):
        for _ in range(4):
            assert client.recv(TIMEOUT_S) == "2"
            client.send("3")
        client.send('421["echo","still here"]')
        assert receive(client) == '431[["still here"]]'


def test_upgrade_broken_off_leaves_the_session_polling(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        assert client.poll() == "6"
    client.send('421["echo","still here"]')
    received = ""
    while '431[["still here"]]' not in received:
        received = client.poll()
    assert state(program)["sockets"] == 1
    client.send("1")
    assert finish(client.begin("GET")).status == 400


def test_second_upgrade_is_refused_while_the_first_is_under_way(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        with pytest.raises(InvalidStatus, match="400"), websocket(program, client.sid):
            pass
        upgrade.send("5")
        upgrade.send('421["echo","first"]')
        assert receive(upgrade) == '431[["first"]]'


def test_packets_between_the_transports_arrive_once_and_in_order(program: Program) -> None:
    client = PollingClient(program)
    client.connect()
    program.get("/emit?text=1")
    with websocket(program, client.sid) as upgrade:
        upgrade.send("2probe")
        assert upgrade.recv(TIMEOUT_S) == "3probe"
        program.get("/emit?text=2")
        upgrade.send("5")
        assert [receive(upgrade) for _ in "12"] == ['42["news","1"]', '42["news","2"]']
        assert finish(client.begin("GET")).status == 400


@pytest.mark.parametrize("garbage", ["", "x", "9", '4["not a packet"]', "47"])
def test_garbage_closes_only_its_connection(program: Program, garbage: str) -> None:
    with connected(program) as good, connected(program) as bad:
        bad.send(garbage)
        if garbage in ("", "x"):  # the others are packets of Engine.IO: ignored, or logged
            wait_for_state(program, sockets=1)
        good.send('421["echo","unharmed"]')
        assert receive(good) == '431[["unharmed"]]'
    wait_for_state(program, sockets=0, environs=0)


def test_event_sent_right_after_connect_is_handled(program: Program) -> None:
    with websocket(program) as client:
        client.send("40")
        client.send('421["echo","early"]')
        while receive(client) != '431[["early"]]':
            pass


@on_both
def test_attachments_of_one_event_are_bounded(server: str) -> None:
    limits = {"max_buffered": 200_000}
    with serving(server, serve=limits, max_http_buffer_size=100_000) as program:
        with connected(program) as client:
            client.send('459999999-["echo",{"_placeholder":true,"num":0}]')
            for _ in range(5):
                client.send(50_000 * b"x")
            program.wait_for_log("the attachments of an event exceed 200000 bytes")
        wait_for_state(program, sockets=0)
        with connected(program) as client:
            client.send('451-1["echo",{"_placeholder":true,"num":0}]')
            client.send(50_000 * b"x")
            assert receive(client) == '461-1[[{"_placeholder":true,"num":0}]]'


def test_oversized_message_closes_with_1009(program: Program) -> None:
    with connected(program) as client:
        client.send("42" + 200_000 * "x")
        with pytest.raises(ConnectionClosed) as closed:
            receive(client)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        wait_for_state(program, sockets=0)


def test_handler_that_raises_is_logged_and_harms_nothing(program: Program) -> None:
    with connected(program) as client:
        client.send('42["fail"]')
        client.send('421["echo","after"]')
        assert receive(client) == '431[["after"]]'
        program.wait_for_log("RuntimeError: a handler that raises")


def test_sleeping_handlers_do_not_exceed_the_pool() -> None:
    with serving("flask-gunicorn", serve={"threads": 4}) as program, connected(program) as client:
        for number in range(40):
            client.send(f'42{number}["sleep",0.05]')
        answers = {receive(client) for _ in range(40)}
        assert answers == {f"43{number}[0.05]" for number in range(40)}
        assert 1 <= state(program)["handler_threads"] <= 4


def test_flood_of_events_of_a_polling_client_waits_for_handlers() -> None:
    with serving("fastapi-uvicorn") as program:
        client = PollingClient(program)
        client.connect()
        for _ in range(64):
            client.send(*16 * ['42["sleep",3600]'])
        waiting = client.begin("POST", '42["sleep",3600]')
        poll = client.begin("GET")
        wait_for_state(program, polls=1, unfinished=1024)
        assert not select.select([waiting.sock], [], [], 0.3)[0]
        assert state(program)["unfinished"] == 1024
        assert finish(client.begin("GET")).status == 400  # the second poll ends the session
        assert [finish(one).status for one in (poll, waiting)] == [200, 200]


def test_flood_of_events_pauses_reading_until_handlers_return() -> None:
    with serving("flask-gunicorn", serve={"threads": 1}) as program, connected(program) as client:
        client.send('42["sleep",0.5]')
        for number in range(3000):
            client.send(f'42{number}["echo"]')
        assert [receive(client) for _ in range(3000)] == [f"43{n}[[]]" for n in range(3000)]
