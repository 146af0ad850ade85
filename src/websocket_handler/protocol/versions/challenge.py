"""The handshake of hixie-76 to hybi-03: two keys with spaces, a third in the body.

The response's head is sent before the third key has come, because proxies hold it back
until they see the 101; the answer to the challenge follows it. hybi-01 to -03 tell
themselves apart by `Sec-WebSocket-Draft`.
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
from .version import Answer, Decoder, Hello, Offer

KEY3_SIZE = 8
ANSWER_SIZE = 16
STATUS_LINE = "HTTP/1.1 101 WebSocket Protocol Handshake"
KEY_HEADERS = ("Sec-WebSocket-Key1", "Sec-WebSocket-Key2")
SUBPROTOCOL_HEADER = "Sec-WebSocket-Protocol"
LETTERS = [chr(code) for code in (*range(0x21, 0x30), *range(0x3A, 0x7F))]
MAX_NUMBER = (1 << 32) - 1


def recogniser(*drafts: str) -> Callable[[Request], bool]:
    """Whether a request has the keys, and a draft header with one of `drafts` ("" is none)."""

    def is_asked_for(request: Request) -> bool:
        headers = request.headers
        if "Sec-WebSocket-Version" in headers or not any(name in headers for name in KEY_HEADERS):
            return False
        return (headers.get_all("Sec-WebSocket-Draft") or [""]) in [[draft] for draft in drafts]

    return is_asked_for


TARGET = re.compile(r"/[!-~]*")
"""What clients of these versions ask for; the response repeats it byte for byte."""


def find_target_defect(request: Request) -> str | None:
    return None if TARGET.fullmatch(request.target) else "the request target must be a plain path"


def find_defect(request: Request) -> str | None:
    defect = find_target_defect(request)
    if defect is not None:
        return defect
    for name in KEY_HEADERS:
        keys = request.headers.get_all(name)
        if len(keys) != 1:
            return f"there must be exactly one {name} header"
        try:
            key_number(keys[0])
        except ValueError as error:
            return f"{name} {error}"
    return None


def key_number(key: str) -> int:
    """The number hidden in a key: its digits divided by its spaces.

    Raises `ValueError` if there are no spaces or digits, a rest is left, or the number does
    not fit 32 bits.
    """
    digits = "".join(character for character in key if character in "0123456789")
    spaces = key.count(" ")
    if not spaces or not digits:
        raise ValueError("must have digits and spaces")
    if len(digits) > 20:  # 12 spaces times 32 bits are 11
        raise ValueError("hides a number beyond 32 bits")
    number, rest = divmod(int(digits), spaces)
    if rest:
        raise ValueError("hides no whole number")
    if number > MAX_NUMBER:
        raise ValueError("hides a number beyond 32 bits")
    return number


def new_key() -> tuple[str, int]:
    """A key and the number hidden in it (hixie-76, opening handshake, steps 16 to 23)."""
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
    """The 16 bytes that prove the server has read all three keys."""
    return hashlib.md5(secret + key3, usedforsecurity=False).digest()


def answer(request: Request, subprotocol: str | None, extra: Headers) -> Answer:
    """The head of the response, which copies Host and Origin byte for byte."""
    numbers = [key_number(request.headers[name]) for name in KEY_HEADERS]
    fields = location_fields(request, subprotocol, "Sec-")
    return Answer(head(STATUS_LINE, fields + extra.fields()), numbers_in_bytes(*numbers))


def location_fields(
    request: Request, subprotocol: str | None, prefix: str
) -> list[tuple[str, str]]:
    """The response fields of hixie-75 and its successors; the client compares them exactly."""
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
    """The decoder of a server: the first eight bytes are the third key, the rest is frames."""

    def __init__(self, secret: bytes, rest: Decoder) -> None:
        self._secret = secret
        self._rest = rest
        self._key3: bytearray | None = bytearray()

    @property
    def frames(self) -> int:
        return self._rest.frames

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


def greeter(draft: str | None) -> Callable[[Offer], Hello]:
    """What makes the client's request, with `Sec-WebSocket-Draft` unless `draft` is None."""

    def hello(offer: Offer) -> Hello:
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
        return Hello(request, verify, ANSWER_SIZE, needs_subprotocol=draft is None)

    return hello


def only_subprotocol(offer: Offer, name: str) -> list[tuple[str, str]]:
    """The field `name` with the one subprotocol that hixie-75 and -76 have room for."""
    if len(offer.subprotocols) > 1:
        version = "hixie-76" if name.startswith("Sec-") else "hixie-75"
        raise UnsupportedByVersion(f"{version} has no choice of subprotocols")
    return [(name, subprotocol) for subprotocol in offer.subprotocols]


def offer_origin(offer: Offer) -> str:
    """These versions need an origin, also of programs that have none."""
    if offer.origin is not None:
        return offer.origin
    return ("https://" if offer.secure else "http://") + offer.host


def verify_location(offer: Offer, headers: Headers, prefix: str) -> None:
    """What hixie-75 and -76 have a client compare. Raises `ValueError` for what differs."""
    scheme = "wss" if offer.secure else "ws"
    expected = {
        f"{prefix}WebSocket-Origin": offer_origin(offer),
        f"{prefix}WebSocket-Location": f"{scheme}://{offer.host}{offer.target}",
    }
    for name, value in expected.items():
        if headers.get_all(name) != [value]:
            raise ValueError(f"{name} must be {value!r}, not {headers.get(name)!r}")
