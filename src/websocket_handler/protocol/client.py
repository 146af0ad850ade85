"""The client's side of the opening handshake, for all versions, without I/O.

The caller sends `ClientHandshake.request` and passes the received bytes to `feed`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from ..errors import HandshakeFailed
from . import permessage_deflate
from .permessage_deflate import Compression, NegotiatedParameters
from .request import FIELD_VALUE, TOKEN, Headers, check_field, tokens
from .versions import Version
from .versions.version import Offer

MAX_HEAD_SIZE = 64 << 10
"""The largest accepted head of a response, in bytes; a larger one fails the handshake."""

MAX_BODY_SHOWN = 64 << 10
"""The part of an error response's body that `HandshakeFailed` includes, in bytes."""

DEFAULT_PORTS = {"ws": 80, "wss": 443}

HEAD_ENDS = b"\r\n\r\n"
CHUNK_STARTS = re.compile(rb"([0-9A-Fa-f]{1,8})[^\r]*\r\n")
STATUS_LINE = re.compile(r"HTTP/1\.[0-9] ([0-9]{3})(?: .*)?")
HOST = re.compile(r"[!$&'()*+,;=\-._~%0-9A-Za-z]+|[0-9A-Fa-f:.]+")
"""A name or an IPv4 address, or an IPv6 address without its brackets (RFC 3986 3.2.2)."""

OWN_HEADERS = frozenset(
    ("host", "upgrade", "connection", "origin", "content-length", "transfer-encoding")
)
OWN_PREFIXES = ("sec-websocket-", "websocket-")
"""Headers that the caller cannot set: the handshake sets them, or they would change the meaning
of the request."""


class Address(NamedTuple):
    """The parts of a WebSocket URL (RFC 6455 section 3)."""

    secure: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse `url`. Raises `ValueError` unless it is a valid ws: or wss: URL."""
        if any(character <= " " for character in url):  # urlsplit silently removes some
            raise ValueError(f"the URL {url!r} contains whitespace")
        parts = urlsplit(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{url!r} is not a ws: or wss: URL")
        if "[" in parts.netloc and not _is_ipv6(parts.hostname):  # Python 3.10 accepts names too
            raise ValueError(f"only an IPv6 address may be in brackets, not {parts.hostname!r}")
        if parts.fragment or "#" in url:
            raise ValueError("a WebSocket URL must not have a fragment")
        if parts.username is not None:
            raise ValueError("credentials must be sent in a header, not in the URL")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not FIELD_VALUE.fullmatch(target) or not target.isascii():
            raise ValueError("the path and query of the URL must be percent-encoded")
        host = parts.hostname if parts.hostname.isascii() else _in_ascii(parts.hostname)
        if not HOST.fullmatch(host):
            raise ValueError(f"{host!r} is not a valid host name")
        port = DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
        if port == 0:
            raise ValueError("port 0 is not valid")
        return cls(parts.scheme == "wss", host, port, target)

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port if it is the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = DEFAULT_PORTS["wss" if self.secure else "ws"]
        return host if self.port == default else f"{host}:{self.port}"


class Established(NamedTuple):
    """The result of a successful handshake."""

    subprotocol: str | None
    headers: Headers
    secret: bytes
    rest: bytes
    """The bytes that followed the handshake: the first frames."""
    negotiated: NegotiatedParameters | None = None


class ClientHandshake:
    """A handshake from the client's side.

    `compression` is offered to the server, unless the version does not support it; False offers
    none. Raises `ValueError` for an invalid header or subprotocol, and `UnsupportedByVersion` if
    the version can offer only one subprotocol and there are more.
    """

    def __init__(
        self,
        address: Address,
        version: Version,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        origin: str | None = None,
        compression: Compression | bool = False,
    ) -> None:
        for name, value in headers:
            check_field(name, value)
            if name.lower() in OWN_HEADERS or name.lower().startswith(OWN_PREFIXES):
                raise ValueError(f"the header {name} is set by the handshake itself")
        if origin is not None:
            check_field("Origin", origin)
        if len(set(subprotocols)) != len(subprotocols):
            raise ValueError("a subprotocol is offered twice")
        for name in subprotocols:
            if not TOKEN.fullmatch(name):
                raise ValueError(f"{name!r} cannot be the name of a subprotocol")
        self._compressions: list[Compression] = []
        if isinstance(compression, Compression) and version._is_native:
            self._compressions = permessage_deflate.offers(compression)
        offer = Offer(
            address.host_header,
            address.target,
            address.secure,
            origin,
            subprotocols,
            headers,
            ", ".join(map(permessage_deflate.offer, self._compressions)),
        )
        self._offered = subprotocols
        self._client_request = version._client_request(offer)
        self._received = bytearray()
        self._searched = 0  # bytes of it in which the end of the head does not begin
        self._head: tuple[int, Headers] | None = None
        self._body_size = 0  # bytes to wait for after the head
        self.request: bytes = self._client_request.request

    def feed(self, data: bytes) -> Established | None:
        """Process bytes from the server; return the result once the response is complete.

        b"" means that the server has closed the connection. Raises `HandshakeFailed` if the
        response does not accept the handshake.
        """
        self._received += data
        head = self._head or self._read_head()
        if head is None:
            if not data:
                raise HandshakeFailed("the server closed the connection without a response")
            return None
        status, headers = head
        if data and len(self._received) < self._body_size:
            return None
        if status != 101:
            body = _body_shown(headers, bytes(self._received[:MAX_BODY_SHOWN]))
            if body is None and data and len(self._received) < MAX_BODY_SHOWN:
                return None
            raise self._refusal(status, headers, body)
        if len(self._received) < self._body_size:
            raise HandshakeFailed("the server closed the connection within its response")
        return self._verify(headers)

    def _read_head(self) -> tuple[int, Headers] | None:
        """Remove the head from the received bytes and return it, None if it is incomplete."""
        end = self._received.find(HEAD_ENDS, self._searched)
        if max(end, len(self._received) if end < 0 else 0) > MAX_HEAD_SIZE:
            raise HandshakeFailed("the head of the response is too long")
        if end < 0:
            self._searched = max(0, len(self._received) - len(HEAD_ENDS) + 1)
            return None
        head = bytes(self._received[:end])
        del self._received[: end + len(HEAD_ENDS)]
        status, headers = self._head = _parse_head(head)
        self._body_size = self._client_request.body_size if status == 101 else _body_size(headers)
        return self._head

    def _refusal(self, status: int, headers: Headers, body: bytes | None) -> HandshakeFailed:
        reason = f"the server answered with HTTP status {status}"
        return HandshakeFailed(reason, status, headers.fields(), body or b"")

    def _verify(self, headers: Headers) -> Established:
        size = self._client_request.body_size
        try:
            _check_upgrade(headers)
            secret = self._client_request.verify(headers, bytes(self._received[:size]))
            subprotocol = self._subprotocol(headers)
            negotiated = self._negotiated(headers)
        except ValueError as error:
            raise HandshakeFailed(str(error), 101, headers.fields()) from None
        return Established(subprotocol, headers, secret, bytes(self._received[size:]), negotiated)

    def _negotiated(self, headers: Headers) -> NegotiatedParameters | None:
        if not self._compressions:
            return None
        values = headers.get_all(permessage_deflate.HEADER)
        return permessage_deflate.confirm_offers(values, self._compressions)

    def _subprotocol(self, headers: Headers) -> str | None:
        chosen = headers.get_all(self._client_request.subprotocol_header)
        if not chosen:
            if self._offered and self._client_request.needs_subprotocol:
                raise ValueError(f"the server did not take the subprotocol {self._offered[0]!r}")
            return None
        if len(chosen) > 1 or chosen[0] not in self._offered:
            raise ValueError(f"the subprotocol {', '.join(chosen)!r} was not offered")
        return chosen[0]


def _is_ipv6(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False


def _in_ascii(host: str) -> str:
    """Return an internationalized name in its ASCII form (RFC 3490)."""
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        raise ValueError(f"{host!r} is not a valid host name") from None


def _body_size(headers: Headers) -> int:
    """Return the number of bytes of an error response's body to wait for."""
    length = headers.get("Content-Length", "")
    if not length and headers.get("Connection", "").lower() == "close":
        return MAX_BODY_SHOWN  # it ends with the connection
    return min(int(length), MAX_BODY_SHOWN) if re.fullmatch(r"[0-9]{1,9}", length) else 0


def _body_shown(headers: Headers, body: bytes) -> bytes | None:
    """Return the body of an error response, with its chunks joined (RFC 9112 section 7.1).

    Returns None if a chunked body is incomplete.
    """
    if "chunked" not in headers.get("Transfer-Encoding", "").lower():
        return body
    if not body.endswith(b"0\r\n\r\n"):
        return None
    joined = b""
    while chunk := CHUNK_STARTS.match(body):
        start, size = chunk.end(), int(chunk[1], 16)
        joined, body = joined + body[start : start + size], body[start + size + 2 :]
    return joined


def _check_upgrade(headers: Headers) -> None:
    if [value.lower() for value in headers.get_all("Upgrade")] != ["websocket"]:
        raise ValueError("the Upgrade header of the response must be 'websocket'")
    connection = [token.lower() for token in tokens(headers.get_all("Connection"))]
    if "upgrade" not in connection:
        raise ValueError("the Connection header of the response must contain 'Upgrade'")


def _parse_head(head: bytes) -> tuple[int, Headers]:
    """Return status and headers. Raises `HandshakeFailed` if `head` is not valid HTTP."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    found = STATUS_LINE.fullmatch(status_line)
    if found is None:
        raise HandshakeFailed(f"the response is not HTTP/1.1: {status_line[:100]!r}")
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise HandshakeFailed(f"the response has an invalid header line: {line[:100]!r}")
        fields.append((name, value))
    return int(found[1]), Headers(fields)
