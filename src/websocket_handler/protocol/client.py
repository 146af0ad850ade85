"""The client's side of the opening handshake, for all versions, without I/O.

The caller sends `ClientHandshake.request` and passes the received bytes to `feed`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import HandshakeFailed
from . import permessage_deflate
from .permessage_deflate import Compression, CompressionOption, NegotiatedParameters
from .request import FIELD_VALUE, TOKEN, Headers, check_field, tokens
from .versions import Version
from .versions.version import Offer

MAX_HEAD_SIZE = 64 << 10
"""The largest accepted head of a response, in bytes; a larger one fails the handshake."""

MAX_BODY_SHOWN = 64 << 10
"""The part of an error response's body that `HandshakeFailed` includes, in bytes."""

MAX_INTERIM_RESPONSES = 10
"""The maximum number of responses with a status of 100 to 199 before the final one."""

DEFAULT_PORTS = {"ws": 80, "wss": 443}

HTTP = b"HTTP/"
HEAD_ENDS = b"\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
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
    authorization: str | None = None
    """The value of an Authorization header, from the user and password in the URL."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse `url`. Raises `ValueError` unless it is a valid ws: or wss: URL."""
        parts = split_url(url)
        if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{without_password(url)!r} is not a ws: or wss: URL")
        if parts.fragment or "#" in url:
            raise ValueError("a WebSocket URL must not have a fragment")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not FIELD_VALUE.fullmatch(target) or not target.isascii():
            raise ValueError("the path and query of the URL must be percent-encoded")
        host, port = host_and_port(parts, DEFAULT_PORTS[parts.scheme])
        return cls(parts.scheme == "wss", host, port, target, basic_authorization(parts))

    @property
    def origin(self) -> tuple[bool, str, int]:
        """The scheme, host and port, for which credentials are valid (RFC 6454)."""
        return self.secure, self.host, self.port

    @property
    def authority(self) -> str:
        """The host and port, as in a CONNECT request."""
        return f"{self._host_in_url}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of the Host header: without the port if it is the default port."""
        default = DEFAULT_PORTS["wss" if self.secure else "ws"]
        return self._host_in_url if self.port == default else self.authority

    @property
    def _host_in_url(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


class Established(NamedTuple):
    """The result of a successful handshake."""

    subprotocol: str | None
    headers: Headers
    secret: bytes
    rest: bytes
    """The bytes that followed the handshake: the first frames."""
    negotiated: NegotiatedParameters | None = None


class ResponseHead:
    """Reads the head of a response, after any interim responses (RFC 9110 section 15.2)."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._searched = 0  # bytes of it in which the end of the head does not begin
        self._interim_responses = 0

    def feed(self, data: bytes) -> tuple[int, Headers, bytes] | None:
        """Process received bytes. Returns the status, the headers and the bytes after the head
        once it is complete. Raises `HandshakeFailed` if it is not a valid head of HTTP/1.1."""
        self._received += data
        while (head := self._next_head()) is not None:
            status, headers = parse_head(head)
            if status == 101 or not 100 <= status < 200:
                return status, headers, bytes(self._received)
            self._interim_responses += 1
            if self._interim_responses > MAX_INTERIM_RESPONSES:
                raise HandshakeFailed("the server sent too many interim responses", status)
        return None

    def _next_head(self) -> bytes | None:
        if not self._received.startswith(HTTP[: len(self._received)]):  # do not wait for more
            raise _not_http(self._received.decode("latin-1"))
        end = self._received.find(HEAD_ENDS, self._searched)
        if max(end, len(self._received) if end < 0 else 0) > MAX_HEAD_SIZE:
            raise HandshakeFailed("the head of the response is too long")
        if end < 0:
            self._searched = max(0, len(self._received) - len(HEAD_ENDS) + 1)
            return None
        head = bytes(self._received[:end])
        del self._received[: end + len(HEAD_ENDS)]
        self._searched = 0
        return head


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
        compression: CompressionOption = False,
    ) -> None:
        for name, value in headers:
            check_field(name, value)
            if name.lower() in OWN_HEADERS or name.lower().startswith(OWN_PREFIXES):
                raise ValueError(f"the header {name} is set by the handshake itself")
        if origin is not None:
            check_field("Origin", origin)
        if isinstance(subprotocols, str) or not isinstance(subprotocols, Sequence):
            kind = type(subprotocols).__name__
            raise TypeError(f'subprotocols must be a sequence, such as ["chat"], not {kind}')
        if len(set(subprotocols)) != len(subprotocols):
            raise ValueError("a subprotocol is offered twice")
        for name in subprotocols:
            if not isinstance(name, str) or not TOKEN.fullmatch(name):
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
        self._response_head = ResponseHead()
        self._head: tuple[int, Headers] | None = None
        self._received = bytearray()  # after the head
        self._body_size = 0  # bytes to wait for after the head
        self.request: bytes = self._client_request.request

    def feed(self, data: bytes) -> Established | None:
        """Process bytes from the server; return the result once the response is complete.

        b"" means that the server has closed the connection. Raises `HandshakeFailed` if the
        response does not accept the handshake.
        """
        if self._head is None:
            self._read_head(data)
        else:
            self._received += data
        if self._head is None:
            if not data:
                raise HandshakeFailed("the server closed the connection without a response")
            return None
        status, headers = self._head
        if data and not self._has_body(headers):
            return None
        if status != 101:
            raise self._refusal(status, headers)
        if not self._has_body(headers):
            raise HandshakeFailed("the server closed the connection within its response")
        return self._verify(headers)

    @property
    def is_refused(self) -> bool:
        """Whether the server has refused: `feed` raises `HandshakeFailed` once the body of the
        response is complete, or with b""."""
        return self._head is not None and self._head[0] != 101

    def _read_head(self, data: bytes) -> None:
        found = self._response_head.feed(data)
        if found is not None:
            status, headers, rest = found
            self._head, self._received = (status, headers), bytearray(rest)
            self._body_size = (
                self._client_request.body_size if status == 101 else _body_size(status, headers)
            )

    def _has_body(self, headers: Headers) -> bool:
        """Whether the body is complete, or its shown part."""
        if len(self._received) >= self._body_size:
            return True
        return is_chunked(headers) and self._received.endswith(LAST_CHUNK)

    def _refusal(self, status: int, headers: Headers) -> HandshakeFailed:
        reason = f"the server answered with HTTP status {status}"
        body = bytes(self._received[: self._body_size])
        shown = _join_chunks(body) if is_chunked(headers) else body
        return HandshakeFailed(reason, status, headers.fields(), shown)

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


def split_url(url: str) -> SplitResult:
    """Split `url`. Raises `ValueError` for whitespace, for brackets around a name, and for brackets
    that do not match; `TypeError` if it is not a str."""
    if not isinstance(url, str):
        raise TypeError(f"a URL is a str, not {type(url).__name__}")
    if any(character <= " " for character in url):  # urlsplit silently removes some
        raise ValueError(f"the URL {without_password(url)!r} contains whitespace")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"{without_password(url)!r} is not a URL: {error}") from None
    if "[" in parts.netloc and not _is_ipv6(parts.hostname or ""):  # Python 3.10 accepts names too
        raise ValueError(f"only an IPv6 address may be in brackets, not {parts.hostname!r}")
    return parts


def host_and_port(parts: SplitResult, default_port: int) -> tuple[str, int]:
    """Return the host in ASCII and the port of a URL. Raises `ValueError` if one is not valid."""
    host = host_in_ascii(parts.hostname or "")
    try:
        port = default_port if parts.port is None else parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"the port of {host!r} is not a number from 1 to 65535")
    return host, port


def user_and_password(parts: SplitResult) -> tuple[str, str] | None:
    """Return the user and the password of a URL, percent-decoded; None if it has none.

    Raises `ValueError` for control characters and for a colon in the user's name.
    """
    if parts.username is None:
        return None
    user, password = unquote(parts.username), unquote(parts.password or "")
    if ":" in user or not (user + password).isprintable():
        raise ValueError("the user or the password in the URL is not valid")
    return user, password


def basic_authorization(parts: SplitResult) -> str | None:
    """Return the credentials of a URL as the Basic scheme has them (RFC 7617); None without any."""
    pair = user_and_password(parts)
    return pair and f"Basic {base64.b64encode(':'.join(pair).encode()).decode()}"


def without_password(url: str) -> str:
    """Return `url` for an error message, which may be logged."""
    return re.sub(r"//[^/?#]*@", "//…@", url)


def _is_ipv6(host: str) -> bool:
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False


def host_in_ascii(host: str) -> str:
    """Return an address, or a name in its ASCII form (RFC 3490). Raises `ValueError` if it is not
    valid."""
    try:
        encoded = host.encode("idna").decode()
    except UnicodeError:  # also for an empty or a long label
        encoded = ""
    if not HOST.fullmatch(encoded):
        raise ValueError(f"{host!r} is not a valid host name")
    return encoded


def _body_size(status: int, headers: Headers) -> int:
    """Return the number of bytes of an error response's body to wait for.

    A body without Content-Length lasts until its last chunk, or until the end of the connection
    (RFC 9112 section 6.3).
    """
    if status in (204, 304):
        return 0
    if "Content-Length" not in headers or is_chunked(headers):
        return MAX_BODY_SHOWN
    length = headers.get("Content-Length", "")
    return min(int(length), MAX_BODY_SHOWN) if re.fullmatch(r"[0-9]{1,9}", length) else 0


def is_chunked(headers: Headers) -> bool:
    """Whether the body of a message consists of chunks (RFC 9112 section 7.1)."""
    return "chunked" in headers.get("Transfer-Encoding", "").lower()


def _join_chunks(body: bytes) -> bytes:
    """Return the content of a chunked body, as far as it was received (RFC 9112 section 7.1)."""
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


def _not_http(received: str) -> HandshakeFailed:
    line = received.partition("\r\n")[0][:100]
    return HandshakeFailed(f"the response is not HTTP/1.1: {line!r}")


def parse_head(head: bytes) -> tuple[int, Headers]:
    """Return status and headers. Raises `HandshakeFailed` if `head` is not valid HTTP."""
    status_line, *lines = head.decode("latin-1").split("\r\n")
    found = STATUS_LINE.fullmatch(status_line)
    if found is None:
        raise _not_http(status_line)
    fields = []
    for line in lines:
        name, colon, value = line.partition(":")
        value = value.strip(" \t")
        if not colon or not TOKEN.fullmatch(name) or not FIELD_VALUE.fullmatch(value):
            raise HandshakeFailed(f"the response has an invalid header line: {line[:100]!r}")
        fields.append((name, value))
    return int(found[1]), Headers(fields)
