"""WSGI: difficult requests, clients and middleware, with each server."""

from __future__ import annotations

import re
import time

import pytest

from websocket_handler import IS_NATIVE, HandshakeFailed, connect

from ..support.ports import free_port
from ..support.programs import Program, running
from ..support.raw_client import RawClient, close, masked, request, text
from .test_versions import hixie_76
from .test_wsgi import SERVERS, bare, serve, server, shared, wait_until_it_serves  # noqa: F401

HELLO = text("hello")
ORDINARY = request("/plain")
OF_HIXIE = b"8jKS'y:G*Co,Wxa-", b"\x00hello\xff"


def unmasked_by_zeros(payload: bytes) -> bytes:
    """A frame whose masking key is zero, so that the payload appears unmasked on the wire."""
    return bytes((0x81, 0x80 | len(payload), 0, 0, 0, 0)) + payload


KEYS3 = [b"^n:ds[4U", b"\r\n\r\n\r\n\r\n"]
WITH_HEAD = pytest.mark.parametrize("with_head", [0, 3, 8], ids=["later", "in two", "at once"])
BODIES = pytest.mark.parametrize(
    ("fields", "body"),
    [
        ({"Content-Length": "5"}, b"hello"),
        ({"Transfer-Encoding": "chunked"}, b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)


def greet_hixie_76(client: RawClient, path: str, key3: bytes, with_head: int) -> None:
    """A handshake and an echo; that many bytes of the third key arrive with the head."""
    head = client.handshake(path, hixie_76())
    rest = key3[with_head:] + b"\x00hello\xff"
    client.sock.sendall(head + key3[:with_head] + (rest if with_head == 8 else b""))
    if with_head == 3:
        time.sleep(0.02)
        client.sock.sendall(rest)
    response = client.read_response()
    assert (response.status, response.reason) == (101, "WebSocket Protocol Handshake")
    if with_head == 0:
        client.sock.sendall(rest)
    answer = client.read(16)
    assert (answer == OF_HIXIE[0]) == (key3 == KEYS3[0])
    assert client.read(14) == OF_HIXIE[1] * 2


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
