"""The HTTP side of `configure_server`, byte by byte, as a client of http.server sees it."""

from __future__ import annotations

import contextlib
import re
import signal
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from websocket_handler import configure_server

from ..support.programs import EngineSetup, Program, echo_program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, request, text

HELLO = text("hello")


def expect_no_error(log: str) -> None:
    """Neither the library nor the HTTP server has complained, but for the engine it has."""
    log = re.sub(r"WARNING .*websocket_handler uses its pure-Python engine.*", "", log)
    assert not re.search(r"Traceback|ERROR|WARNING|Exception|Error\b", log), log


# Every kind of server


@pytest.mark.parametrize(
    ("application", "plain", "status", "version"),
    [
        ("routes", "/ordinary", 200, "HTTP/1.1"),
        ("http10", "/ordinary", 200, "HTTP/1.0"),
        ("single", "/ordinary", 200, "HTTP/1.1"),
        ("files", "/__init__.py", 200, "HTTP/1.1"),
        ("files", "/nowhere", 404, "HTTP/1.1"),
        ("wsgi", "/ordinary", 200, "HTTP/1.0"),
    ],
)
def test_server_serves_websockets_beside_pages(
    engine_setup: EngineSetup, application: str, plain: str, status: int, version: str
) -> None:
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(echo_program(engine_setup, "--application", application))

        def get() -> bytes:
            with RawClient(program.address) as client:
                client.sock.sendall(request(plain, {"Connection": "close"}))
                return client.read_to_end()

        before = get()
        assert before.startswith(f"{version} {status} ".encode())
        clients = []
        for number in range(3):
            client = stack.enter_context(RawClient(program.address))
            client.open(early=masked(text(f"early {number}")))
            clients.append(client)
        for number, client in enumerate(clients):
            client.expect(text(f"early {number}"))
            client.echo(HELLO)
        assert _body(get()) == _body(before)
        for client in clients:
            client.send(close(1000))
            client.expect_closed(1000)
        assert _body(get()) == _body(before)
        assert program.log().count('"GET /echo HTTP/1.1" 101') == 3
        assert program.end(signal.SIGTERM) == 0
        if status == 200:
            expect_no_error(program.log())


def _body(response: bytes) -> bytes:
    return response.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("target", "status"), [("/ignored", b"200"), ("/forbidden", b"403"), ("/ordinary", b"200")]
)
def test_wsgi_application_may_reject(engine_setup: EngineSetup, target: str, status: bytes) -> None:
    with echo_program(engine_setup, "--application", "wsgi") as program:
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake(target))
            if target == "/ordinary":  # accepts any WebSocket
                client.expect_opened()
                client.echo(HELLO)
            else:
                assert client.read_to_end().split()[1] == status
        expect_no_error(program.log())


def test_wsgi_application_raises_after_connect_client_gets_500(engine_setup: EngineSetup) -> None:
    with echo_program(engine_setup, "--application", "wsgi") as program:
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake("/raises-after-connect"))
            assert client.read_response().status == 500
            assert b"server error" in client.read_to_end()
            program.wait_for_log("RuntimeError: the application's own fault")
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
        assert program.log().count("Traceback") == 1


# One connection


def test_second_request_of_a_connection_may_be_the_upgrade(program: Program) -> None:
    with RawClient(program.address) as client:
        for _ in range(2):
            response = client.get("/ordinary")
            assert (response.status, response.headers.get("connection")) == (200, None)
            assert client.read_body(response) == b"an ordinary page\n"
        client.open().echo(HELLO)


def test_plain_request_to_websocket_route_keeps_the_connection(program: Program) -> None:
    with RawClient(program.address) as client:
        response = client.get("/echo")
        assert (response.status, response.header("upgrade")) == (426, "websocket")
        client.read_body(response)
        client.open().echo(HELLO)


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/ignored", 200, b"no WebSocket for you\n"),
        ("/ordinary", 200, b"an ordinary page\n"),
        ("/forbidden", 403, b"not you\n"),
        ("/redirect", 302, b""),
        ("/nowhere", 404, None),
    ],
)
def test_handler_without_connect_answers_and_ends_the_connection(
    program: Program, target: str, status: int, body: bytes | None
) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        # Bytes after the handshake may be frames: they must never be parsed as a request.
        client.sock.sendall(client.handshake(target) + request("/ordinary"))
        response = client.read_response()
        assert (response.status, response.header("connection")) == (status, "close")
        found = client.read_body(response)
        assert body is None or found == body
        assert client.read_to_end() == b""
    assert program.wait_for_log(f'"GET {target} HTTP/1.1" {status}', seen).count('"GET') == 1


def test_keep_alive_header_does_not_serve_bytes_after_a_handshake(
    program: Program,
) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/keep-alive") + request("/ordinary"))
        assert client.read_body(client.read_response()) == b"stay\n"
        assert client.read_to_end() == b""


@pytest.mark.parametrize("way", ["in one segment", "byte by byte", "in two halves"])
def test_frame_sent_with_the_handshake_is_received(program: Program, way: str) -> None:
    seen = len(program.log())
    frames = [HELLO, binary(b"\0" * 300), text("\u20ac")]
    with RawClient(program.address) as client:
        sent = client.handshake("/echo") + masked(*frames)
        size = {"in one segment": len(sent), "byte by byte": 1, "in two halves": len(sent) // 2}
        for start in range(0, len(sent), size[way]):
            client.sock.sendall(sent[start : start + size[way]])
        client.expect_opened()
        client.expect(*frames)
    expect_no_error(program.log()[seen:])


def test_many_frames_sent_with_the_handshake_are_received(program: Program) -> None:
    frames = [binary(bytes([number]) * 1000) for number in range(40)]
    with RawClient(program.address) as client:
        client.open(early=masked(*frames)).expect(*frames)
        client.echo(HELLO)


def test_second_connect_is_an_error_and_changes_nothing(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/connects-twice").expect(text("connect() was already called"))


def test_handler_raises_after_connect_client_gets_500(program: Program) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/raises-after-connect?id=raises-after"))
        assert client.read_response().status == 500
        assert client.read_to_end() == b"Internal Server Error\n"
    reason = "handshake refused with 500: Internal Server Error"
    wait_for(
        lambda: program.get("/journal?id=raises-after") == [["close", 1006, reason]],
        "the close event",
    )
    log = program.wait_for_log("RuntimeError: the handler's own fault", seen)
    assert log.count("Traceback") == 1


@pytest.mark.parametrize("size", [10, 1 << 20])
def test_handler_output_after_connect_is_discarded(program: Program, size: int) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open(f"/writes-after-connect?size={size}").echo(HELLO)
        client.send(close(1000))
        client.expect_closed(1000)
    expect_no_error(program.log()[seen:])
    wait_for(
        lambda: not any("process_request" in name for name in program.get("/threads")[:-1]),
        "the handler's thread to end",
    )


def test_socket_of_a_handler_after_connect_discards_everything(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/uses-its-socket-after-connect")
        client.expect(text(repr((True, 8, [b"", b"", b""]))))


# Server shutdown


def test_closing_the_server_closes_its_websockets(engine_setup: EngineSetup) -> None:
    with echo_program(engine_setup) as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)).open() for _ in range(20)]
        for client in clients:
            client.echo(HELLO)
        program.end_soon(signal.SIGINT)
        for client in clients:
            client.expect_closed(1001)
        assert program.wait() == 0
        expect_no_error(program.log())


def test_closing_one_server_keeps_the_others_websockets(program: Program) -> None:
    with RawClient(program.address) as of_first, contextlib.ExitStack() as stack:
        of_first.open().echo(HELLO)
        port = program.get("/second")
        address = ("127.0.0.1", port)
        clients = [stack.enter_context(RawClient(address)).open() for _ in range(3)]
        for client in clients:
            client.echo(HELLO)
        closing = threading.Thread(target=program.get, args=("/second?close=1",))
        closing.start()
        for client in clients:
            client.expect_close(1001)
        assert closing.is_alive()  # waits for the peers
        for client in clients:
            client.send(close(1001))
            client.expect_end()
        closing.join(10)
        assert not closing.is_alive()
        of_first.echo(HELLO)


def test_closing_the_server_has_a_time_limit(engine_setup: EngineSetup) -> None:
    with echo_program(engine_setup, "--close-timeout", "0.3") as program:
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
            begun = time.monotonic()
            program.end_soon(signal.SIGINT)
            client.expect_close(1001)  # and does not answer
            with contextlib.suppress(ConnectionResetError):
                client.read_to_end()
            assert program.wait() == 0
            assert time.monotonic() - begun < 9
        expect_no_error(program.log())


# Mistakes of the application


class _Handler(BaseHTTPRequestHandler):
    pass


@pytest.mark.parametrize(
    ("handler", "settings", "error"),
    [
        (socketserver.StreamRequestHandler, {}, TypeError),
        (lambda *_: None, {}, TypeError),
        (_Handler, {"max_mesage_size": 1}, TypeError),
        (_Handler, {"close_timeout": 0}, ValueError),
        (_Handler, {"allowed_origins": "http://localhost"}, TypeError),
    ],
)
def test_invalid_server_configuration_is_an_error(
    handler: Any, settings: dict[str, Any], error: type[Exception]
) -> None:
    server = HTTPServer(("127.0.0.1", 0), handler)
    with server, pytest.raises(error):
        configure_server(server, **settings)


def test_server_is_configured_only_once() -> None:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        assert configure_server(server) is server
        with pytest.raises(TypeError, match="before"):
            configure_server(server)


def test_request_whose_first_upgrade_field_names_another_protocol_is_ordinary(
    program: Program,
) -> None:
    fields = b"Host: a\r\nUpgrade: h2c\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    with RawClient(program.address) as client:
        client.sock.sendall(b"GET /ordinary HTTP/1.1\r\n" + fields)
        client.sock.sendall(request("/ordinary", {"Connection": "close"}))
        assert client.read_to_end().count(b"HTTP/1.1 200 ") == 2  # a handshake ends the connection
