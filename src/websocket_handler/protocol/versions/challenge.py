"""The handshake of hixie-76 to hybi-03: two keys in headers, a third in the body.

Some proxies forward the third key only after they have seen the 101. So the head of the response
is sent before the third key arrives, and the reply to the challenge follows it. hybi-01 to
hybi-03 are identified by `Sec-WebSocket-Draft`.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Callable

from ...errors import UnsupportedByVersion
from ..assembly import Completed, Event
from ..request import Headers, Request, head
from .version import ClientRequest, Decoder, HandshakeResponse, Offer

KEY3_SIZE = 8
ANSWER_SIZE = 16
STATUS_LINE = "HTTP/1.1 101 WebSocket Protocol Handshake"
KEY_HEADERS = ("Sec-WebSocket-Key1", "Sec-WebSocket-Key2")
SUBPROTOCOL_HEADER = "Sec-WebSocket-Protocol"
LETTERS = [chr(code) for code in (*range(0x21, 0x30), *range(0x3A, 0x7F))]
MAX_NUMBER = (1 << 32) - 1


def matches_draft(*drafts: str) -> Callable[[Request], bool]:
    """Return a function that tells whether a request has the keys and one of `drafts`.

    A draft is a value of Sec-WebSocket-Draft; "" stands for a request without that header.
    """

    def matches(request: Request) -> bool:
        headers = request.headers
        if "Sec-WebSocket-Version" in headers or not any(name in headers for name in KEY_HEADERS):
            return False
        return (headers.get_all("Sec-WebSocket-Draft") or [""]) in [[draft] for draft in drafts]

    return matches


TARGET = re.compile(r"/[!-~]*")
"""The request targets that clients of these versions send; the response repeats the target byte
for byte."""


def target_error(request: Request) -> str | None:
    return None if TARGET.fullmatch(request.target) else "the request target must be a plain path"


def validation_error(request: Request) -> str | None:
    """Return the first error in the target and the two keys, None if they are valid."""
    error = target_error(request)
    if error is not None:
        return error
    for name in KEY_HEADERS:
        keys = request.headers.get_all(name)
        if len(keys) != 1:
            return f"there must be exactly one {name} header"
        try:
            key_number(keys[0])
        except ValueError as invalid:
            return f"{name} {invalid}"
    return None


def key_number(key: str) -> int:
    """Return the number encoded in a key: its digits divided by its number of spaces.

    Raises `ValueError` if there are no spaces or no digits, if the division leaves a remainder,
    or if the number does not fit in 32 bits.
    """
    digits = "".join(character for character in key if character in "0123456789")
    spaces = key.count(" ")
    if not spaces or not digits:
        raise ValueError("must have digits and spaces")
    if len(digits) > 20:  # 32 bits times the 12 spaces that clients use at most: 11 digits
        raise ValueError("encodes a number of more than 32 bits")
    number, rest = divmod(int(digits), spaces)
    if rest:
        raise ValueError("does not encode an integer")
    if number > MAX_NUMBER:
        raise ValueError("encodes a number of more than 32 bits")
    return number


def new_key() -> tuple[str, int]:
    """Return a key and the number encoded in it (hixie-76, opening handshake, steps 16 to 23)."""
    source = random.SystemRandom()
    spaces = source.randint(1, 12)
    number = source.randint(0, MAX_NUMBER // spaces)
    characters = list(str(number * spaces))
    for _ in range(source.randint(1, 12)):
        characters.insert(source.randint(0, len(characters)), source.choice(LETTERS))
    for _ in range(spaces):
        characters.insert(source.randint(1, len(characters) - 1), " ")
    return "".join(characters), number


def numbers_in_bytes(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "big") for number in numbers)


def challenge_answer(secret: bytes, key3: bytes) -> bytes:
    """Return the 16 bytes that prove that the server has read all three keys."""
    return hashlib.md5(secret + key3, usedforsecurity=False).digest()


def build_response(request: Request, subprotocol: str | None, extra: Headers) -> HandshakeResponse:
    """Return the head of the response, which copies Host and Origin byte for byte."""
    numbers = [key_number(request.headers[name]) for name in KEY_HEADERS]
    fields = location_fields(request, subprotocol, "Sec-")
    return HandshakeResponse(head(STATUS_LINE, fields + extra.fields()), numbers_in_bytes(*numbers))


def location_fields(
    request: Request, subprotocol: str | None, prefix: str
) -> list[tuple[str, str]]:
    """Return the response fields of hixie-75 to hybi-03, which the client compares exactly."""
    scheme = "wss" if request.tls else "ws"
    origins = request.headers.get_all("Origin")
    fields = [("Upgrade", "WebSocket"), ("Connection", "Upgrade")]
    fields += [(f"{prefix}WebSocket-Origin", origin) for origin in origins]
    location = f"{scheme}://{request.headers['Host']}{request.target}"
    fields.append((f"{prefix}WebSocket-Location", location))
    if subprotocol is not None:
        fields.append((f"{prefix}WebSocket-Protocol", subprotocol))
    return fields


class AwaitingKey3:
    """A server's decoder: the first eight bytes are the third key, all others are frames."""

    def __init__(self, secret: bytes, rest: Decoder) -> None:
        self._secret = secret
        self._rest = rest
        self._key3: bytearray | None = bytearray()

    @property
    def frames(self) -> int:
        """The number of frames received so far."""
        return self._rest.frames

    @property
    def frames_decoder(self) -> Decoder:
        """The decoder of the bytes after the third key."""
        return self._rest

    def feed(self, data: bytes | bytearray | memoryview) -> list[Event]:
        if self._key3 is None:
            return self._rest.feed(data)
        missing = KEY3_SIZE - len(self._key3)
        self._key3 += data[:missing]
        if len(self._key3) < KEY3_SIZE:
            return []
        completed = Completed(challenge_answer(self._secret, bytes(self._key3)))
        self._key3 = None
        return [completed, *self._rest.feed(data[missing:])]


def client_request_builder(draft: str | None) -> Callable[[Offer], ClientRequest]:
    """Return a function that builds the client's request.

    The request has `Sec-WebSocket-Draft` unless `draft` is None.
    """

    def build(offer: Offer) -> ClientRequest:
        keys = [new_key() for _ in KEY_HEADERS]
        key3 = os.urandom(KEY3_SIZE)
        fields = [("Upgrade", "WebSocket"), ("Connection", "Upgrade"), ("Host", offer.host)]
        fields.append(("Origin", offer_origin(offer)))
        if draft is None:
            fields += only_subprotocol(offer, SUBPROTOCOL_HEADER)
        else:
            if offer.subprotocols:
                fields.append((SUBPROTOCOL_HEADER, " ".join(offer.subprotocols)))
            fields.append(("Sec-WebSocket-Draft", draft))
        fields += [(name, key) for name, (key, _) in zip(KEY_HEADERS, keys, strict=True)]
        expected = challenge_answer(numbers_in_bytes(*(number for _, number in keys)), key3)

        def verify(headers: Headers, body: bytes) -> bytes:
            verify_location(offer, headers, "Sec-")
            if body != expected:
                raise ValueError("the server did not answer the challenge")
            return b""

        request = head(f"GET {offer.target} HTTP/1.1", [*fields, *offer.headers]) + key3
        return ClientRequest(request, verify, ANSWER_SIZE, needs_subprotocol=draft is None)

    return build


def only_subprotocol(offer: Offer, name: str) -> list[tuple[str, str]]:
    """Return the field `name` with the one subprotocol that hixie-75 and hixie-76 can offer."""
    if len(offer.subprotocols) > 1:
        version = "hixie-76" if name.startswith("Sec-") else "hixie-75"
        raise UnsupportedByVersion(f"{version} cannot offer more than one subprotocol")
    return [(name, subprotocol) for subprotocol in offer.subprotocols]


def offer_origin(offer: Offer) -> str:
    """Return the origin, which these versions require: by default that of the host itself."""
    if offer.origin is not None:
        return offer.origin
    return ("https://" if offer.secure else "http://") + offer.host


def verify_location(offer: Offer, headers: Headers, prefix: str) -> None:
    """Compare origin and location, as hixie-75 to hybi-03 require of a client.

    Raises `ValueError` if one of them differs.
    """
    scheme = "wss" if offer.secure else "ws"
    expected = {
        f"{prefix}WebSocket-Origin": offer_origin(offer),
        f"{prefix}WebSocket-Location": f"{scheme}://{offer.host}{offer.target}",
    }
    for name, value in expected.items():
        if headers.get_all(name) != [value]:
            raise ValueError(f"{name} must be {value!r}, not {headers.get(name)!r}")
