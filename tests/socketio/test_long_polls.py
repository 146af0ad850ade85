"""Long polls that wait in the engine instead of a thread."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.programs import Program, wait_for
from ..support.tls import context
from .engineio_client import PollingClient, finish
from .servers import BOTH, serving, state, wait_for_state

CLIENTS = 200
SYNCHRONOUS = ("flask-gunicorn", "flask-wsgiref", "flask-werkzeug", "flask-gevent")


@pytest.fixture(scope="module", params=BOTH)
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The application, shared by the tests; each leaves it without sessions."""
    with serving(request.param) as started:
        yield started


on_gunicorn = pytest.mark.parametrize("program", BOTH[:1], indirect=True)


def polling(program: Program) -> PollingClient:
    client = PollingClient(program)
    client.connect()
    return client


def wait_for_parked(program: Program, count: int) -> None:
    wait_for(lambda: state(program)["open"] == count, f"{count} polls in the engine")


@on_gunicorn
def test_many_polls_leave_the_threads_to_other_requests(program: Program) -> None:
    clients = [polling(program) for _ in range(CLIENTS)]
    polls = [client.begin("GET") for client in clients]
    wait_for_parked(program, CLIENTS)
    assert state(program)["threads"] < 40  # 8 of gunicorn, the engine's, up to 32 of the pool
    program.get("/emit?text=hi")
    for poll in polls:
        assert finish(poll).body == '42["news","hi"]'  # type: ignore[attr-defined]
    wait_for_parked(program, 0)
    for client in clients:
        client.send("1")


@pytest.mark.parametrize("server", SYNCHRONOUS)
def test_parked_poll_gets_the_response_of_the_library(server: str) -> None:
    origin = "http://elsewhere.example"
    with serving(server, cors_allowed_origins=[origin]) as program:
        client = polling(program)
        headers = {"Origin": origin, "Accept-Encoding": "gzip"}
        poll = client.begin("GET", headers=headers)
        wait_for_parked(program, 1)
        program.get("/emit?text=" + 2000 * "x")
        response = poll.getresponse()
        assert response.status == 200
        assert response.getheader("Access-Control-Allow-Origin") == origin
        assert response.getheader("Content-Encoding") == "gzip"
        assert response.getheader("Content-Type") == "text/plain; charset=UTF-8"
        assert response.getheader("Connection") == "close"
        assert len(response.read()) == int(response.getheader("Content-Length") or "0")
        poll.close()


def test_parked_poll_gets_the_ping() -> None:
    with serving("flask-gunicorn", ping_interval=0.5) as program:
        assert polling(program).poll() == "2"


@on_gunicorn
def test_client_that_leaves_its_poll_loses_no_packet(program: Program) -> None:
    client = polling(program)
    poll = client.begin("GET")
    wait_for_parked(program, 1)
    poll.close()
    wait_for_parked(program, 0)
    program.get("/emit?text=kept")
    assert client.poll() == '42["news","kept"]'
    client.send("1")


def test_second_poll_ends_the_session(program: Program) -> None:
    client = polling(program)
    first = client.begin("GET")
    wait_for_state(program, polls=1)
    assert finish(client.begin("GET")).status == 400
    response = finish(first)
    assert (response.status, response.body) == (200, "1")  # type: ignore[attr-defined]
    wait_for_state(program, sockets=0, open=0)


def test_session_closed_by_its_client_ends_the_poll(program: Program) -> None:
    client = polling(program)
    poll = client.begin("GET")
    wait_for_state(program, polls=1)
    client.send("1")
    assert finish(poll).body == "6"  # type: ignore[attr-defined]
    assert finish(client.begin("GET")).status == 400
    assert finish(client.begin("POST", "42[]")).status == 400
    wait_for_state(program, sockets=0, environs=0)


@pytest.mark.parametrize("server", BOTH)
def test_ping_timeout_ends_the_poll(server: str) -> None:
    # The library ends a poll of `ping_interval + ping_timeout` with 400: with a shorter interval,
    # perhaps before it notices the timeout.
    with serving(server, ping_interval=1.5, ping_timeout=1.5) as program:
        client = polling(program)
        assert client.poll() == "2"
        assert client.poll() == "6"
        assert state(program)["journal"] == [["disconnect", "ping timeout"]]


def test_poll_above_the_connection_limit_waits_in_its_thread() -> None:
    with serving("flask-gunicorn", serve={"max_connections_per_address": 1}) as program:
        clients = [polling(program), polling(program)]
        polls = [client.begin("GET") for client in clients]
        wait_for_parked(program, 1)
        program.get("/emit?text=both")
        assert [finish(poll).body for poll in polls] == 2 * ['42["news","both"]']  # type: ignore[attr-defined]


def test_server_ends_while_polls_wait() -> None:
    with serving("flask-gunicorn") as program:
        polls = [polling(program).begin("GET") for _ in range(3)]
        wait_for_parked(program, 3)
        before = time.monotonic()
        program.end(signal.SIGTERM)
        assert time.monotonic() - before < 25  # gunicorn's graceful timeout is 30
        for poll in polls:
            poll.close()


def test_poll_over_tls_waits_in_the_engine(certificate: Path) -> None:
    options = f"--certfile {certificate} --keyfile {certificate}"
    with serving("flask-gunicorn", extra=options, tls=context()) as program:
        client = PollingClient(program, context())
        client.connect()
        poll = client.begin("GET")
        client.send('42["echo",1]')
        client.send('421["echo",2]')
        assert finish(poll).body == "431[[2]]"  # type: ignore[attr-defined]
