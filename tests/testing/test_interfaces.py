"""The recognition of an application's interface."""

from __future__ import annotations

import functools
from http.server import SimpleHTTPRequestHandler
from typing import Any

import bottle
import pytest

from websocket_handler import WebSocket, WSGIMiddleware
from websocket_handler.testing import Client
from websocket_handler.testing.servers import interface_of

from ..support.programs import TIMEOUT_S
from .conftest import FRAMEWORKS, app_of

EXPECTED = {
    "flask": "wsgi",
    "django": "wsgi",
    "fastapi": "asgi",
    "aiohttp": "aiohttp",
    "http_server": "http.server",
    "tornado": "tornado",
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_application_of_each_framework_is_recognised(framework: str) -> None:
    assert interface_of(app_of(framework)) == EXPECTED[framework]


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["HTTP_HOST"].encode()]


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def asgi_in_a_function(scope: Any, receive: Any, send: Any) -> Any:
    return asgi(scope, receive, send)


class WSGIClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (wsgi, "wsgi"),
        (asgi, "asgi"),
        (asgi_in_a_function, "asgi"),
        (functools.partial(wsgi), "wsgi"),
        (WSGIClass, "wsgi"),
        (bottle.Bottle(), "wsgi"),
        (functools.partial(SimpleHTTPRequestHandler, directory="."), "http.server"),
    ],
    ids=["function", "coroutine", "three parameters", "partial", "class", "bottle", "handler"],
)
def test_plain_application_is_recognised(app: Any, expected: str) -> None:
    assert interface_of(app) == expected


def test_unknown_application_needs_the_interface() -> None:
    def app(*arguments: Any) -> Any:
        return wsgi(*arguments)

    with pytest.raises(TypeError, match=r'Client\(app, interface="wsgi"\)'):
        Client(app)
    with Client(app, interface="wsgi", timeout=TIMEOUT_S) as client:
        assert client.get("/").text == "testserver"


@pytest.mark.parametrize(
    ("app", "options", "message"),
    [
        ("a str", {}, "not an application"),
        (wsgi, {"interface": "cgi"}, "interface is one of"),
        (wsgi, {"max_message_size": 1}, "has its own settings"),
        (asgi, {"max_size": 1}, "did you mean 'max_message_size'"),
        (wsgi, {"cookies": 1}, "cookies"),
        (wsgi, {"timeout": None}, "timeout is a number of seconds"),
        (wsgi, {"headers": "X: y"}, "headers are a mapping, or pairs"),
        (wsgi, {"headers": {"X": 1}}, "the header 'X' must be str"),
    ],
)
def test_wrong_argument_is_a_type_error(app: Any, options: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        Client(app, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 13}, "version must be"),
        ({"subprotocols": "chat"}, "subprotocols must be a sequence"),
        ({"headers": None}, "headers are a mapping"),
        ({"timeout_s": 1}, "unknown setting"),
    ],
)
def test_wrong_argument_of_connect_is_a_type_error(options: Any, message: str) -> None:
    with Client(wsgi) as client, pytest.raises(TypeError, match=message):
        client.connect("/", **options)


def test_method_that_is_no_token_is_an_error() -> None:
    with Client(wsgi) as client, pytest.raises(ValueError, match="'A B' is not a method of HTTP"):
        client.request("A B", "/")


def test_data_of_another_type_is_a_type_error() -> None:
    data: Any = 5
    with Client(wsgi) as client, pytest.raises(TypeError, match="data is bytes, a str or a"):
        client.post("/", data=data)


def test_bottle_application_is_served() -> None:
    app = bottle.Bottle()

    @app.get("/echo")  # type: ignore[untyped-decorator]
    def echo() -> Any:
        ws = WebSocket.of(bottle.request)
        assert ws is not None
        ws.on("message", ws.send)
        return ws.connect()

    with Client(WSGIMiddleware(app), timeout=TIMEOUT_S) as client, client.connect("/echo") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"
