"""Redirects: followed on the same host or to allowed ones, and never to weaker security."""

from __future__ import annotations

import http
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from websocket_handler import IS_NATIVE, HandshakeFailed
from websocket_handler.client.redirects import target_of

from .conftest import Certificates
from .forms import Form, NothingLeft
from .peers import EchoServer

CREDENTIALS = {"Authorization": "Bearer x", "Cookie": "a=1", "X-Other": "y"}


def redirect(_: ServerConnection, request: Request) -> Response | None:
    """`/to/STATUS/LOCATION` redirects to LOCATION."""
    if not request.path.startswith("/to/"):
        return None
    status, location = request.path[4:].split("/", 1)
    phrase = http.HTTPStatus(int(status)).phrase
    return Response(int(status), phrase, Headers([("Location", location), ("Content-Length", "0")]))


@pytest.fixture(scope="module")
def redirecting() -> Iterator[EchoServer]:
    started = EchoServer(redirect)
    yield started
    started.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_on_the_same_host_is_followed(
    echo: Form, redirecting: EchoServer, status: int
) -> None:
    absolute = f"//127.0.0.1:{redirecting.port}/there?a=b%23x"
    for location, path in (("/there?a=b", "/there?a=b"), (absolute, "/there?a=b%23x")):
        with NothingLeft():
            assert echo(redirecting.url(f"/to/{status}/{location}", "me:pw@127.0.0.1")) == "hello"
        assert redirecting.requests[-1].path == path
        assert redirecting.header("Authorization") == "Basic bWU6cHc="


def test_refusal_after_a_redirect_names_the_url(echo: Form) -> None:
    def login(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/login":
            return connection.respond(http.HTTPStatus.OK, "a form")
        return redirect(connection, request)

    server = EchoServer(login)
    try:
        with pytest.raises(HandshakeFailed) as refused:
            echo(server.url("/to/302//login"))
        after = f", after a redirect to {server.url('/login')}"
        assert refused.value.reason == f"the server answered with HTTP status 200{after}"
        with pytest.raises(HandshakeFailed) as direct:
            echo(server.url("/login"))
        assert direct.value.reason == "the server answered with HTTP status 200"
    finally:
        server.close()


def test_location_may_be_relative_and_have_a_fragment() -> None:
    assert target_of("ws://x/a/b?c", "d?e#f") == "ws://x/a/d?e"
    assert target_of("wss://x/a", "?b") == "wss://x/a?b"
    assert target_of("ws://x/a", "HTTPS://y/") == "wsS://y/"


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_redirect_to_another_origin_is_followed_without_credentials(
    echo: Form, redirecting: EchoServer, server: EchoServer, scheme: str
) -> None:
    url = redirecting.url(f"/to/307/{server.url('/x', scheme=scheme)}", host="me:pw@127.0.0.1")
    assert echo(url, additional_headers={"Cookie": "a=1", "X-Other": "y"}) == "hello"
    names = ("Authorization", "Cookie", "X-Other")
    assert [redirecting.header(name) for name in names] == ["Basic bWU6cHc=", "a=1", "y"]
    assert [server.header(name) for name in names] == [None, None, "y"]
    assert echo(redirecting.url(f"/to/307/{server.url()}"), additional_headers=CREDENTIALS)
    assert [server.header(name) for name in names] == [None, None, "y"]


def test_redirect_to_another_host_is_followed_only_if_allowed(
    echo: Form, redirecting: EchoServer, server: EchoServer
) -> None:
    url = redirecting.url(f"/to/302/{server.url('/x', host='localhost')}")
    for allowed in (["localhost"], ["*"]):
        assert echo(url, redirect_hosts=allowed) == "hello"
    for allowed in ([], ["example.com"]):
        with NothingLeft(), pytest.raises(HandshakeFailed, match="redirect_hosts") as caught:
            echo(url, redirect_hosts=allowed)
        assert caught.value.status == 302


def test_endless_redirects_are_an_error(echo: Form) -> None:
    def to_itself(_: ServerConnection, request: Request) -> Response:
        return Response(302, "Found", Headers([("Location", request.path)]))

    server = EchoServer(to_itself)
    try:
        with NothingLeft(), pytest.raises(HandshakeFailed, match="after 10 redirects"):
            echo(server.url())
        assert len(server.requests) == 11
        with pytest.raises(HandshakeFailed, match="after 0 redirects"):
            echo(server.url(), max_redirects=0)
        assert len(server.requests) == 12
    finally:
        server.close()


@pytest.mark.parametrize(
    ("location", "error"),
    [
        ("ftp://127.0.0.1/", "not a ws"),
        ("ws://127.0.0.1:0/", "port of"),
        ("javascript:alert(1)", "not a ws"),
    ],
)
def test_redirect_to_an_invalid_url_is_an_error(
    echo: Form, redirecting: EchoServer, location: str, error: str
) -> None:
    with NothingLeft(), pytest.raises(HandshakeFailed, match=error) as caught:
        echo(redirecting.url(f"/to/302/{location}"))
    assert caught.value.status == 302


@pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")
def test_redirect_from_tls_to_plain_is_never_followed(
    echo: Form, server: EchoServer, certificates: Certificates
) -> None:
    secure = EchoServer(redirect, certificates.server)
    try:
        options: dict[str, Any] = {"ssl": certificates.client, "redirect_hosts": ["*"]}
        target = server.url(host="localhost")
        with NothingLeft(), pytest.raises(HandshakeFailed, match="from wss: to ws:"):
            echo(secure.url(f"/to/302/{target}", "localhost", "wss"), **options)
        http_target = target.replace("ws:", "http:")
        with pytest.raises(HandshakeFailed, match="from wss: to ws:"):
            echo(secure.url(f"/to/302/{http_target}", "localhost", "wss"), **options)
    finally:
        secure.close()


@pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")
def test_redirect_from_plain_to_tls_is_followed(
    echo: Form, redirecting: EchoServer, secure_server: EchoServer, certificates: Certificates
) -> None:
    target = secure_server.url("/x", "localhost", "wss")
    url = redirecting.url(f"/to/308/{target}", host="localhost")
    assert echo(url, ssl=certificates.client) == "hello"


def test_redirect_with_a_given_socket_is_not_followed(echo: Form, redirecting: EchoServer) -> None:
    sock = socket.create_connection(("127.0.0.1", redirecting.port))
    with pytest.raises(HandshakeFailed, match="sock="):
        echo(redirecting.url("/to/302//x"), sock=sock)
    assert sock.fileno() < 0


@pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")
def test_name_for_the_certificate_is_not_kept_for_another_host(
    echo: Form, secure_server: EchoServer, certificates: Certificates
) -> None:
    issued = certificates.authority.issue_cert("first.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.configure_cert(context)
    first = EchoServer(redirect, context)
    try:
        target = secure_server.url("/x", "localhost", "wss")
        options = {"ssl": certificates.client, "redirect_hosts": ["localhost"]}
        url = first.url(f"/to/302/{target}", scheme="wss")
        assert echo(url, server_hostname="first.example", **options) == "hello"
    finally:
        first.close()
