"""The HTTP request of an opening handshake.

This module knows the syntax of HTTP headers, but no socket and no HTTP server: an integration
creates a `Request` from the request that its server has parsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from typing import NamedTuple, Protocol, TypeVar, overload
from urllib.parse import parse_qs

from .printable import printable

Default = TypeVar("Default")

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)
"""RFC 9110 section 5.6.2."""

FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
"""RFC 9110 section 5.5: no control characters, so a value cannot start a new line."""


class Headers(MutableMapping[str, str]):
    """HTTP header fields in their order, with case-insensitive names.

    `headers[name]` joins the values of repeated fields with ", " (RFC 9110 section 5.3),
    `get_all` returns them separately and `add` appends a field. Setting or adding a field raises
    `ValueError` if the name is not a token or the value contains a control character.
    """

    __slots__ = ("_fields", "_index")

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: list[tuple[str, str]] = list(fields)
        self._index: dict[str, str | list[str]] | None = None  # see `_index_of`

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    @overload
    def get(self, name: str, default: None = None, /) -> str | None: ...
    @overload
    def get(self, name: str, default: Default, /) -> str | Default: ...
    def get(self, name: str, default: object = None, /) -> object:
        """Return `headers[name]`, or `default` if there is no such field."""
        found = (self._index or self._by_name()).get(name.lower())
        if found is None:
            return default
        return found if isinstance(found, str) else ", ".join(found)

    def __setitem__(self, name: str, value: str) -> None:
        check_field(name, value)
        self._discard(name)
        self.add(name, value)

    def __delitem__(self, name: str) -> None:
        if not self._discard(name):
            raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in (self._index or self._by_name())

    def __iter__(self) -> Iterator[str]:
        return iter({name.lower(): name for name, _ in self._fields}.values())

    def clear(self) -> None:
        """Remove all fields."""
        self._fields, self._index = [], None

    def __len__(self) -> int:
        return len({name.lower() for name, _ in self._fields})

    def __repr__(self) -> str:
        return f"Headers({self._fields!r})"

    def add(self, name: str, value: str) -> None:
        """Append a field and keep those of the same name, as `Set-Cookie` needs it."""
        check_field(name, value)
        self._fields.append((name, value))
        self._index = None

    def get_all(self, name: str) -> list[str]:
        """Return the values of all fields called `name`, in order."""
        found = (self._index or self._by_name()).get(name.lower())
        if found is None:
            return []
        return [found] if isinstance(found, str) else found.copy()

    def has_none_of(self, names: frozenset[str]) -> bool:
        """Whether there is no field with one of the `names`, which are in lower case."""
        return (self._index or self._by_name()).keys().isdisjoint(names)

    def _by_name(self) -> dict[str, str | list[str]]:
        if self._index is None:
            self._index = _index_of(self._fields)
        return self._index

    def fields(self) -> list[tuple[str, str]]:
        """Return all fields as (name, value), in order, including repetitions."""
        return list(self._fields)

    def _discard(self, name: str) -> bool:
        wanted, before = name.lower(), len(self._fields)
        self._fields = [field for field in self._fields if field[0].lower() != wanted]
        self._index = None
        return len(self._fields) != before


def _index_of(fields: list[tuple[str, str]]) -> dict[str, str | list[str]]:
    """Return the value of each field by its name in lower case; a list if the name is repeated."""
    index: dict[str, str | list[str]] = {name.lower(): value for name, value in fields}
    if len(index) < len(fields):
        lists: dict[str, list[str]] = {}
        for name, value in fields:
            lists.setdefault(name.lower(), []).append(value)
        index.update((name, values) for name, values in lists.items() if len(values) > 1)
    return index


def check_field(name: str, value: str) -> None:
    """Raise `ValueError` unless name and value are valid in an HTTP head, `TypeError` unless both
    are str."""
    if not isinstance(name, str) or not isinstance(value, str):
        raise TypeError(f"the name and the value of the header {name!r} must be str")
    if not TOKEN.fullmatch(name):
        raise ValueError(f"invalid header name: {name!r}")
    if not FIELD_VALUE.fullmatch(value):
        raise ValueError(f"the header {name} must not contain {value!r}")


def field_list(fields: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return header fields as a list. Raises the errors of `check_field`, and `TypeError` unless
    they are a mapping or pairs."""
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    checked = []
    for pair in pairs if isinstance(pairs, Iterable) else (pairs,):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            kind = type(fields).__name__
            raise TypeError(f"headers are a mapping, or pairs of name and value, not {kind}")
        name, value = pair
        check_field(name, value)
        checked.append((name, value))
    return checked


def head(start_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return an HTTP head of fields that are known to be valid."""
    lines = [start_line, *[f"{name}: {value}" for name, value in fields], "", ""]
    return "\r\n".join(lines).encode("latin-1")


def tokens(values: Iterable[str]) -> list[str]:
    """Return the elements of a comma-separated list in several header fields
    (RFC 9110 section 5.6.1)."""
    return [item.strip(" \t") for value in values for item in value.split(",") if item.strip(" \t")]


class Forwarded(NamedTuple):
    """The part of a request that a proxy in front of the server replaces, and that the server
    or its middleware restores from the proxy's headers (RFC 7239)."""

    remote_address: object
    scheme: str
    host: str | None


NO_ADDRESSES = ("", "0.0.0.0", "localhost", "<local>", "unix")  # noqa: S104
"""The names that servers give to the other end of a Unix socket, in place of an address."""


def address_of(host: object, port: object = 0) -> tuple[str, int] | None:
    """The address of a peer, None for one that has none: it came over a Unix socket."""
    if not isinstance(host, str) or host in NO_ADDRESSES or host.startswith("unix:"):
        return None
    return host, int(port) if str(port).isdecimal() else 0  # type: ignore[call-overload]


def http_scheme(scheme: object) -> str:
    """Return "https" for a scheme that uses TLS, otherwise "http".

    Some servers and proxies, such as Traefik, call the scheme of a handshake "ws" or "wss".
    """
    return "https" if scheme in ("wss", "https") else "http"


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """The HTTP request as the server parsed it.

    `target` is the request target as in the request line. `remote_address` is the peer's address
    in the server's form, usually a (host, port) tuple. `scheme` is "http" or "https".
    """

    method: str
    target: str
    headers: Headers
    http_version: str = "1.1"
    remote_address: object = None
    scheme: str = "http"
    received: Forwarded | None = None
    """Address, scheme and host as the server passed them on, if middleware has changed them."""

    def __repr__(self) -> str:
        """Return method and target, but no headers, which may contain secrets."""
        return f"<Request {printable(self.method)} {printable(self.target)}>"

    def with_forwarded(self, forwarded: Forwarded) -> Request:
        """The request as the application sees it: this one if nothing differs. A Host header
        that is missing, or there twice, stays so."""
        address, scheme, host = forwarded
        headers = self.headers
        hosts = headers.get_all("Host")
        if host is not None and len(hosts) == 1 and hosts[0] != host:
            headers = Headers(headers.fields())
            headers["Host"] = host
        elif (address, scheme) == (self.remote_address, self.scheme):
            return self
        received = self.received or self._own_forwarded
        return replace(
            self, remote_address=address, scheme=scheme, headers=headers, received=received
        )

    @property
    def _own_forwarded(self) -> Forwarded:
        return Forwarded(self.remote_address, self.scheme, self.headers.get("Host"))

    def as_received(self) -> Request:
        """Return the request without the changes that middleware has made."""
        return self if self.received is None else self.with_forwarded(self.received)

    @property
    def path(self) -> str:
        """The target without its query, percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The decoded query parameters, with all values of each."""
        return parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies by name; empty if the Cookie header is invalid."""
        try:
            jar = SimpleCookie("; ".join(self.headers.get_all("Cookie")))
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in jar.items()}

    @property
    def tls(self) -> bool:
        """Whether the request arrived over TLS, according to the HTTP server."""
        return self.scheme == "https"


class _FindsHeaders(Protocol):
    def get(self, name: str, /) -> str | None: ...


def is_websocket_request(method: str, headers: _FindsHeaders) -> bool:
    """Whether a request asks for a WebSocket, of any version.

    `headers` is a mapping that finds the name `Upgrade` or `upgrade`, such as a dict, an
    `http.client.HTTPMessage` or a `Headers`. The handshake can still be invalid:
    `WebSocket.connect` checks it and sends the response.
    """
    upgrade = headers.get("Upgrade") or headers.get("upgrade") or ""
    return method == "GET" and "websocket" in (item.lower() for item in tokens([upgrade]))
