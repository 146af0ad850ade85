"""The request that the options make, and the ways to reach a server."""

from __future__ import annotations

import base64
import platform
import socket
from pathlib import Path
from typing import Any

import pytest

import websocket_handler
from websocket_handler import WebSocket, aconnect, connect
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
    ],
)
@pytest.mark.parametrize("call", [connect, aconnect, Reconnecting])
def test_invalid_option_is_an_error_at_once(call: Any, options: dict[str, Any], error: str) -> None:
    with pytest.raises((ValueError, TypeError), match=error):
        call("ws://127.0.0.1:1/", **options)


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
