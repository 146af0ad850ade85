"""The cookie jar: cookies of handshakes and of their responses."""

from __future__ import annotations

import http
from collections.abc import Iterator
from http.cookiejar import CookieJar
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

from websocket_handler import IS_NATIVE, HandshakeFailed, Reconnecting
from websocket_handler.client.cookies import (
    MAX_COOKIE_BYTES,
    MAX_COOKIES_PER_DOMAIN,
    cookie_header,
    store_cookies,
)
from websocket_handler.protocol.client import Address

from .conftest import Certificates
from .forms import Form, NothingLeft
from .peers import EchoServer

ADDRESS = Address.parse("ws://example.com/")


def answer(_: ServerConnection, request: Request) -> Response | None:
    """`/STATUS/COOKIE/LOCATION` answers with the status, sets the cookie and redirects."""
    status, *rest = request.path[1:].split("/", 2)
    if not status.isdigit():
        return None
    cookie, location = (*rest, "")[:2]
    fields = [("Set-Cookie", f"{cookie}; Path=/"), ("Content-Length", "0")]
    fields += [("Location", location)] if location else []
    return Response(int(status), http.HTTPStatus(int(status)).phrase, Headers(fields))


@pytest.fixture(scope="module")
def setting() -> Iterator[EchoServer]:
    started = EchoServer(answer)
    yield started
    started.close()


def values(jar: CookieJar) -> dict[str, Any]:
    return {cookie.name: cookie.value for cookie in jar}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_cookie_of_a_redirect_is_sent_after_it(echo: Form, setting: EchoServer, host: str) -> None:
    jar = CookieJar()
    with NothingLeft():
        assert echo(setting.url("/302/session=7//there", host), cookies=jar) == "hello"
    assert setting.requests[-2].headers.get("Cookie") is None
    assert setting.header("Cookie") == "session=7"
    assert values(jar) == {"session": "7"}


def test_cookie_of_a_refusal_is_sent_with_the_next_handshake(
    echo: Form, setting: EchoServer
) -> None:
    jar = CookieJar()
    with pytest.raises(HandshakeFailed) as caught:
        echo(setting.url("/401/login=soon"), cookies=jar)
    assert caught.value.status == 401
    assert echo(setting.url(), cookies=jar) == "hello"
    assert setting.header("Cookie") == "login=soon"


def test_cookie_of_an_accepted_handshake_is_stored(echo: Form) -> None:
    def set_cookie(_: ServerConnection, __: Request, response: Response) -> None:
        response.headers["Set-Cookie"] = "a=1"

    jar = CookieJar()
    server = EchoServer(process_response=set_cookie)
    try:
        for expected in (None, "a=1"):
            assert echo(server.url(), cookies=jar) == "hello"
            assert server.header("Cookie") == expected
    finally:
        server.close()


def test_cookie_is_not_sent_to_another_host(
    echo: Form, setting: EchoServer, server: EchoServer
) -> None:
    jar = CookieJar()
    target = server.url("/x", host="localhost")
    url = setting.url(f"/302/session=7/{target}")
    assert echo(url, cookies=jar, redirect_hosts=["localhost"]) == "hello"
    assert values(jar) == {"session": "7"}
    assert server.header("Cookie") is None


def test_additional_header_replaces_the_jar(echo: Form, setting: EchoServer) -> None:
    jar = CookieJar()
    store_cookies(jar, Address.parse(setting.url()), [("Set-Cookie", "a=jar")])
    assert echo(setting.url(), cookies=jar, additional_headers={"cookie": "a=1"}) == "hello"
    assert setting.requests[-1].headers.get_all("Cookie") == ["a=1"]


def test_jar_is_used_for_each_reconnection(setting: EchoServer) -> None:
    jar = CookieJar()
    sent: list[str | None] = []
    for number, _ in enumerate(
        Reconnecting(setting.url(), cookies=jar, reconnect_delays=lambda: [0.0, 0.0])
    ):
        sent.append(setting.header("Cookie"))
        store_cookies(jar, Address.parse(setting.url()), [("Set-Cookie", f"number={number}")])
        if number == 2:
            break
    assert sent == [None, "number=0", "number=1"]


@pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")
def test_secure_cookie_is_sent_over_tls_only(
    echo: Form, setting: EchoServer, secure_server: EchoServer, certificates: Certificates
) -> None:
    jar = CookieJar()
    url = secure_server.url(host="localhost", scheme="wss")
    store_cookies(jar, Address.parse(url), [("Set-Cookie", "a=1; Secure")])
    assert echo(url, cookies=jar, ssl=certificates.client) == "hello"
    assert secure_server.header("Cookie") == "a=1"
    assert echo(setting.url(host="localhost"), cookies=jar) == "hello"
    assert setting.header("Cookie") is None


def test_cookies_of_a_server_are_bounded_in_number_and_length() -> None:
    jar = CookieJar()
    for start in range(0, 1000, 100):
        fields = [("Set-Cookie", f"c{number}=1") for number in range(start, start + 100)]
        store_cookies(jar, ADDRESS, fields)
    store_cookies(jar, ADDRESS, [("Set-Cookie", "long=" + "x" * MAX_COOKIE_BYTES)])
    assert len(jar) == MAX_COOKIES_PER_DOMAIN
    store_cookies(jar, ADDRESS, [("Set-Cookie", "c0=2")])
    assert values(jar)["c0"] == "2"


@pytest.mark.parametrize(
    "cookie",
    ["", "=", ";", "a=b; Domain=other.org", "a=b; Domain=com", "a=b; Path=/x", "a=b; Max-Age=0"],
)
def test_cookie_that_is_invalid_or_not_for_the_url_is_not_sent(cookie: str) -> None:
    jar = CookieJar()
    store_cookies(jar, ADDRESS, [("Set-Cookie", cookie)])
    assert cookie_header(jar, ADDRESS) is None
