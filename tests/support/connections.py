"""A WebSocket on one end of a socket pair, a plain socket on the other."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any, ClassVar

from websocket_handler import Engine, Headers, Request, Settings, WebSocket
from websocket_handler.protocol.assembly import Close, Event
from websocket_handler.protocol.message import Decoder
from websocket_handler.protocol.versions import rfc6455

HANDSHAKE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def make_websocket(engine: Engine, **settings: Any) -> WebSocket:
    request = Request("GET", "/", Headers(HANDSHAKE.items()), remote_address="a pair")
    return WebSocket(request, Settings(**settings), engine=engine)


class Peer:
    """The other end: sends bytes, and reads events until one of a type has arrived."""

    all: ClassVar[list[Peer]] = []

    def __init__(self, sock: socket.socket, expect_masked: bool = False) -> None:
        self.all.append(self)
        self.sock = sock
        self.sock.settimeout(10)
        self._decoder = Decoder(Settings(max_message_size=1 << 26), expect_masked)
        self._events: list[Event] = []

    def read_head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            if not byte:
                raise AssertionError(f"the connection ended after {head!r}")
            head += byte
        return head

    def read(self) -> Event:
        while not self._events:
            data = self.sock.recv(1 << 16)
            if not data:
                raise AssertionError("the connection has ended")
            self._events += self._decoder.feed(data)
        return self._events.pop(0)

    def read_to_end_or_close(self) -> list[Event]:
        """Returns the events until a close frame or any end of the connection."""
        with contextlib.suppress(ConnectionResetError):
            while not any(isinstance(event, Close) for event in self._events):
                data = self.sock.recv(1 << 16)
                if not data:
                    break
                self._events += self._decoder.feed(data)
        return self._events

    def read_to_end(self) -> list[Event]:
        while data := self.sock.recv(1 << 16):
            self._events += self._decoder.feed(data)
        return self._events


def connect(websocket: WebSocket, early: bytes = b"", is_aborted: bool = False) -> Peer:
    """Connect `websocket` over a socket pair; returns its peer, after the 101. If it `is_aborted`
    meanwhile, the 101 may be missing."""
    ours, theirs = socket.socketpair()
    websocket.connect()
    websocket._take_over(ours, early)
    peer = Peer(theirs)
    if not is_aborted or theirs.recv(1, socket.MSG_PEEK):
        head = peer.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
    return peer


def client_role(engine: Engine) -> tuple[WebSocket, Peer]:
    """A WebSocket that masks its frames, as a client does."""
    ours, theirs = socket.socketpair()
    websocket = make_websocket(engine)
    opened = threading.Event()
    websocket.on("open", opened.set)
    websocket._begin_as_client(rfc6455.VERSION, b"", None)
    websocket._take_over(ours)
    is_open = opened.wait(10)
    assert is_open
    return websocket, Peer(theirs, expect_masked=True)
