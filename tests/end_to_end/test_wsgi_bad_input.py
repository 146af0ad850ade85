"""WSGI: difficult requests, clients and middleware, with each server."""

from __future__ import annotations

import re

import pytest

from websocket_handler import IS_NATIVE, HandshakeFailed, connect

from ..support.ports import free_port
from ..support.programs import Program, running
from ..support.raw_client import RawClient, close, masked, request, text
from .hixie import BODIES, KEYS3, WITH_HEAD, greet_hixie_76, unmasked_by_zeros
from .test_wsgi import bare, server, shared  # noqa: F401 (a fixture)
from .wsgi_programs import SERVERS, serve, wait_until_it_serves

HELLO = text("hello")
ORDINARY = request("/plain")


@pytest.mark.parametrize("payload", ["\r\n\r\n", ORDINARY.decode(), "\r\n" * 40])
def test_early_frames_that_look_like_http_are_echoed_by_wsgi_servers(
    bare: Program,  # noqa: F811
    payload: str,
) -> None:
    with RawClient(bare.address) as client:
        early = unmasked_by_zeros(payload.encode()) * 5 + masked(HELLO)
        client.open("/greet", early=early)
        client.expect(HELLO, *[text(payload)] * 5, HELLO)


@pytest.mark.parametrize("key3", KEYS3)
@WITH_HEAD
def test_hixie_76_third_key_split_anywhere_is_accepted_by_wsgi_servers(
    bare: Program,  # noqa: F811
    key3: bytes,
    with_head: int,
) -> None:
    with RawClient(bare.address) as client:
        greet_hixie_76(client, "/greet", key3, with_head)


@BODIES
def test_handshake_with_a_body_is_rejected_by_wsgi_servers(
    bare: Program,  # noqa: F811
    fields: dict[str, str | None],
    body: bytes,
) -> None:
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/echo", fields) + body + ORDINARY)
        response = client.read_response()
        assert response.status == 400
        client.read_body(response)
        client.expect_end()


def test_http_1_0_handshake_is_rejected_by_wsgi_servers(bare: Program) -> None:  # noqa: F811
    with RawClient(bare.address) as client:
        client.sock.sendall(client.handshake("/echo").replace(b"HTTP/1.1", b"HTTP/1.0"))
        response = client.read_response()
        assert response.status == 400
        assert b"must be HTTP/1.1" in client.read_body(response)
        client.expect_end()


@pytest.mark.parametrize("path", ["/forbidden", "/plain"])
def test_bytes_after_a_handshake_are_not_served_as_http_by_wsgi_servers(
    bare: Program,  # noqa: F811
    path: str,
) -> None:
    """For any response of the application, and even if the request asks for keep-alive."""
    with RawClient(bare.address) as client:
        fields: dict[str, str | None] = {"Connection": "keep-alive, Upgrade"}
        client.sock.sendall(client.handshake(path, fields) + ORDINARY * 3)
        response = client.read_response()
        assert client.read_body(response) == (b"plain\n" if path == "/plain" else b"not you\n")
        client.expect_end()


@pytest.mark.parametrize("application", ["wrapped", "buffered_within", "buffered_around"])
def test_other_middleware_lets_websockets_through(server: str, application: str) -> None:  # noqa: F811
    with serve(server, f"bare:{application}") as program:
        wait_until_it_serves(program)
        for path in ("/echo", "/generator", "/body"):
            with RawClient(program.address) as client:
                client.open(path, early=masked(HELLO)).expect(HELLO)
                client.send(close(1000))
                client.expect_close(1000)
                client.expect_end()
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/forbidden"))
        assert (caught.value.status, caught.value.body) == (403, b"not you\n")
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake("/forbidden") + ORDINARY)
            client.read_body(client.read_response())
            client.expect_end()
        assert "Traceback" not in program.log(), program.log()


HIDDEN = [name for name in SERVERS if re.match("gunicorn (sync|gthread)|cheroot|gevent|runs", name)]


@pytest.mark.parametrize("server", HIDDEN)  # elsewhere the socket is found all the same
def test_middleware_that_hides_the_server_gets_500(server: str) -> None:  # noqa: F811
    with serve(server, "bare:hidden") as program:
        wait_until_it_serves(program)
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/echo"))
        assert caught.value.status == 500
        program.wait_for_log("middleware around WSGIMiddleware hides it")
        with RawClient(program.address) as client:
            assert client.get("/plain").status == 200


def test_first_request_under_waitress_serve_is_a_websocket() -> None:
    """waitress's modules are imported before the application's; elsewhere it is the reverse."""
    port = free_port()
    command = ["-m", "waitress", f"--listen=127.0.0.1:{port}", "tests.end_to_end.wsgi.bare:app"]
    program = Program(command, rf"Serving on http://127\.0\.0\.1:({port})", not IS_NATIVE)
    with running(program), RawClient(program.address) as client:
        client.open("/greet", early=unmasked_by_zeros(ORDINARY) * 5 + masked(HELLO))
        client.expect(HELLO, *[text(ORDINARY.decode())] * 5, HELLO)
