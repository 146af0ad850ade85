"""Negotiating permessage-deflate (RFC 7692 section 7.1), in both roles.

`accept` is the server's part, `offer` and `confirm` are the client's; `terms` says what an
agreement means for one end. Compressing itself is in `deflate`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from .request import TOKEN, tokens

NAME = "permessage-deflate"
HEADER = "Sec-WebSocket-Extensions"
MOST_WINDOW_BITS = 15
WINDOW_BITS = {str(bits): bits for bits in range(8, MOST_WINDOW_BITS + 1)}
"""The values of the two window parameters: decimal, without leading zeros (7.1.2)."""

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
    """How messages are compressed where the peer agrees; sizes are in bytes.

    Without context takeover every message is compressed by itself, and a connection that is
    idle holds no memory for it. With it, similar messages shrink to a tenth and less, for
    up to 270 KiB a connection to compress and 40 KiB to decompress; fewer window bits and a
    lower memory level make that less. Raises `ValueError` for a value out of its range.
    """

    server_no_context_takeover: bool = True
    """Whether the server begins each message anew (RFC 7692 section 7.1.1.1)."""

    client_no_context_takeover: bool = True
    """Whether the client does (7.1.1.2)."""

    server_max_window_bits: int = MOST_WINDOW_BITS
    """The server looks back over at most 2 to the power of this, 8 to 15 (7.1.2.1)."""

    client_max_window_bits: int = MOST_WINDOW_BITS
    """The client does, where it lets a server limit it (7.1.2.2)."""

    level: int = 1
    """zlib's, from 1, the fastest, to 9."""

    memory_level: int = 8
    """zlib's, 1 to 9: how much memory a compressor takes beside its window."""

    threshold: int = 1024
    """Smaller messages are sent as they are."""

    def __post_init__(self) -> None:
        ranges = {
            SERVER_WINDOW: range(8, MOST_WINDOW_BITS + 1),
            CLIENT_WINDOW: range(8, MOST_WINDOW_BITS + 1),
            "level": range(1, 10),
            "memory_level": range(1, 10),
            "threshold": range(1 << 62),
        }
        for name, allowed in ranges.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} cannot be {getattr(self, name)!r}")


class Agreement(NamedTuple):
    """The parameters of the server's response; a window that is None was not mentioned."""

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


class Terms(NamedTuple):
    """What one end has to do: how it compresses, and how its peer does."""

    deflate_window_bits: int
    deflate_takeover: bool
    inflate_window_bits: int
    inflate_takeover: bool
    level: int
    memory_level: int
    threshold: int


def terms(agreement: Agreement, compression: Compression, is_client: bool) -> Terms:
    """A client may do with less than the server has allowed it, as it said in its offer."""
    server_takeover = not agreement.server_no_context_takeover
    client_takeover = not agreement.client_no_context_takeover
    server_bits = agreement.server_max_window_bits or MOST_WINDOW_BITS
    client_bits = agreement.client_max_window_bits or MOST_WINDOW_BITS
    others = (compression.level, compression.memory_level, compression.threshold)
    if not is_client:
        return Terms(server_bits, server_takeover, client_bits, client_takeover, *others)
    client_takeover = client_takeover and not compression.client_no_context_takeover
    client_bits = min(client_bits, compression.client_max_window_bits)
    return Terms(client_bits, client_takeover, server_bits, server_takeover, *others)


def accept(values: Iterable[str], compression: Compression) -> Agreement | None:
    """The server's answer to the values of the client's header: the first of its offers that
    is in order, None to decline them all. Other extensions are declined too."""
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


def _agree(wanted: Mapping[str, int | None], compression: Compression) -> Agreement:
    """Section 7.1, sentence by sentence: what is asked of us is granted; the client is
    limited where it lets itself be, and where it says what it will do, that is noted."""
    server_bits = wanted.get(SERVER_WINDOW)
    if server_bits is not None or compression.server_max_window_bits < MOST_WINDOW_BITS:
        server_bits = min(server_bits or MOST_WINDOW_BITS, compression.server_max_window_bits)
    client_bits = wanted.get(CLIENT_WINDOW)
    if CLIENT_WINDOW in wanted and compression.client_max_window_bits < MOST_WINDOW_BITS:
        client_bits = min(client_bits or MOST_WINDOW_BITS, compression.client_max_window_bits)
    return Agreement(
        SERVER_NO_TAKEOVER in wanted or compression.server_no_context_takeover,
        CLIENT_NO_TAKEOVER in wanted or compression.client_no_context_takeover,
        server_bits,
        client_bits,
    )


def offer(compression: Compression) -> str:
    """What a client offers: its wishes for the server, and what it will do itself."""
    parameters = [name for name in FLAGS if getattr(compression, name)]
    if compression.server_max_window_bits < MOST_WINDOW_BITS:
        parameters.append(f"{SERVER_WINDOW}={compression.server_max_window_bits}")
    own_bits = compression.client_max_window_bits
    limit = f"={own_bits}" if own_bits < MOST_WINDOW_BITS else ""
    return "; ".join([NAME, *parameters, CLIENT_WINDOW + limit])


def offers(compression: Compression) -> list[Compression]:
    """What a client offers, in its order of preference.

    The last offer does without `server_no_context_takeover`: Tornado's server drops parameters
    that have no value, so it can agree to that one only.
    """
    if not compression.server_no_context_takeover:
        return [compression]
    return [compression, replace(compression, server_no_context_takeover=False)]


def confirm_offers(values: list[str], compressions: list[Compression]) -> Agreement | None:
    """As `confirm`, where the response may answer any of several offers."""
    *preferred, last = compressions
    for compression in preferred:
        with contextlib.suppress(ValueError):
            return confirm(values, compression)
    return confirm(values, last)


def confirm(values: Iterable[str], compression: Compression) -> Agreement | None:
    """What the server's response makes of our offer; None if it declined.

    Raises `ValueError` for a response that does not answer the offer: the client must fail
    the connection then (RFC 6455 section 9.1, RFC 7692 section 7.1).
    """
    responses = parse(values)
    if not responses:
        return None
    if len(responses) > 1 or responses[0][0] != NAME:
        raise ValueError("the server uses an extension that was not offered")
    said = _read(responses[0][1], is_offer=False)
    if compression.server_no_context_takeover and SERVER_NO_TAKEOVER not in said:
        raise ValueError(f"the server does not agree to {SERVER_NO_TAKEOVER}")
    if (said.get(SERVER_WINDOW) or MOST_WINDOW_BITS) > compression.server_max_window_bits:
        raise ValueError(f"the server does not agree to {SERVER_WINDOW}")
    if (said.get(CLIENT_WINDOW) or 0) > compression.client_max_window_bits:
        raise ValueError(f"{CLIENT_WINDOW} is more than was offered")
    return Agreement(
        SERVER_NO_TAKEOVER in said,
        CLIENT_NO_TAKEOVER in said,
        said.get(SERVER_WINDOW),
        said.get(CLIENT_WINDOW),
    )


def _read(parameters: Parameters | None, is_offer: bool) -> dict[str, int | None]:
    """The parameters by name, windows with their bits. Raises `ValueError` for one that is
    unknown, given twice or of a bad value (7.1); a client may offer to be limited without a
    number."""
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
    """The elements of Sec-WebSocket-Extensions: (name, parameters), None for parameters of
    which one is given twice. Raises `ValueError` for what breaks the grammar (RFC 6455 9.1)."""
    return [_parse_element(element) for element in tokens(values)]


def _parse_element(element: str) -> tuple[str, Parameters | None]:
    name, *rest = (part.strip(" \t") for part in element.split(";"))
    if not TOKEN.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of an extension")
    parameters: Parameters = {}
    for part in rest:
        key, equals, text = (piece.strip(" \t") for piece in part.partition("="))
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = QUOTED_PAIR.sub(r"\1", text[1:-1])  # it must be a token all the same
        if not TOKEN.fullmatch(key) or (equals and not TOKEN.fullmatch(text)):
            raise ValueError(f"{part!r} cannot be the parameter of an extension")
        parameters[key] = text if equals else None
    return name, parameters if len(parameters) == len(rest) else None
