"""The origins of web pages: how they are written in `allowed_origins`, and how they compare.

An origin is a scheme, a host and a port (RFC 6454), or "null". A page's origin is what the
browser sends; a pattern is one entry of `allowed_origins`.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Collection
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

ANY_ORIGIN = "*"
NULL = "null"

DEFAULT_PORTS = {"http": 80, "https": 443}
WEBSOCKET_SCHEMES = {"ws": "http", "wss": "https"}

SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*")
HOST_NAME = re.compile(r"[a-z0-9_\-]+(?:\.[a-z0-9_\-]+)*\.?")
PORT = re.compile(r"[0-9]{1,5}")


USUAL_HOST = re.compile(r"[A-Za-z0-9.\-]+(?::[1-5]?[0-9]{1,4})?", re.ASCII)
"""A Host header that is the host of an origin as it is, and needs no parser."""


class Origin(NamedTuple):
    """The origin of a page, in one spelling. `port` is None where the scheme has no default."""

    scheme: str
    host: str
    port: int | None


class Pattern(NamedTuple):
    """The origins that one entry of `allowed_origins` stands for.

    `scheme` None stands for http and https, `port` None for the scheme's default. `host` ""
    with `has_subdomains` stands for every host.
    """

    scheme: str | None
    host: str
    port: int | None
    has_subdomains: bool = False
    has_host: bool = True
    has_any_port: bool = False

    def matches(self, origin: Origin) -> bool:
        if self.scheme is None:
            if origin.scheme not in DEFAULT_PORTS:
                return False
        elif origin.scheme != self.scheme:
            return False
        port = DEFAULT_PORTS.get(origin.scheme) if self.port is None else self.port
        if not self.has_any_port and origin.port != port:
            return False
        if self.has_host and origin.host == self.host:
            return True
        suffix = f".{self.host}" if self.host else ""
        return self.has_subdomains and origin.host.endswith(suffix) and origin.host != suffix


class Allowed(NamedTuple):
    """The origins that `allowed_origins` allows."""

    is_any: bool
    is_null: bool
    patterns: tuple[Pattern, ...]

    def matches(self, origin: str) -> bool:
        """Whether a page of this origin may connect, given as the browser sends it."""
        if self.is_any:
            return True
        if origin == NULL:
            return self.is_null
        parsed = parse_origin(origin)
        return parsed is not None and any(pattern.matches(parsed) for pattern in self.patterns)


def parse_origin(origin: str) -> Origin | None:
    """The origin that a browser has sent; None for "null" and for anything else."""
    scheme, separator, rest = origin.partition("://")
    scheme = scheme.lower()
    if not separator or not SCHEME.fullmatch(scheme) or set("/?#@\\*") & set(rest):
        return None
    if scheme not in DEFAULT_PORTS:  # an application's own: its host may be anything
        return Origin(scheme, rest.lower(), None)
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname:
        return None
    return Origin(scheme, parts.hostname, DEFAULT_PORTS[scheme] if port is None else port)


def scheme_of_own_origin(origin: str, host: str) -> str | None:
    """Return "http" or "https" if a page with this origin and scheme is of the `host`, which is
    the Host header of a request; None if it is of another one."""
    scheme, _, rest = origin.partition("://")
    if rest == host and scheme in DEFAULT_PORTS and USUAL_HOST.fullmatch(host):
        return scheme
    parsed = parse_origin(origin)
    if parsed is None or parsed.scheme not in DEFAULT_PORTS:
        return None
    return parsed.scheme if parsed == parse_origin(f"{parsed.scheme}://{host}") else None


@lru_cache(maxsize=256)
def allowed(origins: frozenset[str]) -> Allowed:
    """Raises `ValueError`, which names it, for an entry that stands for no origin."""
    others = [origin for origin in sorted(origins) if origin not in (ANY_ORIGIN, NULL)]
    patterns = tuple(parse_pattern(origin) for origin in others)
    return Allowed(ANY_ORIGIN in origins, NULL in origins, patterns)


def check(origins: Collection[str] | str) -> frozenset[str]:
    """The entries of `allowed_origins`, once all are known to stand for an origin.

    Raises `TypeError` for anything but str in a collection, or "*" alone; `ValueError` as
    `allowed` does.
    """
    if isinstance(origins, str) and origins != ANY_ORIGIN:
        raise TypeError(f"allowed_origins is a collection, such as [{origins!r}], not one string")
    entries = frozenset(origins)
    for entry in entries:
        if not isinstance(entry, str):
            raise TypeError(f"allowed_origins holds str, not {entry!r}")
    allowed(entries)
    return entries


def parse_pattern(entry: str) -> Pattern:
    """Raises `ValueError` for an entry that stands for no origin."""
    scheme, separator, rest = entry.partition("://")
    if not separator:
        return _http_pattern(entry, None, entry.removesuffix("/"))
    scheme = WEBSOCKET_SCHEMES.get(scheme.lower(), scheme.lower())
    rest = rest.removesuffix("/")
    if not SCHEME.fullmatch(scheme):
        raise _refusal(entry, f"{scheme!r} is no scheme")
    if scheme in DEFAULT_PORTS:
        return _http_pattern(entry, scheme, rest)
    if rest == ANY_ORIGIN:
        return Pattern(scheme, "", None, has_subdomains=True, has_host=False)
    if not rest.isprintable() or set("/?#@\\* ,") & set(rest):
        raise _refusal(entry, "an origin is a scheme and a host")
    return Pattern(scheme, rest.lower(), None)


def _http_pattern(entry: str, scheme: str | None, authority: str) -> Pattern:
    """A host and perhaps a port, of http and https or one of them."""
    if "@" in authority:
        raise _refusal(entry, "an origin has no user name")
    if set("/?#\\") & set(authority):
        raise _refusal(entry, "an origin has no path: a scheme, a host and a port are all")
    if set(", \t") & set(authority):
        raise _refusal(entry, "several origins are a list")
    host, port = _split_port(entry, authority)
    has_any_port = port == ANY_ORIGIN
    number = None if has_any_port or port is None else _port_number(entry, port)
    if host == ANY_ORIGIN:
        return Pattern(scheme, "", number, True, has_host=False, has_any_port=has_any_port)
    has_subdomains = host.startswith(("*.", "."))
    has_host = not host.startswith("*.")
    name = _host_name(entry, host.removeprefix("*").removeprefix(".") if has_subdomains else host)
    return Pattern(scheme, name, number, has_subdomains, has_host, has_any_port)


def _split_port(entry: str, authority: str) -> tuple[str, str | None]:
    address, bracket, rest = authority.partition("]")
    if bracket:
        if not address.startswith("[") or ":" not in address or (rest and not rest.startswith(":")):
            raise _refusal(entry, "an IPv6 address is written in brackets")
        return address[1:], rest[1:] if rest else None
    if authority.count(":") > 1:  # an IPv6 address without its brackets
        return authority, None
    host, colon, port = authority.partition(":")
    return host, port if colon else None


def _port_number(entry: str, port: str) -> int:
    if not PORT.fullmatch(port) or not 0 < int(port) < 1 << 16:
        raise _refusal(entry, f"{port!r} is no port")
    return int(port)


def _host_name(entry: str, host: str) -> str:
    """The host as browsers write it: in lower case, an international name in Punycode."""
    if ":" in host:
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError:
            raise _refusal(entry, f"{host!r} is no IPv6 address") from None
    if "*" in host:
        raise _refusal(entry, "an asterisk stands for a whole host, all its subdomains or its port")
    name = ".".join(map(_ascii_label, unicodedata.normalize("NFKC", host.lower()).split(".")))
    if not HOST_NAME.fullmatch(name):
        raise _refusal(entry, f"{host!r} is no host")
    return name


def _ascii_label(label: str) -> str:
    return label if label.isascii() else "xn--" + label.encode("punycode").decode()


def _refusal(entry: str, reason: str) -> ValueError:
    return ValueError(
        f"{entry!r} in allowed_origins: {reason} (such as https://example.com, "
        'https://*.example.com, example.com:8080, "null" or "*")'
    )
