"""The application's response decides about its WebSocket, on every server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from websocket_handler import IS_NATIVE

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, Response, text
from .asgi_programs import SERVERS as ASGI
from .wsgi_programs import SERVERS as WSGI

HELLO, FIRST = text("hello"), text("first")
HERE = "tests.end_to_end.deciding"
READY = r"(?:Listening at: |ready on port |[Rr]unning on )(?:http://127\.0\.0\.1:)?(\d+)"
ONE_PROCESS = ("gunicorn gthread", "gunicorn gevent", "gunicorn gevent_pywsgi", "gevent.pywsgi")
THREADS = (*ONE_PROCESS, "werkzeug", "cheroot", "waitress", "wsgiref", "runserver")
ASGI_NAMES = ("uvicorn", "uvicorn uvloop h11", "gunicorn")
NAMES = (*THREADS, "http.server", *ASGI_NAMES, "hypercorn", "aiohttp", "tornado")


def command_of(name: str) -> list[str]:
    port = free_port()
    if name in WSGI:
        return [*WSGI[name], f"{HERE}.threads:app"]
    if name in ASGI:
        return [*ASGI[name], f"{HERE}.loops:app"]
    if name == "hypercorn":
        return ["-m", "hypercorn", "-b", f"127.0.0.1:{port}", f"{HERE}.loops:app"]
    if name == "http.server":
        return ["-m", f"{HERE}.threads", str(port)]
    return ["-m", f"{HERE}.loops", name, str(port)]


MESSAGES = ("hypercorn",)
"""Servers that write the responses themselves."""


@contextlib.contextmanager
def serving(name: str) -> Iterator[Program]:
    with running(Program(command_of(name), READY, not IS_NATIVE)) as program:
        wait_for(lambda: is_serving(program), "the server to serve")
        yield program


def is_serving(program: Program) -> bool:
    with contextlib.suppress(OSError), RawClient(program.address) as client:
        return client.get("/").status == 200
    return False


@pytest.fixture(scope="module", params=NAMES)
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, Program]]:
    with serving(request.param) as program:
        yield request.param, program


@pytest.fixture
def program(named: tuple[str, Program]) -> Iterator[Program]:
    """A server on which no connection may stay open after the test."""
    _, program = named
    yield program
    wait_for(lambda: program.get("/")["open"] == 0, f"no open connection: {program.get('/')}")


def ask(program: Program, path: str) -> tuple[Response, bytes]:
    """The whole HTTP response to a handshake."""
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake(path))
        response = client.read_response()
        return response, client.read_to_end()


def closes_of(program: Program, path: str) -> list[object]:
    return [code for _, seen, code in program.get("/")["journal"] if seen == path]


def test_handler_raises_client_gets_500_on_every_server(program: Program) -> None:
    before = len(closes_of(program, "/raises"))
    response, _ = ask(program, "/raises")
    assert response.status == 500
    wait_for(lambda: len(closes_of(program, "/raises")) == before + 1, "one close event")


def test_response_is_an_error_client_gets_it(named: tuple[str, Program], program: Program) -> None:
    response, body = ask(program, "/denies")
    assert response.status == 403
    assert response.header("content-type") == "text/x-reason"
    assert response.header("set-cookie") == "denied=1"
    assert "x-own" not in response.headers
    if named[0] not in MESSAGES:
        assert response.header("connection") == "close"
    assert body == b"not you\n" * 1000
    wait_for(lambda: closes_of(program, "/denies") == [1006], "one close event")


def test_response_accepts_its_fields_are_in_the_101(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/accepts"))
        headers = client.expect_opened().headers
        assert headers["set-cookie"] == ["a=1; Path=/", "b=2"]
        assert headers["x-request-id"] == ["seven"]
        assert headers["x-own"] == ["its own"]
        assert not {"content-type", "content-length", "cache-control"} & set(headers)
        client.expect(FIRST)
        client.echo(HELLO)


def test_work_after_the_response_does_not_delay_the_101(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/works-on").expect(FIRST)
        client.echo(HELLO)


def test_response_is_an_error_after_the_101_closes_with_1011(program: Program) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open("/late").send(HELLO)
        client.expect_closed(1011)
    program.wait_for_log("the handler failed with 401 after the 101", seen)


def test_handler_forgets_to_connect_a_warning_names_the_path(program: Program) -> None:
    seen = len(program.log())
    assert ask(program, "/forgets")[0].status == 200
    assert "'/forgets'" in program.wait_for_log("did not call connect()", seen)


@pytest.fixture(scope="module", params=THREADS)
def gateway(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serving(request.param) as program:
        yield program
        wait_for(lambda: program.get("/")["open"] == 0, "no open connection")


@pytest.mark.parametrize("path", ["/close-raises", "/writes"])
def test_wsgi_events_after_the_response_change_nothing(gateway: Program, path: str) -> None:
    with RawClient(gateway.address) as client:
        client.open(path).expect(FIRST)
        client.echo(HELLO)


@pytest.mark.parametrize("path", ["/generator-raises", "/start-raises"])
def test_wsgi_application_raises_client_gets_500(gateway: Program, path: str) -> None:
    assert ask(gateway, path)[0].status == 500


def test_wsgi_connect_after_the_response_is_an_error(gateway: Program) -> None:
    _, body = ask(gateway, "/connects-too-late")
    assert b"the request has been answered already" in body


@pytest.mark.parametrize("named", ["uvicorn", "hypercorn"], indirect=True)
def test_asgi_work_after_the_response_fails_the_websocket_stays(program: Program) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open("/works-on-in-vain").expect(FIRST)
        program.wait_for_log("as the test wants it", seen)
        client.echo(HELLO)


@pytest.mark.parametrize("named", ["aiohttp", "tornado"], indirect=True)
def test_http_exception_after_connect_client_gets_it(program: Program) -> None:
    response, body = ask(program, "/raises-http-exception")
    assert response.status == 401
    assert body


@pytest.mark.parametrize("named", ["uvicorn", "aiohttp", "tornado"], indirect=True)
def test_handler_is_cancelled_after_connect_its_connection_ends(program: Program) -> None:
    response, _ = ask(program, "/cancelled")
    assert response.status == 500
    wait_for(lambda: closes_of(program, "/cancelled") == [1006], "one close event")


@pytest.mark.parametrize("named", ["http.server"], indirect=True)
def test_send_error_after_connect_client_gets_it(program: Program) -> None:
    response, body = ask(program, "/send-error")
    assert (response.status, response.reason) == (410, "Gone for good")
    assert b"Gone for good" in body
