"""The request that the options make, and the ways to reach a server."""

from __future__ import annotations

import base64
import platform
import socket
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection

import websocket_handler
from websocket_handler import HandshakeFailed, WebSocket, aconnect, connect
from websocket_handler.client import ClientOptions, ClientSettings, Reconnecting

from .forms import Form
from .peers import EchoServer


def test_user_agent_names_library_and_python_by_default(echo: Form, server: EchoServer) -> None:
    assert echo(server.url()) == "hello"
    version = ".".join(platform.python_version_tuple()[:2])
    expected = f"websocket-handler/{websocket_handler.__version__} Python/{version}"
    assert server.header("User-Agent") == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"user_agent_header": "mine/1"}, "mine/1"),
        ({"user_agent_header": None}, None),
        ({"additional_headers": {"user-agent": "theirs"}}, "theirs"),
    ],
)
def test_user_agent_can_be_replaced_or_omitted(
    server: EchoServer, echo: Form, options: dict[str, Any], expected: str | None
) -> None:
    assert echo(server.url(), **options) == "hello"
    assert server.header("User-Agent") == expected


@pytest.mark.parametrize("fields", [{"X-A": "1"}, [("X-A", "1")]], ids=["mapping", "pairs"])
def test_headers_and_origin_are_sent(echo: Form, server: EchoServer, fields: Any) -> None:
    assert echo(server.url(), additional_headers=fields, origin="https://here") == "hello"
    assert (server.header("X-A"), server.header("Origin")) == ("1", "https://here")


@pytest.mark.parametrize(
    ("userinfo", "pair"),
    [("me:secret", "me:secret"), ("m%40e:p%3a%C3%A4", "m@e:p:ä"), ("me", "me:")],
)
def test_user_and_password_of_the_url_are_sent(
    echo: Form, server: EchoServer, userinfo: str, pair: str
) -> None:
    assert echo(server.url(host=f"{userinfo}@127.0.0.1")) == "hello"
    expected = base64.b64encode(pair.encode()).decode()
    assert server.header("Authorization") == f"Basic {expected}"
    assert server.header("Host") == f"127.0.0.1:{server.port}"


def test_authorization_header_replaces_that_of_the_url(echo: Form, server: EchoServer) -> None:
    url = server.url(host="me:secret@127.0.0.1")
    assert echo(url, additional_headers={"authorization": "Bearer x"}) == "hello"
    assert server.requests[-1].headers.get_all("Authorization") == ["Bearer x"]


@pytest.mark.parametrize("value", [True, "deflate", None, False])
def test_compression_is_offered_if_wanted(echo: Form, server: EchoServer, value: Any) -> None:
    seen: list[str] = []
    assert echo(server.url(), lambda ws: seen.append(ws.extensions), compression=value) == "hello"
    assert seen[0].startswith("permessage-deflate" if value else "")
    assert bool(seen[0]) == bool(value)


def test_subprotocol_cookie_and_response_headers_are_exchanged(echo: Form) -> None:
    server = EchoServer(subprotocols=["b"])
    seen: list[Any] = []

    def look(websocket: WebSocket) -> None:
        seen.append((websocket.subprotocol, websocket.response_headers.get("Server", "")))

    try:
        options = {"subprotocols": ["a", "b"], "additional_headers": {"Cookie": "a=1"}}
        assert echo(server.url(), look, **options) == "hello"
        assert server.header("Cookie") == "a=1"
    finally:
        server.close()
    assert seen[0][0] == "b"
    assert "websockets" in seen[0][1]


def test_unix_socket_is_used_in_place_of_the_host(echo: Form, tmp_path: Path) -> None:
    server = EchoServer(path=str(tmp_path / "socket"))
    try:
        assert echo("ws://example.com/x", unix=tmp_path / "socket") == "hello"
        assert server.header("Host") == "example.com"
        assert server.requests[-1].path == "/x"
    finally:
        server.close()


def test_connected_socket_is_used(echo: Form, server: EchoServer) -> None:
    sock = socket.create_connection(("127.0.0.1", server.port))
    assert echo("ws://example.com/", sock=sock) == "hello"
    assert server.header("Host") == "example.com"


def test_local_address_is_used(echo: Form, server: EchoServer) -> None:
    assert echo(server.url(), local_addr=("127.0.0.9", 0)) == "hello"
    assert server.peers[-1][0] == "127.0.0.9"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"adittional_headers": {}}, "did you mean 'additional_headers'"),
        ({"compression": "gzip"}, "compression"),
        ({"proxy": "ftp://host"}, "URL of a proxy"),
        ({"proxy": "http://"}, "URL of a proxy"),
        ({"proxy": "http://host/path"}, "no path"),
        ({"max_redirects": -1}, "max_redirects"),
        ({"redirect_hosts": "host"}, "redirect_hosts"),
        ({"ssl": "yes"}, "ssl must be"),
        ({"server_hostname": "a..b"}, "not a valid host name"),
        ({"server_hostname": "a\0b"}, "not a valid host name"),
        ({"open_timeout": 0}, "open_timeout"),
        ({"cookies": {"a": "1"}}, "cookies must be"),
        ({"unix": "/x", "proxy": "http://host"}, "cannot be combined"),
        ({"additional_headers": {"X": "a\nb"}}, "must not contain"),
        ({"user_agent_header": "a\r\nX: b"}, "must not contain"),
        ({"subprotocols": ["a", "a"]}, "offered twice"),
        ({"subprotocols": "chat"}, "subprotocols must be a sequence"),
        ({"subprotocols": [1]}, "cannot be the name of a subprotocol"),
        ({"additional_headers": "X: a"}, "headers are a mapping, or pairs"),
        ({"additional_headers": ["X: a"]}, "headers are a mapping, or pairs"),
        ({"additional_headers": None}, "headers are a mapping, or pairs"),
        ({"additional_headers": {"X": 1}}, "the header 'X' must be str"),
        ({"additional_headers": {1: "X"}}, "the header 1 must be str"),
        ({"origin": 1}, "the header 'Origin' must be str"),
        ({"version": 13}, "version must be"),
        ({"server_hostname": 1}, "server_hostname must be"),
        ({"proxy": 1}, "proxy must be"),
        ({"proxy_ssl": True}, "proxy_ssl must be"),
        ({"sock": 1}, "sock must be"),
        ({"local_addr": "127.0.0.1"}, "local_addr must be"),
        ({"max_redirects": None}, "max_redirects must be"),
        ({"redirect_hosts": None}, "redirect_hosts must be"),
        ({"engine": 1}, "engine must be"),
        ({"process_exception": 1}, "process_exception must be"),
        ({"reconnect_delays": [1, 2]}, "reconnect_delays must be"),
        ({"settings": {"ping_interval": 1}}, "settings must be"),
        ({"open_timeout": None}, "open_timeout cannot be None"),
        ({"ping_interval": "1"}, "ping_interval cannot be '1'"),
        ({"max_message_size": None}, "max_message_size cannot be None"),
    ],
)
@pytest.mark.parametrize("call", [connect, aconnect, Reconnecting])
def test_invalid_option_is_an_error_at_once(call: Any, options: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        call("ws://127.0.0.1:1/", **options)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("extra_headers", "additional_headers"),
        ("headers", "additional_headers"),
        ("max_size", "max_message_size"),
        ("sslopt", "ssl"),
        ("timeout", "open_timeout"),
    ],
)
def test_name_of_another_library_is_answered_with_ours(name: str, ours: str) -> None:
    options: dict[str, Any] = {name: None}
    with pytest.raises(TypeError, match=f"unknown setting '{name}'; did you mean '{ours}'"):
        connect("ws://127.0.0.1:1/", **options)


@pytest.mark.parametrize("url", [None, b"ws://host/", 5])
@pytest.mark.parametrize("call", [connect, aconnect, Reconnecting])
def test_url_that_is_not_a_str_is_a_type_error(call: Any, url: Any) -> None:
    with pytest.raises(TypeError, match="a URL is a str, not"):
        call(url)


@pytest.mark.parametrize("port", ["0", "65536", "http"])
def test_invalid_port_is_an_error(port: str) -> None:
    with pytest.raises(ValueError, match="the port of 'host' is not a number from 1 to 65535"):
        connect(f"ws://host:{port}/")


def test_invalid_url_is_shown_without_its_password() -> None:
    with pytest.raises(ValueError, match=r"'ws://…@\[::1/' is not a URL: "):
        connect("ws://me:hunter2@[::1/")


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/plain; charset=utf-8", ": log in\\x1b first"),
        ("application/problem+json", ": log in\\x1b first"),
        ("text/html", ""),
        (None, ""),
    ],
)
def test_refusal_shows_a_body_of_text(echo: Form, kind: str | None, shown: str) -> None:
    def refuse(_: ServerConnection, __: Request) -> Response:
        fields = Headers([("Content-Length", "14")])
        if kind is not None:
            fields["Content-Type"] = kind
        return Response(403, "Forbidden", fields, b"log in\x1b \nfirst")

    server = EchoServer(refuse)
    try:
        with pytest.raises(HandshakeFailed) as refused:
            echo(server.url())
    finally:
        server.close()
    assert str(refused.value) == f"the server answered with HTTP status 403{shown}"
    assert refused.value.reason == "the server answered with HTTP status 403"


@pytest.mark.parametrize("call", [connect, aconnect])
def test_socket_that_is_not_usable_is_an_error_at_once(call: Any) -> None:
    closed = socket.socket()
    closed.close()
    first, second = socket.socketpair(type=socket.SOCK_DGRAM)
    with socket.socket() as unconnected, first, second:
        for sock, error in ((closed, "not conn"), (unconnected, "not conn"), (first, "stream")):
            with pytest.raises(ValueError, match=error):
                call("ws://127.0.0.1/", sock=sock)


@pytest.mark.parametrize("url", ["ws://a..b/", f"wss://{'a' * 64}.example/", "ws://.a/"])
@pytest.mark.parametrize("call", [connect, aconnect, Reconnecting])
def test_invalid_name_in_the_url_is_an_error_at_once(call: Any, url: str) -> None:
    with pytest.raises(ValueError, match="not a valid host name"):
        call(url)


@pytest.mark.parametrize("url", ["ws://a:b%0d%0a@host/", "ws://a%3ab:c@host/", "ws://a b@host/"])
def test_invalid_credentials_in_the_url_are_an_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"valid|whitespace"):
        connect(url)


def test_error_about_a_url_does_not_show_its_password() -> None:
    for url in ("http://me:hunter2@host/", "ws://me:hunter2@ho st/"):
        with pytest.raises(ValueError, match="URL") as caught:
            connect(url)
        assert "hunter2" not in str(caught.value)


def test_keyword_types_list_every_option() -> None:
    own = set(ClientOptions.__annotations__) - set(websocket_handler.settings.SETTING_NAMES)
    assert own == set(ClientSettings.__dataclass_fields__)
    for name in ClientSettings.__dataclass_fields__:
        assert name in (connect.__doc__ or "") + (Reconnecting.__doc__ or ""), name
