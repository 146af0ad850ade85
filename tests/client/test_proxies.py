"""Proxies: tinyproxy for HTTP, also behind TLS; dante and microsocks for SOCKS."""

from __future__ import annotations

import errno
import importlib
import sys
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE, ConnectionFailed, ProxyFailed, TlsFailed, WebSocketError
from websocket_handler.client.proxy_url import ProxyUrl, proxy_for
from websocket_handler.protocol.client import Address

from .conftest import Certificates, HttpProxy
from .forms import Form, NothingLeft
from .peers import EchoServer, RawServer, behind_tls, microsocks, tinyproxy

needs_tls = pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")


def test_http_proxy_carries_the_connection(
    echo: Form, server: EchoServer, http_proxy: HttpProxy
) -> None:
    before = http_proxy.requests()
    with NothingLeft():
        assert echo(server.url(), proxy=f"http://127.0.0.1:{http_proxy.port}") == "hello"
    assert http_proxy.requests() > before


@pytest.mark.skipif(IS_NATIVE, reason="the native engine has TLS")
def test_https_proxy_needs_the_native_engine(echo: Form) -> None:
    with NothingLeft(), pytest.raises(WebSocketError, match="an https: proxy needs the native"):
        echo("ws://example.com/", proxy="https://127.0.0.1:1")


@needs_tls
def test_http_proxy_carries_tls(
    echo: Form, secure_server: EchoServer, http_proxy: HttpProxy, certificates: Certificates
) -> None:
    before = http_proxy.requests()
    url = secure_server.url(host="localhost", scheme="wss")
    proxy = f"http://127.0.0.1:{http_proxy.port}"
    assert echo(url, proxy=proxy, ssl=certificates.client) == "hello"
    assert http_proxy.requests() > before


def test_http_proxy_with_password_is_used_or_refuses(
    echo: Form, server: EchoServer, tmp_path: Path
) -> None:
    with tinyproxy(tmp_path, "me secret") as port:
        assert echo(server.url(), proxy=f"http://me:secret@127.0.0.1:{port}") == "hello"
        for user in ("", "me:wrong@"):
            with NothingLeft(), pytest.raises(ProxyFailed) as caught:
                echo(server.url(), proxy=f"http://{user}127.0.0.1:{port}")
            assert caught.value.status in (401, 407)
            assert "wrong" not in str(caught.value)


def test_proxy_that_cannot_reach_the_server_fails_with_its_status(
    echo: Form, http_proxy: HttpProxy
) -> None:
    with NothingLeft(), pytest.raises(ProxyFailed) as caught:
        echo("ws://127.0.0.1:1/", proxy=f"http://127.0.0.1:{http_proxy.port}")
    assert caught.value.status is not None
    assert caught.value.status >= 500
    assert f"the proxy http://127.0.0.1:{http_proxy.port}" in str(caught.value)


@needs_tls
@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_https_proxy_carries_plain_and_tls_connections(
    echo: Form,
    scheme: str,
    server: EchoServer,
    secure_server: EchoServer,
    http_proxy: HttpProxy,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    target = server if scheme == "ws" else secure_server
    url = target.url(host="localhost", scheme=scheme)
    with behind_tls(tmp_path, certificates.file, http_proxy.port) as port, NothingLeft():
        proxy = f"https://localhost:{port}"
        trusted = {"proxy": proxy, "proxy_ssl": certificates.client}
        assert echo(url, ssl=certificates.client, **trusted) == "hello"
        with pytest.raises(TlsFailed, match="certificate is not valid"):
            echo(url, ssl=certificates.client, proxy=proxy)
        if scheme == "wss":
            with pytest.raises(TlsFailed, match="certificate is not valid"):
                echo(url, **trusted)


@needs_tls
def test_large_messages_pass_tls_inside_tls(
    secure_server: EchoServer, http_proxy: HttpProxy, certificates: Certificates, tmp_path: Path
) -> None:
    from websocket_handler import connect

    context = certificates.client
    with behind_tls(tmp_path, certificates.file, http_proxy.port) as port:
        url = secure_server.url(host="localhost", scheme="wss")
        proxy = f"https://localhost:{port}"
        with connect(url, ssl=context, proxy=proxy, proxy_ssl=context) as websocket:
            sent = [bytes([number]) * 1_000_000 for number in range(20)]
            for message in sent:
                websocket.send(message)
            assert [websocket.receive(timeout=30) for _ in sent] == sent


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
def test_socks_proxy_carries_the_connection(
    echo: Form, server: EchoServer, socks_proxy: int, scheme: str
) -> None:
    hosts = ["127.0.0.1", "localhost"] if scheme != "socks4a" else ["127.0.0.1"]
    for host in hosts:  # dante does not know the names of socks4a
        with NothingLeft():
            proxy = f"{scheme}://127.0.0.1:{socks_proxy}"
            assert echo(server.url(host=host), proxy=proxy, open_timeout=20) == "hello"


def test_socks4a_proxy_gets_the_name(echo: Form) -> None:
    proxy = RawServer(b"\0\x5b" + bytes(6))
    try:
        with pytest.raises(ProxyFailed, match="rejected"):
            echo("ws://server.invalid:81/", proxy=f"socks4a://127.0.0.1:{proxy.port}")
        assert proxy.received == b"\x04\x01\0\x51\0\0\0\x01\0server.invalid\0"
    finally:
        proxy.close()


@needs_tls
def test_socks_proxy_carries_tls(
    echo: Form, secure_server: EchoServer, socks_proxy: int, certificates: Certificates
) -> None:
    url = secure_server.url(host="localhost", scheme="wss")
    proxy = f"socks5h://127.0.0.1:{socks_proxy}"
    assert echo(url, proxy=proxy, ssl=certificates.client) == "hello"


def test_socks_proxy_with_password_is_used_or_refuses(echo: Form, server: EchoServer) -> None:
    with microsocks("-u", "me", "-P", "secret") as port:
        assert echo(server.url(), proxy=f"socks5://me:secret@127.0.0.1:{port}") == "hello"
        for user in ("", "me:wrong@"):
            with (
                NothingLeft(),
                pytest.raises(ProxyFailed, match="the proxy socks5://127") as caught,
            ):
                echo(server.url(), proxy=f"socks5://{user}127.0.0.1:{port}")
            assert "wrong" not in str(caught.value)


def test_socks_proxy_that_cannot_reach_the_server_is_an_error(echo: Form, socks_proxy: int) -> None:
    with NothingLeft(), pytest.raises(ProxyFailed, match="the proxy socks5://127"):
        echo("ws://127.0.0.1:1/", proxy=f"socks5://127.0.0.1:{socks_proxy}")


def test_name_that_is_resolved_here_and_unknown_is_named(echo: Form, socks_proxy: int) -> None:
    text = r"cannot resolve the name nowhere\.invalid: .* \(socks5 resolves it here, socks5h"
    with NothingLeft(), pytest.raises(ConnectionFailed, match=text):
        echo("ws://nowhere.invalid/", proxy=f"socks5://127.0.0.1:{socks_proxy}")


def test_missing_python_socks_is_named(
    echo: Form, server: EchoServer, socks_proxy: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with NothingLeft(), pytest.raises(ProxyFailed, match=r"websocket-handler\[socks\]"):
        echo(server.url(), proxy=f"socks5://127.0.0.1:{socks_proxy}")
    monkeypatch.undo()
    assert importlib.import_module("python_socks")


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
@pytest.mark.parametrize("answer", [b"SSH-2.0-x\r\n\r\n" * 10, b"\xff" * 70_000], ids=["ssh", "ff"])
def test_proxy_that_answers_garbage_is_an_error(echo: Form, scheme: str, answer: bytes) -> None:
    proxy = RawServer(answer)
    try:
        with NothingLeft():
            with pytest.raises(ProxyFailed):
                echo("ws://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{proxy.port}")
            assert proxy.ended.acquire(timeout=20)
    finally:
        proxy.close()


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
def test_proxy_that_ends_the_connection_is_an_error(echo: Form, scheme: str) -> None:
    proxy = RawServer(b"", closes=True)
    try:
        with NothingLeft(), pytest.raises((ProxyFailed, ConnectionFailed)):
            echo("ws://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{proxy.port}")
    finally:
        proxy.close()


ENDLESS = {
    "http": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000,
    "socks4": b"",
    "socks5": b"\x05\x00\x05\x00\x00\x03\xff" + b"x" * 200,
}
"""Answers that are never complete."""


@pytest.mark.parametrize("scheme", ENDLESS)
def test_proxy_that_hangs_or_trickles_is_a_timeout(echo: Form, scheme: str) -> None:
    for answer in (b"", ENDLESS[scheme]):
        proxy = RawServer(answer, trickles=True)
        url = f"{scheme}://127.0.0.1:{proxy.port}"
        try:
            with NothingLeft():
                with pytest.raises(TimeoutError, match="open_timeout"):
                    echo("ws://127.0.0.1:1/", proxy=url, open_timeout=0.3)
                assert proxy.ended.acquire(timeout=20)
        finally:
            proxy.close()


def test_data_after_the_answer_of_a_proxy_is_an_error(echo: Form) -> None:
    proxy = RawServer(b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n")
    try:
        with NothingLeft(), pytest.raises(ProxyFailed, match="sent data after"):
            echo("ws://127.0.0.1:1/", proxy=f"http://127.0.0.1:{proxy.port}")
    finally:
        proxy.close()


@pytest.mark.parametrize("scheme", ["http", pytest.param("https", marks=needs_tls), "socks5"])
def test_proxy_that_is_not_reachable_is_named(echo: Form, scheme: str) -> None:
    text = f"the proxy {scheme}://127.0.0.1:1 is not reachable: cannot connect to .*: Connection r"
    with NothingLeft(), pytest.raises(ConnectionFailed, match=text) as caught:
        echo("ws://example.com/", proxy=f"{scheme}://me:secret@127.0.0.1:1")
    assert caught.value.errno == errno.ECONNREFUSED


# The environment


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "WS_PROXY", "ALL_PROXY"])
def test_proxy_of_the_environment_is_used_by_default(
    echo: Form,
    server: EchoServer,
    http_proxy: HttpProxy,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, f"http://127.0.0.1:{http_proxy.port}")
    before = http_proxy.requests()
    assert echo(server.url()) == "hello"
    after = http_proxy.requests()
    assert after > before
    assert echo(server.url(), proxy=None) == "hello"
    assert echo(server.url(), proxy=False) == "hello"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,other.example")
    assert echo(server.url()) == "hello"
    assert http_proxy.requests() == after


@pytest.mark.parametrize(
    ("environment", "url", "expected"),
    [
        ({"HTTP_PROXY": "http://a", "HTTPS_PROXY": "http://b:1"}, "ws://x/", "http://a:80"),
        ({"HTTP_PROXY": "http://a", "HTTPS_PROXY": "http://b:1"}, "wss://x/", "http://b:1"),
        ({"HTTPS_PROXY": "http://b"}, "ws://x/", None),
        ({"ALL_PROXY": "socks5://c"}, "wss://x/", "socks5://c:1080"),
        ({"SOCKS_PROXY": "socks5h://c", "HTTP_PROXY": "http://a"}, "ws://x/", "http://a:80"),
        ({"HTTP_PROXY": "a:3128"}, "ws://x/", "http://a:3128"),
        ({"HTTP_PROXY": "http://[::1]:3"}, "ws://x/", "http://[::1]:3"),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": ".x.org"}, "ws://y.x.org/", None),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": "*"}, "ws://y/", None),
        ({"HTTP_PROXY": "http://a", "NO_PROXY": "::1"}, "ws://[::1]/", None),
        ({"HTTP_PROXY": ""}, "ws://x/", None),
    ],
)
def test_environment_chooses_the_proxy(
    environment: dict[str, str],
    url: str,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen = proxy_for(Address.parse(url), True)
    assert (chosen and str(chosen)) == expected


@pytest.mark.parametrize(
    ("name", "value"), [("HTTP_PROXY", "ftp://proxy"), ("ALL_PROXY", "http://me:secret@a b")]
)
def test_invalid_proxy_of_the_environment_names_its_variable(
    echo: Form, name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"^{name} of the environment is not valid: the ") as error:
        echo("ws://example.com/")
    assert "secret" not in str(error.value)


def test_proxy_url_hides_its_password_in_text() -> None:
    proxy = ProxyUrl.parse("http://me:hunter2@host:3128")
    assert str(proxy) == "http://host:3128"
    assert (proxy.user, proxy.password) == ("me", "hunter2")
