"""WSGI: real servers and frameworks, each in its own process."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from typing import Any
from urllib.request import urlopen
from wsgiref.util import setup_testing_defaults

import pytest

from websocket_handler import (
    IS_NATIVE,
    HandshakeFailed,
    WebSocket,
    WebSocketError,
    WSGIMiddleware,
    connect,
)
from websocket_handler.servers.wsgi import refuse_to_connect

from ..support.gunicorn import wait_for_signal_handlers
from ..support.ports import free_port
from ..support.programs import TIMEOUT_S, Program, running, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from .wsgi_programs import HERE, QUIET, SERVERS, THREADED_GUNICORN, serve, wait_until_it_serves

HELLO = text("hello")


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def shared(server: str) -> Iterator[Program]:
    with serve(server, "bare:app") as program:
        wait_until_it_serves(program)
        yield program


@pytest.fixture
def bare(shared: Program) -> Iterator[Program]:
    seen = len(shared.log())
    yield shared
    with urlopen(shared.url("/plain", "http"), timeout=TIMEOUT_S) as response:
        assert response.read() == b"plain\n"
    unwanted = QUIET.findall(shared.log()[seen:])
    assert not unwanted, shared.log()[seen:]


def journal(program: Program) -> list[list[object]]:
    with urlopen(program.url("/journal", "http"), timeout=TIMEOUT_S) as response:
        found: list[list[object]] = json.load(response)
        return found


def test_wsgi_server_echoes_and_closes(bare: Program) -> None:
    with RawClient(bare.address) as client:
        client.open("/echo?a=1").echo(
            HELLO, binary(b"\x00\xff"), text(""), binary(b"x" * 1_000_000)
        )
        client.send(close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()


@pytest.mark.parametrize("path", ["/echo", "/generator", "/body", "/nothing", "/twice", "/receive"])
def test_return_value_of_wsgi_application_is_ignored_after_connect(
    bare: Program, path: str
) -> None:
    with RawClient(bare.address) as client:
        client.open(path).echo(HELLO)
        client.send(close(1000))
        client.expect_close(1000)
        client.expect_end()


def test_wsgi_server_receives_early_frames(bare: Program) -> None:
    frames = [text(f"{number:04}" * 250) for number in range(40)]
    with RawClient(bare.address) as client:
        client.open("/greet", early=masked(*frames))
        client.expect(text("hello"), *frames)
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/greet"))
        time.sleep(0.005)
        client.sock.sendall(masked(HELLO))
        client.expect_opened()
        client.expect(text("hello"), HELLO)


def test_wsgi_application_rejects_with_its_response(bare: Program) -> None:
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/forbidden"))
        response = client.read_response()
        assert response.status == 403
        assert client.read_body(response) == b"not you\n"
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Sec-WebSocket-Version": "9"}))
        response = client.read_response()
        assert response.status == 426
        assert response.header("sec-websocket-version") == "13, 8, 7, 6, 5, 4"
        client.read_body(response)
        client.expect_end()
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Origin": "http://elsewhere.example"}))
        assert client.read_response().status == 403


def test_twelve_wsgi_websockets_beside_a_page(bare: Program) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(bare.address)).open() for _ in range(12)]
        with urlopen(bare.url("/plain", "http"), timeout=TIMEOUT_S) as response:
            assert response.read() == b"plain\n"
        for client in clients:
            client.echo(HELLO)


@pytest.mark.parametrize("version", ["hixie-76", "hybi-03", "hybi-04", "hybi-12"])
def test_older_versions_are_accepted_by_wsgi_servers(bare: Program, version: str) -> None:
    with connect(bare.url("/echo"), version=version) as websocket:
        for message in ("hello", "\u20ac" * 1000):
            websocket.send(message)
            assert websocket.receive(timeout=10) == message


def test_joined_host_headers_are_rejected(bare: Program) -> None:
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Host": "127.0.0.1, evil.example"}))
        assert 400 <= client.read_response().status < 500


def test_teardown_runs_when_the_view_returns(bare: Program) -> None:
    with RawClient(bare.address) as client:
        client.open("/body").echo(HELLO)
        # One of several processes has it in its journal, and answers at some point.
        wait_for(lambda: ["teardown"] in journal(bare), "the teardown")


def test_wsgi_application_raises_after_connect_every_server_answers_500(server: str) -> None:
    with serve(server, "bare:app") as program:
        wait_until_it_serves(program)
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake("/raises"))
            assert client.read_response().status == 500
            assert client.read_to_end() == b"Internal Server Error\n"
        with RawClient(program.address) as client:
            client.open().echo(HELLO)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_wsgi_server_shutdown_closes_websockets(server: str, by: signal.Signals) -> None:
    # gunicorn's threaded worker hangs if SIGINT arrives while it starts a thread: this one has
    # started its only thread for the first request.
    options = ["-w", "1", "--threads", "1"] if server in THREADED_GUNICORN else []
    with serve(server, "bare:app", *options) as program:
        wait_until_it_serves(program)
        with RawClient(program.address) as client:
            client.open("/at-rest").echo(HELLO)
            if server == "gunicorn sync":  # two workers
                wait_for_signal_handlers(program)
            program.end_soon(by)
            client.expect_close(1001)
            client.send(close(1001))
            program.wait()
        assert "Traceback" not in program.log()


@pytest.mark.parametrize("pure", [False, True] if IS_NATIVE else [True])
@pytest.mark.parametrize("path", ["/interrupts", "/interrupts-engine"])
def test_ctrl_c_in_any_greenlet_closes_websockets(path: str, pure: bool) -> None:
    with serve("gevent.pywsgi, patched", "bare:app", pure=pure) as program:
        with RawClient(program.address) as client, RawClient(program.address) as other:
            other.open().echo(HELLO)
            client.open(path).echo(HELLO)
            other.expect_closed(1001)
        assert program.wait() == 0


# Frameworks


@pytest.mark.parametrize("kind", ["gunicorn gthread", "gunicorn sync", "werkzeug", "cheroot"])
@pytest.mark.parametrize("framework", ["with_flask", "with_django"])
def test_flask_and_django_serve_websockets(kind: str, framework: str) -> None:
    with serve(kind, f"{framework}:app") as program:
        wait_until_it_serves(program)
        talk_to(program)


def test_flask_run_serves_websockets() -> None:
    command = ["-m", "flask", "--app", f"{HERE}.with_flask", "run", "-p", "0"]
    ready = r"Running on http://127\.0\.0\.1:(\d+)"
    with running(Program(command, ready, not IS_NATIVE)) as program:
        wait_until_it_serves(program)
        talk_to(program)


def test_django_runserver_serves_websockets() -> None:
    port = free_port()
    command = ["-m", f"{HERE}.with_django", "runserver", "--noreload", f"127.0.0.1:{port}"]
    ready = r"development server at http://127\.0\.0\.1:(\d+)"
    with running(Program(command, ready, not IS_NATIVE)) as program:
        wait_until_it_serves(program)
        talk_to(program)


def talk_to(program: Program) -> None:
    with connect(program.url("/echo"), max_message_size=1 << 22) as websocket:
        for message in ("hello", b"\x00" * 1_000_000):
            websocket.send(message)
            assert websocket.receive(timeout=10) == message
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/forbidden"))
        assert (caught.value.status, caught.value.body) == (403, b"not you\n")
        with RawClient(program.address) as client:
            assert client.get("/echo", {"Upgrade": None}).status == 426
        websocket.send("still here")
        assert websocket.receive(timeout=10) == "still here"
    assert not QUIET.findall(program.log()), program.log()


@pytest.mark.parametrize("kind", ["gunicorn gthread", "werkzeug"])
def test_upgrade_of_another_library_passes_unchanged(kind: str) -> None:
    with serve(kind, "two_libraries:app") as program:
        wait_until_it_serves(program)
        with RawClient(program.address) as client:
            client.open("/ours/").send(HELLO)
            client.expect(text("http://127.0.0.1/ours/"))
        for path, status in (("/theirs", 418), ("/both", 418), ("/ours", 308), ("/nowhere", 404)):
            with RawClient(program.address) as client:
                client.sock.sendall(client.handshake(path))
                response = client.read_response()
                assert response.status == status, path
                if status == 418:
                    assert client.read_body(response) == b"theirs: websocket"
        for path, status in (("/both", 200), ("/theirs", 400)):
            with RawClient(program.address) as client:
                assert client.get(path).status == status


def test_ten_thousand_websockets_share_eight_threads() -> None:
    options = ("--threads", "8", "--worker-connections", "20000")
    with serve("gunicorn gthread", "with_flask:app", *options, descriptors=20_000) as program:
        wait_until_it_serves(program)
        with contextlib.ExitStack() as stack:
            clients = []
            for _ in range(10_000):
                client = stack.enter_context(RawClient(program.address))
                clients.append(client.open("/without-pings"))  # may take longer than the interval
            for client in clients:
                client.send(HELLO)
            with urlopen(program.url("/threads", "http"), timeout=TIMEOUT_S) as response:
                assert int(response.read()) < 50
            for client in clients:
                client.expect(HELLO)


# Servers without support


def ask_without_a_server(application: Any, **environ: str) -> tuple[str, bytes]:
    """Returns the application's response to a handshake outside of any server."""
    request: dict[str, Any] = {
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
        "SERVER_SOFTWARE": "Unheard/1.0",
        **environ,
    }
    setup_testing_defaults(request)
    statuses: list[str] = []
    result = WSGIMiddleware(application)(request, lambda status, *_: statuses.append(status))
    return statuses[-1], b"".join(result)


def test_server_that_hides_its_socket_is_an_error() -> None:
    def refuse(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        assert isinstance(environ["wsgi.websocket"], WebSocket)
        start_response("403 Forbidden", [])
        return [b"not you\n"]

    def connect_it(environ: dict[str, Any], _: Any) -> list[bytes]:
        environ["wsgi.websocket"].connect()
        return []

    assert ask_without_a_server(refuse) == ("403 Forbidden", b"not you\n")
    with pytest.raises(WebSocketError, match=r"Unheard/1\.0 does not expose the socket"):
        ask_without_a_server(connect_it)


def test_granian_hides_its_socket_connect_is_an_error() -> None:
    port = free_port()
    command = ["-m", "granian", "--interface", "wsgi", "--port", str(port), f"{HERE}.bare:app"]
    with running(Program(command, f"Listening at.*?:({port})", not IS_NATIVE)) as program:
        wait_until_it_serves(program)
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/forbidden"))
        assert (caught.value.status, caught.value.body) == (403, b"not you\n")
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/echo"))
        assert caught.value.status == 500
        program.wait_for_log("Granian does not expose the socket of a request")
        wait_until_it_serves(program)


def test_uwsgi_hides_its_socket_connect_is_an_error() -> None:
    """The environment does not even name the server."""
    request: dict[str, Any] = {"wsgi.websocket": None, "uwsgi.version": b"2.0.31"}
    with pytest.raises(WebSocketError, match=r"^uWSGI does not expose the socket"):
        refuse_to_connect(request)


def test_ordinary_wsgi_request_has_no_websocket() -> None:
    def answer(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr(environ["wsgi.websocket"]).encode()]

    assert ask_without_a_server(answer, HTTP_UPGRADE="h2c") == ("200 OK", b"None")
    assert ask_without_a_server(answer, REQUEST_METHOD="POST") == ("200 OK", b"None")
