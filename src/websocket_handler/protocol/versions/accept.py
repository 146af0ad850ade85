"""The handshake with Sec-WebSocket-Key and Sec-WebSocket-Accept: hybi-04 to RFC 6455 (section 4).

The versions differ in their number, in the name of the origin header and in how strictly they
check the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable

from ..request import TOKEN, Headers, Request, head, tokens
from .version import ClientRequest, HandshakeResponse, Offer

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
STATUS_LINE = "HTTP/1.1 101 Switching Protocols"

KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""16 bytes in base64."""


def accept_value(key: str) -> str:
    """Return the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (section 4.2.2)."""
    digest = hashlib.sha1((key + GUID).encode(), usedforsecurity=False).digest()
    return binascii.b2a_base64(digest, newline=False).decode()


def new_key() -> str:
    """Return 16 random bytes in base64 (section 4.1)."""
    return base64.b64encode(os.urandom(16)).decode()


def matches_version(number: int) -> Callable[[Request], bool]:
    """Return a function that tells whether a request names version `number` and no other."""
    wanted = [str(number)]
    return lambda request: request.headers.get_all("Sec-WebSocket-Version") == wanted


def validation_error(request: Request) -> str | None:
    """Return the first error in the headers of section 4.1, None if they are valid."""
    keys = request.headers.get_all("Sec-WebSocket-Key")
    if len(keys) != 1 or not keys[0]:
        return "there must be exactly one Sec-WebSocket-Key header"
    offered = offered_subprotocols(request)
    if not offered:
        return None
    if not all(TOKEN.fullmatch(name) for name in offered):
        return "Sec-WebSocket-Protocol must be a list of tokens"
    if len(set(offered)) != len(offered):
        return "Sec-WebSocket-Protocol must not offer a subprotocol twice"
    return None


def strict_validation_error(request: Request) -> str | None:
    """Like `validation_error`, and the key must be 16 bytes, as RFC 6455 requires.

    The drafts do not check this: a client of version 8 sent 15 bytes.
    """
    error = validation_error(request)
    if error is None and not KEY.fullmatch(request.headers["Sec-WebSocket-Key"]):
        return "Sec-WebSocket-Key must be 16 bytes in base64"
    return error


def offered_subprotocols(request: Request) -> list[str]:
    return tokens(request.headers.get_all("Sec-WebSocket-Protocol"))


def build_response(
    request: Request, subprotocol: str | None, extra: Headers, nonce: str | None = None
) -> HandshakeResponse:
    """Return the 101 response (section 4.2.2); `nonce` is for hybi-04 only."""
    fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept_value(request.headers["Sec-WebSocket-Key"])),
    ]
    if nonce is not None:
        fields.append(("Sec-WebSocket-Nonce", nonce))
    if subprotocol is not None:
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    return HandshakeResponse(head(STATUS_LINE, fields + extra.fields()))


def client_request_builder(number: int, origin_header: str) -> Callable[[Offer], ClientRequest]:
    """Return a function that builds the client's request of version `number` (section 4.1)."""

    def build(offer: Offer) -> ClientRequest:
        return client_request(offer, number, origin_header, new_key(), lambda _key, _headers: b"")

    return build


def client_request(
    offer: Offer,
    number: int,
    origin_header: str,
    key: str,
    derive_secret: Callable[[str, Headers], bytes],
) -> ClientRequest:
    """Return the client's request; `derive_secret` takes the key and the response's headers."""
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
        return derive_secret(key, headers)

    return ClientRequest(head(f"GET {offer.target} HTTP/1.1", [*fields, *offer.headers]), verify)
