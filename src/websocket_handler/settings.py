"""All limits, timeouts and defaults.

`configure_server` takes settings for a server, and `WebSocket.connect` takes settings for one
connection, which override those of the server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias, TypedDict

from .protocol import origins
from .protocol.permessage_deflate import Compression, CompressionOption
from .protocol.versions import DEFAULT_VERSIONS, Version

Around: TypeAlias = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

LIMITS = ("max_message_size", "max_fragments", "max_empty_fragments", "max_control_frames")

KIB, MIB = 1 << 10, 1 << 20

MAX_SECONDS = 1e9
"""The upper limit of all times. A feature that can be disabled uses None for that."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits, timeouts and options of a connection. Sizes are in bytes, times in seconds."""

    max_message_size: int = MIB
    """The size of the largest accepted message. A larger one closes with 1009, which is decided
    at the frame header."""

    max_fragments: int = 131_072
    """The maximum number of fragments of a message. More close with 1008."""

    max_empty_fragments: int = 1_024
    """The maximum number of empty fragments of a message. More close with 1008."""

    max_control_frames: int = 1_000
    """The maximum number of pings and pongs per second. More close with 1008."""

    max_connections: int | None = None
    """The maximum number of connections of the engine, including those with an incomplete
    handshake. More are rejected with HTTP status 503. None means no limit."""

    max_connections_per_address: int | None = None
    """The maximum number of connections from one address. More are rejected with HTTP status 429.
    Behind a proxy, all connections have its address unless the HTTP server sets the client's."""

    high_water: int = 64 * KIB
    """If more than this is unsent, the engine stops reading from the peer until only a quarter of
    it is left; then it emits `drain`. A client keeps reading, because two peers that only send
    would otherwise wait for each other."""

    max_buffered: int = 16 * MIB
    """If more than this is already unsent, the next send from a listener or an event loop closes
    with 1008 "slow consumer". This counts messages that wait for the end of a fragmented message.
    Other threads block in `send` as soon as `high_water` is exceeded."""

    open_timeout: float = 10.0
    """The time that a client has to complete a handshake whose last bytes arrive after the
    response (hixie-76 to hybi-03); with http.server, also for the head of any request. In the
    client, the time for the name, the connection, the proxy, TLS, redirects and the handshake
    together."""

    ping_interval: float | None = 20.0
    """A peer that has sent no bytes for this time is sent a ping. None sends no pings."""

    ping_timeout: float = 20.0
    """A peer that sends no bytes for this time after a ping was delivered is considered dead, and
    the connection is closed, with 1011 "keepalive ping timeout" if the peer still reads. While
    unsent data precedes the ping, it is enough that the peer acknowledges 500 bytes per second."""

    close_timeout: float = 10.0
    """The time that the peer has to complete the closing handshake."""

    allowed_origins: Collection[str] | str | None = None
    """Origins whose pages may connect beside those of the request's own host.

    An entry is an origin as browsers send it ("https://example.com"), a host for both http
    and https ("example.com", "localhost:3000"), all subdomains ("https://*.example.com", or
    ".example.com" for the host itself as well), any port ("http://localhost:*"), an
    application's own scheme ("app://host", "file://") or "null". "*" allows every origin. An
    entry that stands for no origin raises `ValueError`."""

    versions: tuple[Version, ...] = DEFAULT_VERSIONS
    """The accepted versions of the protocol."""

    compression: CompressionOption = False
    """The parameters of message compression, which is used if the peer supports permessage-deflate
    (RFC 7692). True and "deflate" use the defaults of `Compression`, False and None disable
    compression."""

    around: Around | None = None
    """Returns a context manager, which is entered around each call of a listener: Flask's
    `app.app_context` for example. An asynchronous one is for `async def` listeners."""

    keep_context: bool = False
    """Whether listeners see the context variables (`contextvars`) as they are at `connect()`:
    each call runs in a copy of that context. It keeps alive all that the variables refer to
    until the connection ends: under most frameworks the request, its session and its user. By
    default listeners run in an empty context."""

    def __post_init__(self) -> None:
        for field in (*LIMITS, "high_water", "max_buffered"):
            _require(field, getattr(self, field), lambda size: 0 <= size < 1 << 62)
        for field in ("max_connections", "max_connections_per_address"):
            _require(field, getattr(self, field), lambda limit: limit is None or limit >= 0)
        _require("high_water", self.high_water, lambda size: 0 < size <= self.max_buffered)
        for field in ("open_timeout", "ping_timeout", "close_timeout"):
            _require(field, getattr(self, field), lambda seconds: 0 < seconds < MAX_SECONDS)
        if self.ping_interval is not None:
            _require("ping_interval", self.ping_interval, lambda seconds: 0 < seconds < MAX_SECONDS)
        if self.around is not None and not callable(self.around):
            raise TypeError("around is a callable that returns a context manager")
        object.__setattr__(self, "versions", tuple(self.versions))
        _require("versions", self.versions, bool)
        if self.compression is True or self.compression == "deflate":
            object.__setattr__(self, "compression", Compression())
        elif self.compression is None:
            object.__setattr__(self, "compression", False)
        if not isinstance(self.compression, Compression | bool):
            raise TypeError('compression must be a Compression, "deflate", True, False or None')
        if self.allowed_origins is not None:
            object.__setattr__(self, "allowed_origins", origins.check(self.allowed_origins))

    def __hash__(self) -> int:
        """Return a hash of the fields that differ most often. All of them would cost more than
        the comparison, for which equal settings are usually one object."""
        return hash((self.max_message_size, self.ping_interval, self.allowed_origins))


class SettingsOptions(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments, for type checkers and editors."""

    max_message_size: int
    max_fragments: int
    max_empty_fragments: int
    max_control_frames: int
    max_connections: int | None
    max_connections_per_address: int | None
    high_water: int
    max_buffered: int
    open_timeout: float
    ping_interval: float | None
    ping_timeout: float
    close_timeout: float
    allowed_origins: Collection[str] | str | None
    versions: tuple[Version, ...]
    compression: CompressionOption
    around: Around | None
    keep_context: bool


NAMES_ELSEWHERE = {
    "cookie": "cookies",
    "cookie_jar": "cookies",
    "extra_headers": "additional_headers",
    "header": "additional_headers",
    "headers": "additional_headers",
    "heartbeat": "ping_interval",
    "max_msg_size": "max_message_size",
    "max_size": "max_message_size",
    "origins": "allowed_origins",
    "protocols": "subprotocols",
    "ssl_context": "ssl",
    "sslopt": "ssl",
    "timeout": "open_timeout",
}
"""The names of options in other libraries, and those of the same options here."""

SETTING_NAMES = frozenset(field.name for field in fields(Settings))


def with_options(settings: Settings | None, options: Mapping[str, Any]) -> Settings:
    """Return `settings` (default: `Settings()`) with the fields replaced that `options` names.

    Equal arguments usually return the same object: each handshake calls this function. Raises
    `TypeError` for an unknown name, with the nearest known one, and `ValueError` or `TypeError`
    for a value that a field does not accept.
    """
    base = settings if settings is not None else DEFAULTS
    if not isinstance(base, Settings):
        raise TypeError(f"settings must be a Settings or None, not {type(settings).__name__}")
    if not options:
        return base
    if base.around is None and "around" not in options:  # it may refer to a request
        try:
            return _shared(base, *chain.from_iterable(options.items()))
        except TypeError:  # a value is not hashable, or not valid
            pass
    return _replaced(base, options)


@lru_cache(maxsize=64, typed=True)
def _shared(base: Settings, *names_and_values: Any) -> Settings:
    """Like `_replaced`, for fields whose names and values alternate."""
    return _replaced(base, dict(zip(names_and_values[::2], names_and_values[1::2], strict=True)))


def _replaced(base: Settings, options: Mapping[str, Any]) -> Settings:
    check_names(options)
    return replace(base, **options)


def check_names(options: Iterable[str], others: frozenset[str] = frozenset()) -> None:
    """Raise `TypeError` unless every option is a field of `Settings` or one of `others`."""
    known = SETTING_NAMES | others
    for name in options:
        if name not in known:
            elsewhere = NAMES_ELSEWHERE.get(name)
            nearest = [elsewhere] if elsewhere in known else get_close_matches(name, known, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"unknown setting {name!r}{hint}")


def _require(name: str, value: Any, is_valid: Callable[[Any], bool]) -> None:
    """Raise `ValueError` unless `is_valid(value)`; also if `value` is of a type without order."""
    try:
        if is_valid(value):
            return
    except TypeError:
        pass
    raise ValueError(f"{name} cannot be {value!r}")


DEFAULTS: Settings = Settings()
"""The settings of a connection for which none were given."""
