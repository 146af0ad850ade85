"""The peer of a connection in the target `engine`: it sends anything and checks all it reads."""

from __future__ import annotations

import contextlib
import socket
from functools import cache

from websocket_handler import Headers, Request, Settings, WebSocket
from websocket_handler.protocol import message as framing
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.deflate import Inflater
from websocket_handler.protocol.frame import write_frame
from websocket_handler.protocol.handshake import Accepted
from websocket_handler.protocol.versions import Version
from websocket_handler.protocol.versions.version import Offer

KEY = b"\x37\xfa\x21\x3d"
ANSWER_SIZE = 16  # bytes after the head in versions with a late handshake


@cache
def request_of(version: Version, compressed: bool) -> Request:
    """Return the request of a client of this version."""
    offer = Offer("localhost", "/", extensions="permessage-deflate" if compressed else "")
    head = version._client_request(offer).request.partition(b"\r\n\r\n")[0].decode()
    fields = [tuple(line.split(": ", 1)) for line in head.split("\r\n")[1:]]
    return Request("GET", "/", Headers(fields), remote_address="a pair")  # type: ignore[arg-type]


class Peer:
    """A peer that fails if the other end sends an invalid frame."""

    def __init__(
        self, sock: socket.socket, version: Version, is_server: bool, websocket: WebSocket
    ) -> None:
        self._sock: socket.socket | None = sock
        sock.setblocking(False)
        self._is_server = is_server
        self._head = b"" if not is_server else None
        self._to_skip = ANSWER_SIZE if version._has_late_handshake and not is_server else 0
        settings = Settings(max_message_size=1 << 26)
        self._decoder = version._make_decoder(settings, is_server, b"")
        if is_server and version._has_late_handshake:
            self._decoder.feed(b"the key3")
        outcome = websocket._outcome
        if isinstance(outcome, Accepted) and outcome.negotiated is not None:
            takeover = not (
                outcome.negotiated.client_no_context_takeover
                if is_server
                else outcome.negotiated.server_no_context_takeover
            )
            self._decoder = framing.Decoder(settings, is_server, Inflater(15, takeover))

    def send(self, data: bytes) -> None:
        """Send as much of `data` as the socket accepts; the other end may be closed."""
        if self._sock is not None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                self._sock.send(data)

    def send_frame(self, first: int, payload: bytes) -> None:
        self.send(write_frame(first & 0x0F, payload, bool(first & 0x80), self._key))

    @property
    def _key(self) -> bytes | None:
        return None if self._is_server else KEY

    def half_close(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def read(self, size: int) -> None:
        if self._sock is None or not size:
            return
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._check(self._sock.recv(size))

    def _check(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._head = None
        skipped = data[: self._to_skip]
        self._to_skip -= len(skipped)
        for event in self._decoder.feed(data[len(skipped) :]):
            assert not isinstance(event, Violation), event

    def close(self) -> None:
        """Close the socket; with unread data this resets the connection."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
