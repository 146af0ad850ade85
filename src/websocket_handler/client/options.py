"""The options of the client and their defaults."""

from __future__ import annotations

import os
import ssl as ssl_module
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from socket import SOCK_STREAM, socket
from typing import TYPE_CHECKING, Any, TypeAlias

from ..engine import Engine
from ..protocol.client import host_in_ascii
from ..protocol.request import field_list
from ..protocol.versions import DEFAULT_VERSIONS, Version, by_name
from ..settings import Settings, SettingsOptions, check_names, with_options
from .proxy_url import ProxyUrl
from .retrying import backoff, process_exception

if TYPE_CHECKING:
    from http.cookiejar import CookieJar  # imports the HTTP client of Python

    from typing_extensions import Unpack

HeaderFields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
"""Header fields, as a mapping or as pairs of name and value."""

MAX_REDIRECTS_LIMIT = 100
"""The largest value of `max_redirects`."""


@dataclass(frozen=True)
class ClientSettings:
    """The options that only a client has."""

    version: Version | str = DEFAULT_VERSIONS[0]
    """The protocol version, one of `ALL_VERSIONS` or its name. Default: RFC 6455."""

    subprotocols: Sequence[str] = ()
    """The offered subprotocols, in the order of preference. Default: none."""

    additional_headers: HeaderFields = ()
    """Header fields to send in addition to those of the handshake. An `Authorization` field
    replaces the user and the password of the URL."""

    cookies: CookieJar | None = None
    """The cookies to send, for the host and path of the URL. Those that a response to a handshake
    sets, also a refusal or a redirect, are stored in it. Not used if `additional_headers` has a
    `Cookie` field. Default: none are sent."""

    origin: str | None = None
    """The value of the Origin header. None, the default, sends none."""

    user_agent_header: str | None = ""
    """The value of the User-Agent header. Default: the versions of this library and of Python.
    None sends no header."""

    ssl: ssl_module.SSLContext | bool | None = None
    """The TLS context for wss: URLs. None or True, the default, is
    `ssl.create_default_context()`, which verifies the server's certificate. All connections share
    it, because to read the system's authorities takes tens of milliseconds. False does not verify
    the certificate: anyone on the network path can then read and change all data."""

    server_hostname: str | None = None
    """The name that the server's certificate must have. Default: the host of the URL."""

    proxy: str | bool | None = True
    """The URL of a proxy: http:, https:, socks4:, socks4a:, socks5: or socks5h:, with a user and
    a password if it needs them. True, the default, takes it from the environment (`HTTP_PROXY`
    for ws:, `HTTPS_PROXY` for wss:, `ALL_PROXY`, `NO_PROXY`). False or None uses no proxy."""

    proxy_ssl: ssl_module.SSLContext | None = None
    """The TLS context for an https: proxy. Default: `ssl.create_default_context()`."""

    unix: str | bytes | os.PathLike[str] | None = None
    """The path of a Unix socket to connect to, in place of the URL's host and port. No proxy is
    used then."""

    sock: socket | None = None
    """A connected stream socket to use. The call owns it, and closes it if it fails. No proxy is
    used, and no redirect is followed."""

    local_addr: tuple[str, int] | None = None
    """The local address and port to connect from. Default: chosen by the system."""

    max_redirects: int = 10
    """The maximum number of redirects that are followed. A redirect from wss: to ws: is never
    followed."""

    redirect_hosts: Collection[str] = ()
    """The hosts, beside the URL's own, to which redirects are followed; "*" stands for all. An
    `Authorization` or `Cookie` header is not sent to another host, port or scheme."""

    engine: Engine | None = None
    """The engine that serves the connection. Default: for `aconnect()`, the engine that runs in
    the calling event loop; for `connect()`, `default_engine()`, which has threads of its own."""

    process_exception: Callable[[Exception], Exception | None] = process_exception
    """Decides, when reconnecting, about the error of an attempt: returns None to try again, or
    the error to raise. Default: `websocket_handler.client.process_exception`."""

    reconnect_delays: Callable[[], Iterable[float]] = backoff
    """Returns the delays between attempts to reconnect, in seconds. When there are no more, the
    last error is raised. Default: `websocket_handler.client.backoff`."""

    def __post_init__(self) -> None:
        if isinstance(self.version, str):
            object.__setattr__(self, "version", by_name(self.version))
        self._check_types()
        if isinstance(self.proxy, str):
            ProxyUrl.parse(self.proxy)
        if self.server_hostname is not None:
            host_in_ascii(self.server_hostname)
        if self.sock is not None:
            check_socket(self.sock)
        if self.sock is not None and self.unix is not None:
            raise ValueError("sock and unix cannot be combined")
        if isinstance(self.proxy, str) and (self.sock is not None or self.unix is not None):
            raise ValueError("a proxy cannot be combined with sock or unix")
        if not 0 <= self.max_redirects <= MAX_REDIRECTS_LIMIT:
            raise ValueError(f"max_redirects cannot be {self.max_redirects!r}")

    def _check_types(self) -> None:
        """Raise `TypeError` for a value that would fail later with an error that does not name the
        option, or be misunderstood."""
        context = ssl_module.SSLContext
        for name, types, expected in (
            ("version", Version, "a Version or its name"),
            ("ssl", context | bool | None, "an SSLContext, True, False or None"),
            ("server_hostname", str | None, "a str or None"),
            ("proxy", str | bool | None, "a URL, True, False or None"),
            ("proxy_ssl", context | None, "an SSLContext or None"),
            ("sock", socket | None, "a connected socket or None"),
            ("max_redirects", int, "a number"),
            ("engine", Engine | None, "an Engine or None"),
        ):
            require(name, isinstance(getattr(self, name), types), expected)
        cookies, hosts, address = self.cookies, self.redirect_hosts, self.local_addr
        is_jar = cookies is None or hasattr(cookies, "add_cookie_header")
        require("cookies", is_jar, "an http.cookiejar.CookieJar or None")
        is_collection = isinstance(hosts, Collection) and not isinstance(hosts, str)
        require("redirect_hosts", is_collection, "a collection of names")
        is_pair = address is None or (isinstance(address, tuple) and len(address) >= 2)
        require("local_addr", is_pair, "an address and a port, or None")
        require("process_exception", callable(self.process_exception), "a function")
        require("reconnect_delays", callable(self.reconnect_delays), "a function")

    @property
    def header_fields(self) -> list[tuple[str, str]]:
        """The additional headers as pairs of name and value."""
        return field_list(self.additional_headers)


def require(option: str, is_valid: bool, expected: str) -> None:
    if not is_valid:
        raise TypeError(f"{option} must be {expected}")


def check_socket(sock: socket) -> None:
    """Raise `ValueError` unless `sock` is a connected stream socket."""
    try:
        sock.getpeername()
    except OSError as error:
        raise ValueError(f"sock is not connected: {error.strerror}") from None
    if sock.type != SOCK_STREAM:
        raise ValueError("sock is not a stream socket")


class ClientOptions(SettingsOptions, total=False):
    """The fields of `ClientSettings` and `Settings` as keyword arguments, for type checkers."""

    version: Version | str
    subprotocols: Sequence[str]
    additional_headers: HeaderFields
    cookies: CookieJar | None
    origin: str | None
    user_agent_header: str | None
    ssl: ssl_module.SSLContext | bool | None
    server_hostname: str | None
    proxy: str | bool | None
    proxy_ssl: ssl_module.SSLContext | None
    unix: str | bytes | os.PathLike[str] | None
    sock: socket | None
    local_addr: tuple[str, int] | None
    max_redirects: int
    redirect_hosts: Collection[str]
    engine: Engine | None
    process_exception: Callable[[Exception], Exception | None]
    reconnect_delays: Callable[[], Iterable[float]]


CLIENT_NAMES = frozenset(field.name for field in fields(ClientSettings))


def split_options(
    settings: Settings | None, **options: Unpack[ClientOptions]
) -> tuple[ClientSettings, Settings]:
    """Return the options of the client, and `settings` with the other options replaced.

    Raises `TypeError` for an unknown name, and `ValueError` or `TypeError` for a value that an
    option does not accept.
    """
    check_names(options, CLIENT_NAMES)
    own: dict[str, Any] = {}
    others: dict[str, object] = {}
    for name, value in options.items():
        (own if name in CLIENT_NAMES else others)[name] = value
    return ClientSettings(**own), with_options(settings, others)
