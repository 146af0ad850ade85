"""A client's part of the handshake, of any version: what to send, and was it understood?

Knows bytes, as the rest of `protocol` does: `request` is to be sent, whatever comes is to
be fed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import HandshakeFailed
from .request import FIELD_VALUE, TOKEN, Headers, check_field, tokens
from .versions import Version
from .versions.version import Offer

MAX_HEAD_SIZE = 64 << 10
"""The longest response head that is read; beyond it the handshake has failed."""

MAX_BODY_SHOWN = 64 << 10
"""How much of a refusal's body `HandshakeFailed` carries at most."""

DEFAULT_PORTS = {"ws": 80, "wss": 443}


class Address(NamedTuple):
    """Where a URL leads to, and what is asked for there (RFC 6455 section 3)."""

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises `ValueError` for anything but a sound ws: or wss: URL."""
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is no ws: or wss: URL")
        if parts.fragment or "#" in url:
            raise ValueError("the URL of a WebSocket has no fragment")
        if parts.username is not None:
            raise ValueError("credentials go into a header, not into the URL")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(character <= " " for character in target):
            raise ValueError("the path and query of the URL must be percent-encoded")
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        return cls(parts.scheme == "wss", parts.hostname, port, target)

    @property
    def host_header(self) -> str:
        """The host as the Host header has it: without the port where that is the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = DEFAULT_PORTS["wss" if self.secure else "ws"]
        return host if self.port == default else f"{host}:{self.port}"


class Established(NamedTuple):
    """The server agreed."""

    subprotocol: str | None
    headers: Headers
    secret: bytes
    rest: bytes
    """What came after the handshake: the first frames."""


class ClientHandshake:
    """One handshake. Raises `ValueError` for headers or subprotocols that cannot be sent."""

    def __init__(
        self,
        address: Address,
        version: Version,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        origin: str | None = None,
    ) -> None:
        for name, value in (*headers, *((("Origin", origin),) if origin is not None else ())):
            check_field(name, value)
        for name in subprotocols:
            if not TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a subprotocol")
        offer = Offer(
            address.host_header, address.target, address.secure, origin, subprotocols, headers
        )
        self._offered = subprotocols
        self._hello = version.hello(offer)
        self._received = bytearray()
        self.request = self._hello.request

    def feed(self, data: bytes) -> Established | None:
        """What the server sent; gives the result once the response is complete.

        Raises `HandshakeFailed` for any response but the right one. With b"", the server has
        ended the connection.
        """
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            if not data:
                raise HandshakeFailed("the server ended the connection without a response")
            if len(self._received) > MAX_HEAD_SIZE:
                raise HandshakeFailed("the head of the response is too long")
            return None
        status, headers = _parse_head(bytes(self._received[:end]))
        body = bytes(self._received[end + 4 :])
        if status != 101:
            shown = _body_of_refusal(headers, body)
            if shown is None and data and len(body) < MAX_BODY_SHOWN:
                return None
            raise self._refusal(status, headers, body if shown is None else shown)
        if len(body) < self._hello.body_size:
            if not data:
                raise HandshakeFailed("the server ended the connection within its response")
            return None
        return self._verify(headers, body)

    def _refusal(self, status: int, headers: Headers, body: bytes) -> HandshakeFailed:
        reason = f"the server answered with HTTP status {status}"
        return HandshakeFailed(reason, status, headers.fields(), body[:MAX_BODY_SHOWN])

    def _verify(self, headers: Headers, body: bytes) -> Established:
        size = self._hello.body_size
        try:
            _check_upgrade(headers)
            secret = self._hello.verify(headers, body[:size])
            subprotocol = self._subprotocol(headers)
        except ValueError as error:
            raise HandshakeFailed(str(error), 101, headers.fields()) from None
        return Established(subprotocol, headers, secret, body[size:])

    def _subprotocol(self, headers: Headers) -> str | None:
        names = ("Sec-WebSocket-Protocol", "WebSocket-Protocol")
        chosen = [value for name in names for value in headers.get_all(name)]
        if not chosen:
            return None
        if len(chosen) > 1 or chosen[0] not in self._offered:
            raise ValueError(f"the subprotocol {', '.join(chosen)!r} was not offered")
        return chosen[0]


def _body_of_refusal(headers: Headers, body: bytes) -> bytes | None:
    """The body of an HTTP response as far as its length is told; None if more is to come."""
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        return _join_chunks(body)
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() and len(length) < 10 else 0
    return body if len(body) >= size else None


def _join_chunks(body: bytes) -> bytes | None:
    """RFC 9112 section 7.1; None if it is not whole."""
    joined = b""
    while True:
        line, end, rest = body.partition(b"\r\n")
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            return None
        if not end or len(rest) < size + 2:
            return None
        if size == 0:
            return joined
        joined, body = joined + rest[:size], rest[size + 2 :]


def _check_upgrade(headers: Headers) -> None:
    if [value.lower() for value in headers.get_all("Upgrade")] != ["websocket"]:
        raise ValueError("the Upgrade header of the response must be 'websocket'")
    connection = [token.lower() for token in tokens(headers.get_all("Connection"))]
    if "upgrade" not in connection:
        raise ValueError("the Connection header of the response must contain 'Upgrade'")


def _parse_head(head: bytes) -> tuple[int, Headers]:
    """Raises `HandshakeFailed` for what is no HTTP."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    words = status_line.split(" ", 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise HandshakeFailed(f"the response is not HTTP/1.1: {status_line[:100]!r}")
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise HandshakeFailed(f"the response has a bad header line: {line[:100]!r}")
        fields.append((name, value))
    return int(words[1]), Headers(fields)
