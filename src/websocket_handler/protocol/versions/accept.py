"""The handshake with Sec-WebSocket-Key and -Accept: hybi-04 to RFC 6455 (section 4).

Versions differ in their number, in the name of the origin's header and in how strict they
are about the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable

from ..request import TOKEN, Headers, Request, head, tokens
from .version import Answer, Hello, Offer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STATUS_LINE = "HTTP/1.1 101 Switching Protocols"


def accept_value(key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key` (section 4.2.2)."""
    digest = hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()
    return base64.b64encode(digest).decode()


def new_key() -> str:
    """16 random bytes in base64 (section 4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def recogniser(number: int) -> Callable[[Request], bool]:
    """Whether a request names version `number`, and it alone."""
    return lambda request: request.headers.get_all("Sec-WebSocket-Version") == [str(number)]


def find_defect(request: Request) -> str | None:
    """The first thing wrong with the headers of section 4.1."""
    keys = request.headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or not keys[0]:
        return "there must be exactly one Sec-WebSocket-Key header"
    offered = offered_subprotocols(request)
    if not all(TOKEN.fullmatch(name) for name in offered):
        return "Sec-WebSocket-Protocol must be a list of tokens"
    if len(set(offered)) != len(offered):
        return "Sec-WebSocket-Protocol must not offer a subprotocol twice"
    return None


def find_strict_defect(request: Request) -> str | None:
    """As `find_defect`; from RFC 6455 on the key must be 16 bytes. A client of its time sent
    15 in version 8."""
    defect = find_defect(request)
    if defect is None and not _is_16_bytes_in_base64(request.headers["Sec-WebSocket-Key"]):
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    return defect


def offered_subprotocols(request: Request) -> list[str]:
    return tokens(request.headers.get_all("Sec-WebSocket-Protocol"))


def answer(
    request: Request, subprotocol: str | None, extra: Headers, nonce: str | None = None
) -> Answer:
    """The 101 response (section 4.2.2), with the nonce that hybi-04 has."""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_value(request.headers["Sec-WebSocket-Key"])),
    ]
    if nonce is not None:
        fields.append(("Sec-WebSocket-Nonce", nonce))
    if subprotocol is not None:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    return Answer(head(STATUS_LINE, fields + extra.fields()))


def greeter(number: int, origin_header: str) -> Callable[[Offer], Hello]:
    """What makes the client's request of version `number` (section 4.1)."""

    def hello(offer: Offer) -> Hello:
        return greet(offer, number, origin_header, new_key(), lambda _key, _headers: b"")

    return hello


def greet(
    offer: Offer,
    number: int,
    origin_header: str,
    key: str,
    find_secret: Callable[[str, Headers], bytes],
) -> Hello:
    fields = [
        ("Host", offer.host),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", key),
        ("Sec-WebSocket-Version", str(number)),
    ]
    if offer.origin is not None:
        fields.append((origin_header, offer.origin))
    if offer.subprotocols:
        fields.append(("Sec-WebSocket-Protocol", ", ".join(offer.subprotocols)))
    if offer.extensions:
        fields.append(("Sec-WebSocket-Extensions", offer.extensions))

    def verify(headers: Headers, _body: bytes) -> bytes:
        if headers.get_all("Sec-WebSocket-Accept") != [accept_value(key)]:
            raise ValueError("Sec-WebSocket-Accept does not answer the key")
        if not offer.extensions and headers.get("Sec-WebSocket-Extensions", "").strip():
            raise ValueError("the server uses an extension that was not offered")
        return find_secret(key, headers)

    return Hello(head(f"GET {offer.target} HTTP/1.1", [*fields, *offer.headers]), verify)


def _is_16_bytes_in_base64(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
