"""Every limit, time-out and default, in one frozen object.

Settings are given to `configure_server` for a whole server and to `WebSocket.connect` for
one connection; the second overrides the first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from .protocol import origins
from .protocol.permessage_deflate import Compression
from .protocol.versions import DEFAULT_VERSIONS, Version

Around: TypeAlias = Callable[[], AbstractContextManager[Any] | AbstractAsyncContextManager[Any]]

LIMITS = ("max_message_size", "max_fragments", "max_empty_fragments", "max_control_frames")

KIB, MIB = 1 << 10, 1 << 20

FOR_EVER = 1e9
"""Seconds; what is not to happen at all is None, where it may be."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a connection may take, and how long. Sizes are in bytes, times in seconds."""

    max_message_size: int = MIB
    """The largest message accepted; beyond it 1009, decided at the frame header."""

    max_fragments: int = 131_072
    """The most fragments of one message; beyond it 1008."""

    max_empty_fragments: int = 1_024
    """How many of them may be empty; beyond it 1008."""

    max_control_frames: int = 1_000
    """The most pings and pongs in a second; beyond it 1008."""

    max_connections: int | None = None
    """The most connections that the engine may have at a time, those included whose handshake
    is not complete; beyond it the handshake is refused with 503. None for no limit."""

    max_connections_per_address: int | None = None
    """The most of them from one address, beyond which 429. Behind a proxy all come from its
    address, unless the HTTP server sets the client's."""

    high_water: int = 64 * KIB
    """With more than this waiting to be sent, nothing more is read from that peer until
    a quarter of it is left; then `drain` is emitted. A client goes on reading, or two that
    only send would wait for each other."""

    max_buffered: int = 16 * MIB
    """With more than this already waiting, for the peer or for a fragmented message to end, the
    next send from a listener or an event loop closes with 1008 "slow consumer"; other threads
    wait in `send` already at high water."""

    open_timeout: float = 10.0
    """How long a client has to complete a handshake whose last bytes come later (hixie-76
    to hybi-03); on http.server, for the head of any request."""

    ping_interval: float | None = 20.0
    """After this long without a byte from the peer it is pinged; None for never."""

    ping_timeout: float = 20.0
    """A peer silent this long after a ping has been delivered is taken for dead, and dropped; with
    1011 "keepalive ping timeout" if it reads. While data lies before the ping, it is enough that
    the peer acknowledges 500 bytes a second."""

    close_timeout: float = 10.0
    """How long the peer has for its part of the closing handshake."""

    allowed_origins: Collection[str] | str | None = None
    """Origins whose pages may connect beside those of the request's own host.

    An entry is an origin as browsers send it ("https://example.com"), a host for both http
    and https ("example.com", "localhost:3000"), all subdomains ("https://*.example.com", or
    ".example.com" for the host itself as well), any port ("http://localhost:*"), an
    application's own scheme ("app://host", "file://") or "null". "*" allows every origin. An
    entry that stands for no origin raises `ValueError`."""

    versions: tuple[Version, ...] = DEFAULT_VERSIONS
    """The versions of the protocol that are accepted."""

    compression: Compression | bool = False
    """How messages are compressed if the peer agrees to permessage-deflate (RFC 7692); True
    for the defaults of `Compression`, False for not at all."""

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
            _require(field, getattr(self, field), 0 <= getattr(self, field) < 1 << 62)
        for field in ("max_connections", "max_connections_per_address"):
            most = getattr(self, field)
            _require(field, most, most is None or most >= 0)
        _require("high_water", self.high_water, 0 < self.high_water <= self.max_buffered)
        for field in ("open_timeout", "ping_timeout", "close_timeout"):
            _require(field, getattr(self, field), 0 < getattr(self, field) < FOR_EVER)
        if self.ping_interval is not None:
            _require("ping_interval", self.ping_interval, 0 < self.ping_interval < FOR_EVER)
        if self.around is not None and not callable(self.around):
            raise TypeError("around is a callable that returns a context manager")
        object.__setattr__(self, "versions", tuple(self.versions))
        _require("versions", self.versions, bool(self.versions))
        if self.compression is True:
            object.__setattr__(self, "compression", Compression())
        if not isinstance(self.compression, Compression | bool):
            raise TypeError("compression is True, False or a Compression")
        if self.allowed_origins is not None:
            object.__setattr__(self, "allowed_origins", origins.check(self.allowed_origins))


SETTING_NAMES = frozenset(field.name for field in fields(Settings))


def _require(name: str, value: object, condition: bool) -> None:
    if not condition:
        raise ValueError(f"{name} cannot be {value!r}")
