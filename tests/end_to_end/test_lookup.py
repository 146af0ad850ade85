"""`WebSocket.of` in every framework, and the client's address behind a proxy."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from tests.support.ports import free_port
from websocket_handler import HandshakeFailed, WebSocket, WebSocketError, connect

from ..support.programs import Program, running
from ..support.raw_client import request as request_head

MODULE = "tests.end_to_end.lookups"
PROXY_HOST = "app.example"

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


class Framework(NamedTuple):
    """How a framework is served, and which of the proxy's values it trusts."""

    server: str
    name: str
    address: bool = True
    host: bool = True
    has_listeners: bool = True
    takes_wss: bool = True
    """Whether it passes on the scheme of a proxy that calls it "wss", as Traefik does."""

    def command(self) -> list[str]:
        port, application = str(free_port()), f"{MODULE}:{self.name}"
        if self.server == "gunicorn":
            return ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "--threads", "4", application]
        if self.server == "uvicorn":
            protocol = "websocket_handler.servers.uvicorn:WebSocketProtocol"
            return ["-m", "uvicorn", "--port", port, "--ws", protocol, application]
        if self.server == "hypercorn":
            return ["-m", "hypercorn", "-b", f"127.0.0.1:{port}", application]
        if self.server == "gunicorn-asgi":
            worker = "websocket_handler.servers.gunicorn.ASGIWorker"
            return ["-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", worker, application]
        return ["-m", MODULE, self.name]


FRAMEWORKS = [
    Framework("gunicorn", "wsgi"),
    Framework("gunicorn", "flask"),
    Framework("gunicorn", "in_bottles"),
    Framework("gunicorn", "django", address=False),
    Framework("uvicorn", "asgi"),
    Framework("uvicorn", "starlette"),
    Framework("uvicorn", "fastapi"),
    Framework("uvicorn", "django_asgi", takes_wss=False),  # uvicorn itself has set the address
    Framework("uvicorn", "fastapi_routes", host=False, has_listeners=False),
    Framework("hypercorn", "starlette"),
    Framework("hypercorn", "django_asgi", address=False),
    Framework("gunicorn-asgi", "starlette"),
    Framework("itself", "aiohttp"),
    Framework("itself", "tornado", host=False, takes_wss=False),
]


@pytest.fixture(params=FRAMEWORKS, ids=lambda one: f"{one.server}-{one.name}")
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Framework, Program]]:
    framework: Framework = request.param
    with running(Program(framework.command(), r"http://127\.0\.0\.1:(\d+)")) as program:
        yield framework, program


def open_from(address: str, program: Program, origin: str, scheme: str = "https") -> WebSocket:
    """A request as from a browser at `address` behind a proxy that terminates TLS."""
    fields = {
        "X-Forwarded-For": address,
        "X-Forwarded-Proto": scheme,
        "X-Forwarded-Host": PROXY_HOST,
    }
    return connect(program.url("/"), additional_headers=fields, origin=origin)


def test_websocket_of_a_request_shows_the_client_behind_the_proxy(
    served: tuple[Framework, Program],
) -> None:
    framework, program = served
    host = PROXY_HOST if framework.host else f"127.0.0.1:{program.port}"
    origin = f"https://{host}"
    with open_from("203.0.113.1", program, origin) as one:
        address = "203.0.113.1" if framework.address else "127.0.0.1"
        assert json.loads(one.receive(timeout=10)) == [address, "https", host]
        if framework.address:
            scheme = "wss" if framework.takes_wss else "https"
            with open_from("203.0.113.2", program, origin, scheme) as other:
                seen = ["203.0.113.2", "https", host]
                assert json.loads(other.receive(timeout=10)) == seen
        if framework.has_listeners:
            one.send("who is the user?")
            assert one.receive(timeout=10) == "nobody"  # belongs to no request
            with pytest.raises(HandshakeFailed) as raised:
                open_from("203.0.113.1", program, origin)
            assert raised.value.status == 429
    with urlopen(program.url("/", "http"), timeout=10) as response:
        assert response.read() == b"plain"


def test_websocket_of_a_handler_of_http_server() -> None:
    command = ["-m", MODULE, "http_server"]
    with running(Program(command, r"http://127\.0\.0\.1:(\d+)")) as program:
        with connect(program.url("/")) as websocket:
            seen = ["127.0.0.1", "http", f"127.0.0.1:{program.port}"]
            assert json.loads(websocket.receive(timeout=10)) == seen
        with urlopen(program.url("/", "http"), timeout=10) as response:
            assert response.read() == b"plain"


def test_peers_on_a_unix_socket_are_not_counted_as_one_address(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = ["-m", "gunicorn", "-b", f"unix:{path}", "--threads", "4"]
    application = "tests.end_to_end.wsgi.limited:app"
    ready = r"Listening at: unix:\S+ \((\d+)\)"
    with running(Program([*command, application], ready)), contextlib.ExitStack() as stack:
        for _ in range(3):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.settimeout(10)
            sock.connect(str(path))
            sock.sendall(request_head("/", HANDSHAKE))
            assert sock.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 101"


class Bare(BaseHTTPRequestHandler):
    def __init__(self) -> None:
        """A handler of a server that was not configured."""


@pytest.mark.parametrize(
    ("request_object", "missing"),
    [
        ({"REQUEST_METHOD": "GET"}, r"WSGIMiddleware\(app.wsgi_app\)"),
        ({"type": "http", "headers": []}, r"ASGIMiddleware\(app\)"),
        ({"type": "websocket", "headers": []}, r"ASGIMiddleware\(app\)"),
        (Bare(), r"configure_server\(server\)"),
    ],
)
def test_websocket_of_an_unprepared_request_says_what_is_missing(
    request_object: Any, missing: str
) -> None:
    with pytest.raises(WebSocketError, match=missing):
        WebSocket.of(request_object)


@pytest.mark.parametrize("value", [None, "/", {}, {"type": "lifespan"}, object()])
def test_websocket_of_anything_else_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        WebSocket.of(value)
