"""Clients of Engine.IO that do exactly as the test says, also the wrong thing."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import Any

from websockets.sync.client import ClientConnection, connect

from ..support.programs import TIMEOUT_S, Program

PATH = "/socket.io/?EIO=4&transport="


class PollingClient:
    """A session that polls. Each request has its own connection."""

    def __init__(self, program: Program, context: ssl.SSLContext | None = None) -> None:
        self._program = program
        self._context = context
        opened = self.request("GET").decode()
        assert opened[0] == "0"
        self.sid: str = json.loads(opened[1:])["sid"]

    def connect(self) -> None:
        """Connect to the main namespace, and read the packets until then."""
        self.send("40")
        received = ""
        while "40{" not in received:
            received += self.poll()

    def begin(
        self, method: str, body: str = "", headers: dict[str, str] | None = None
    ) -> HTTPConnection:
        """Send a request; the caller reads the response."""
        if self._context is None:
            http = HTTPConnection(*self._program.address, timeout=TIMEOUT_S)
        else:
            http = HTTPSConnection(*self._program.address, timeout=TIMEOUT_S, context=self._context)
        sid = getattr(self, "sid", None)
        path = f"{PATH}polling" + (f"&sid={sid}" if sid else "")
        http.request(method, path, body or None, headers or {})
        return http

    def request(self, method: str, body: str = "") -> bytes:
        with contextlib.closing(self.begin(method, body)) as http:
            response = http.getresponse()
            assert response.status == 200, response.read()
            return response.read()

    def send(self, *packets: str) -> None:
        assert self.request("POST", "\x1e".join(packets)) == b"OK"

    def poll(self) -> str:
        return self.request("GET").decode()


def finish(http: HTTPConnection) -> HTTPResponse:
    """Return the response to a request that was begun, with its body in `body`."""
    with contextlib.closing(http):
        response: Any = http.getresponse()
        response.body = response.read().decode()
        return response  # type: ignore[no-any-return]


@contextlib.contextmanager
def websocket(program: Program, sid: str = "", **options: Any) -> Iterator[ClientConnection]:
    """Open a WebSocket: for a new session, or to upgrade the session `sid`."""
    url = program.url(f"{PATH}websocket" + (f"&sid={sid}" if sid else ""))
    with connect(url, compression=None, close_timeout=1, **options) as client:
        yield client


@contextlib.contextmanager
def connected(program: Program, **options: Any) -> Iterator[ClientConnection]:
    """Open a WebSocket and connect to the main namespace."""
    with websocket(program, **options) as client:
        assert str(client.recv(TIMEOUT_S)).startswith("0{")
        client.send("40")
        while not receive(client).startswith("40{"):
            pass
        yield client


def receive(client: ClientConnection) -> str:
    """Return the next text message; answers pings."""
    while (message := client.recv(TIMEOUT_S)) == "2":
        client.send("3")
    assert isinstance(message, str)
    return message


def vanish(client: ClientConnection) -> None:
    """Reset the connection without a close frame."""
    sock = client.socket
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    sock.close()
