"""Negotiation of permessage-deflate (RFC 7692 section 7.1), for servers and clients.

A server calls `accept`, a client `offer` and `confirm`. `endpoint_parameters` derives the
parameters of one end from the negotiated ones. `deflate` compresses the messages.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from .request import TOKEN, tokens

NAME = "permessage-deflate"
HEADER = "Sec-WebSocket-Extensions"
MAX_WINDOW_BITS = 15
WINDOW_BITS = {str(bits): bits for bits in range(8, MAX_WINDOW_BITS + 1)}
"""The values of the two window parameters: decimal, without leading zeros (7.1.2)."""

MAX_KNOWN_OFFER_CHARACTERS = 256
"""The answers to longer values of the header are not kept."""

SERVER_NO_TAKEOVER = "server_no_context_takeover"
CLIENT_NO_TAKEOVER = "client_no_context_takeover"
SERVER_WINDOW = "server_max_window_bits"
CLIENT_WINDOW = "client_max_window_bits"
FLAGS = (SERVER_NO_TAKEOVER, CLIENT_NO_TAKEOVER)
WINDOWS = (SERVER_WINDOW, CLIENT_WINDOW)

QUOTED_PAIR = re.compile(r"\\(.)")

Parameters = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Compression:
    """The parameters of message compression (permessage-deflate), used if the peer supports it.

    Without context takeover (the default), each message is compressed independently and an idle
    connection holds no memory for compression. With context takeover, similar messages can
    shrink to a tenth or less, at a cost per connection of up to 270 KiB to compress and 40 KiB
    to decompress; fewer window bits and a lower memory level reduce this. Raises `ValueError` if
    a value is out of range.
    """

    server_no_context_takeover: bool = True
    """Whether the server resets its context after each message (RFC 7692 section 7.1.1.1)."""

    client_no_context_takeover: bool = True
    """Whether the client resets its context after each message (section 7.1.1.2)."""

    server_max_window_bits: int = MAX_WINDOW_BITS
    """The base-2 logarithm of the server's window size, 8 to 15 (section 7.1.2.1)."""

    client_max_window_bits: int = MAX_WINDOW_BITS
    """The base-2 logarithm of the client's window size, 8 to 15 (section 7.1.2.2). A server can
    limit it only if the client's offer allows this."""

    level: int = 1
    """The compression level of zlib, from 1 (fastest) to 9 (smallest)."""

    memory_level: int = 8
    """The memory level of zlib, 1 to 9: memory of a compressor in addition to its window."""

    threshold: int = 1024
    """Messages of fewer bytes are sent uncompressed."""

    def __post_init__(self) -> None:
        ranges = {
            SERVER_WINDOW: range(8, MAX_WINDOW_BITS + 1),
            CLIENT_WINDOW: range(8, MAX_WINDOW_BITS + 1),
            "level": range(1, 10),
            "memory_level": range(1, 10),
            "threshold": range(1 << 62),
        }
        for name, allowed in ranges.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")


CompressionOption: TypeAlias = Compression | Literal["deflate"] | bool | None
"""A value of `Settings.compression`: True and "deflate" mean `Compression()`, None means False."""


class NegotiatedParameters(NamedTuple):
    """The parameters in the server's response; a window is None if the response omits it."""

    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    server_max_window_bits: int | None = None
    client_max_window_bits: int | None = None

    def __str__(self) -> str:
        parameters = [name for name in FLAGS if getattr(self, name)]
        parameters += [
            f"{name}={getattr(self, name)}" for name in WINDOWS if getattr(self, name) is not None
        ]
        return "; ".join([NAME, *parameters])


class EndpointParameters(NamedTuple):
    """The parameters with which one end compresses, and with which it decompresses."""

    deflate_window_bits: int
    deflate_takeover: bool
    inflate_window_bits: int
    inflate_takeover: bool
    level: int
    memory_level: int
    threshold: int


def endpoint_parameters(
    negotiated: NegotiatedParameters, compression: Compression, is_client: bool
) -> EndpointParameters:
    """Return the parameters of one end.

    A client may use less than the server allows, as its offer announced.
    """
    server_takeover = not negotiated.server_no_context_takeover
    client_takeover = not negotiated.client_no_context_takeover
    server_bits = negotiated.server_max_window_bits or MAX_WINDOW_BITS
    client_bits = negotiated.client_max_window_bits or MAX_WINDOW_BITS
    others = (compression.level, compression.memory_level, compression.threshold)
    if not is_client:
        return EndpointParameters(
            server_bits, server_takeover, client_bits, client_takeover, *others
        )
    client_takeover = client_takeover and not compression.client_no_context_takeover
    client_bits = min(client_bits, compression.client_max_window_bits)
    return EndpointParameters(client_bits, client_takeover, server_bits, server_takeover, *others)


def accept(values: Sequence[str], compression: Compression) -> NegotiatedParameters | None:
    """Return the parameters for the client's first valid offer, None to decline all offers.

    `values` are those of the client's Sec-WebSocket-Extensions. Other extensions are ignored.
    """
    if len(values) == 1 and len(values[0]) <= MAX_KNOWN_OFFER_CHARACTERS:
        return _accept_known(values[0], compression)
    return _accept(values, compression)


@lru_cache(maxsize=64)
def _accept_known(value: str, compression: Compression) -> NegotiatedParameters | None:
    """Like `accept`, for one value: most clients send one of a few."""
    return _accept((value,), compression)


def _accept(values: Iterable[str], compression: Compression) -> NegotiatedParameters | None:
    try:
        offered = parse(values)
    except ValueError:
        return None
    for name, parameters in offered:
        if name == NAME:
            try:
                return _agree(_read(parameters, is_offer=True), compression)
            except ValueError:
                continue
    return None


def _agree(wanted: Mapping[str, int | None], compression: Compression) -> NegotiatedParameters:
    """Return the server's response to a valid offer (section 7.1).

    Requests for the server are granted. The client's window is limited if the offer allows it.
    """
    server_bits = wanted.get(SERVER_WINDOW)
    if server_bits is not None or compression.server_max_window_bits < MAX_WINDOW_BITS:
        server_bits = min(server_bits or MAX_WINDOW_BITS, compression.server_max_window_bits)
    client_bits = wanted.get(CLIENT_WINDOW)
    if CLIENT_WINDOW in wanted and compression.client_max_window_bits < MAX_WINDOW_BITS:
        client_bits = min(client_bits or MAX_WINDOW_BITS, compression.client_max_window_bits)
    return NegotiatedParameters(
        SERVER_NO_TAKEOVER in wanted or compression.server_no_context_takeover,
        CLIENT_NO_TAKEOVER in wanted or compression.client_no_context_takeover,
        server_bits,
        client_bits,
    )


def offer(compression: Compression) -> str:
    """Return the client's offer: its requests to the server, and its own limits."""
    parameters = [name for name in FLAGS if getattr(compression, name)]
    if compression.server_max_window_bits < MAX_WINDOW_BITS:
        parameters.append(f"{SERVER_WINDOW}={compression.server_max_window_bits}")
    own_bits = compression.client_max_window_bits
    limit = f"={own_bits}" if own_bits < MAX_WINDOW_BITS else ""
    return "; ".join([NAME, *parameters, CLIENT_WINDOW + limit])


def offers(compression: Compression) -> list[Compression]:
    """Return a client's offers, in its order of preference.

    The last offer does without `server_no_context_takeover`: Tornado's server drops parameters
    that have no value, so it can agree to that one only.
    """
    if not compression.server_no_context_takeover:
        return [compression]
    return [compression, replace(compression, server_no_context_takeover=False)]


def confirm_offers(
    values: list[str], compressions: list[Compression]
) -> NegotiatedParameters | None:
    """As `confirm`, where the response may answer any of several offers."""
    *preferred, last = compressions
    for compression in preferred:
        with contextlib.suppress(ValueError):
            return confirm(values, compression)
    return confirm(values, last)


def confirm(values: Iterable[str], compression: Compression) -> NegotiatedParameters | None:
    """Return the parameters that the server's response agrees to; None if it declined.

    Raises `ValueError` if the response does not match the offer; the client must then fail the
    connection (RFC 6455 section 9.1, RFC 7692 section 7.1).
    """
    responses = parse(values)
    if not responses:
        return None
    if len(responses) > 1 or responses[0][0] != NAME:
        raise ValueError("the server uses an extension that was not offered")
    response = _read(responses[0][1], is_offer=False)
    if compression.server_no_context_takeover and SERVER_NO_TAKEOVER not in response:
        raise ValueError(f"the server does not agree to {SERVER_NO_TAKEOVER}")
    if (response.get(SERVER_WINDOW) or MAX_WINDOW_BITS) > compression.server_max_window_bits:
        raise ValueError(f"the server does not agree to {SERVER_WINDOW}")
    if (response.get(CLIENT_WINDOW) or 0) > compression.client_max_window_bits:
        raise ValueError(f"{CLIENT_WINDOW} is more than was offered")
    return NegotiatedParameters(
        SERVER_NO_TAKEOVER in response,
        CLIENT_NO_TAKEOVER in response,
        response.get(SERVER_WINDOW),
        response.get(CLIENT_WINDOW),
    )


def _read(parameters: Parameters | None, is_offer: bool) -> dict[str, int | None]:
    """Return the parameters by name, with the bits of window parameters.

    Raises `ValueError` for a parameter that is unknown, repeated or has an invalid value (section
    7.1). In an offer, `client_max_window_bits` may have no value.
    """
    if parameters is None:
        raise ValueError(f"{NAME} has a parameter twice")
    found: dict[str, int | None] = {}
    for name, value in parameters.items():
        if name not in (*FLAGS, *WINDOWS):
            raise ValueError(f"{NAME} has no parameter {name!r}")
        found[name] = None
        if name in FLAGS:
            if value is not None:
                raise ValueError(f"{name} has no value")
        elif value is not None or not (is_offer and name == CLIENT_WINDOW):
            if value not in WINDOW_BITS:
                raise ValueError(f"{name} must be a number from 8 to 15")
            found[name] = WINDOW_BITS[value]
    return found


def parse(values: Iterable[str]) -> list[tuple[str, Parameters | None]]:
    """Return the elements of Sec-WebSocket-Extensions as (name, parameters).

    The parameters are None if one of them is repeated. Raises `ValueError` if a value does not
    match the grammar (RFC 6455 section 9.1).
    """
    return [_parse_element(element) for element in tokens(values)]


def _parse_element(element: str) -> tuple[str, Parameters | None]:
    name, *rest = (part.strip(" \t") for part in element.split(";"))
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of an extension")
    parameters: Parameters = {}
    for part in rest:
        key, equals, text = (piece.strip(" \t") for piece in part.partition("="))
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = QUOTED_PAIR.sub(r"\1", text[1:-1])  # the content must still be a token
        if not TOKEN.fullmatch(key) or (equals and not TOKEN.fullmatch(text)):
            raise ValueError(f"{part!r} cannot be the parameter of an extension")
        parameters[key] = text if equals else None
    return name, parameters if len(parameters) == len(rest) else None
