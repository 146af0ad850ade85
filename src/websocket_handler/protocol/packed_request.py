"""Compact storage of the request while no code reads it.

Each open WebSocket keeps its request, and a server may have a hundred thousand of them. The
requests of browsers are nearly equal: connections share the text of the fields that most clients
of a site send alike. A packed request is the number of that text and the connection's own part:
target, address and all other fields.

A short own part is marshalled. A longer one, with cookies, has the key as 16 bytes, the address as
6, and all other text in 6 bits per letter or digit. If that is not possible, it is marshalled and
compressed by zlib with a preset dictionary.
"""

from __future__ import annotations

import marshal
import re
import zlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from socket import inet_aton, inet_ntoa
from typing import Any

from .request import Forwarded, Headers, Request

WINDOW_BITS = -11  # a raw stream, and a window of 2 KiB, which the dictionary fits into
MEMORY_LEVEL = 3

SHARED_FIELDS = frozenset(
    spelling
    for name in (
        *("Host", "Origin", "User-Agent", "Connection", "Upgrade", "Pragma", "Cache-Control"),
        *("Accept", "Accept-Encoding", "Accept-Language", "DNT", "X-Forwarded-Proto"),
        *("Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-WebSocket-Version"),
        *("Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"),
    )
    for spelling in (name, name.lower())
)
"""The fields whose values many connections share."""

MAX_SHARED_TEXTS = 1024
"""Different texts that are kept, until the process ends. Later ones are part of the own part."""

MAX_SHARED_CHARACTERS = 2048
"""A longer text is not shared."""

MIN_COMPACT_CHARACTERS = 80
"""A shorter own text is marshalled, which takes less time."""

MIN_COMPRESSED_BYTES = 128
"""A shorter marshalled part is not compressed."""

COMPRESSED = 1 << 15  # bits of the two bytes with the number: the marshalled part is compressed,
COMPACT = 1 << 14  # the request is a usual one,
HAS_KEY = 1 << 13  # and its key is before the address
NUMBER = HAS_KEY - 1

KEY_FIELDS = frozenset(("Sec-WebSocket-Key", "sec-websocket-key"))
KEY_SIZE = 16
ADDRESS_SIZE = 6

ZLIB_DICTIONARY = "\n".join(
    (
        "X-Forwarded-For\n127.0.0.1\nX-Forwarded-Proto\nhttps\nX-Real-IP\nAuthorization\nBearer ",
        "Accept\n*/*\nSec-Fetch-Mode\nwebsocket\nSec-Fetch-Site\nsame-origin\nSec-Fetch-Dest\nempty",
        "wss\nDNT\n1\nCookie\ncsrftoken=; sessionid=; session=\nSec-WebSocket-Protocol\nchat",
        (
            "User-Agent\nPython/3 Node.js Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) "
            "(Linux; Android 10; K) (Macintosh; Intel Mac OS X 10_15_7) "
            "(X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0 "
            "(Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Version/18.5 Mobile/15E148 Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0"
        ),
        "Accept-Encoding\ngzip, deflate, br, zstd\nAccept-Language\nen-US,en;q=0.9,de;q=0.8",
        "Pragma\nno-cache\nCache-Control\nno-cache\nOrigin\nhttps://localhost:8080",
        "Sec-WebSocket-Extensions\npermessage-deflate; client_max_window_bits",
        "GET\n/ws\n1.1\nhttp\nHost\nlocalhost:8000\nHost\n127.0.0.1:8000\nUpgrade\nwebsocket",
        "Connection\nUpgrade\nSec-WebSocket-Version\n13\nSec-WebSocket-Key\n",
    )
).encode()
"""Frequent parts of requests, the most frequent last (a preset dictionary, RFC 1950). It can be
changed at any time, because packed bytes never leave the process."""


_DEFLATER = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zdict=ZLIB_DICTIONARY)
"""Copied for each use, because reading the dictionary costs more than the compression."""

_shared_texts: list[str] = [""]
_numbers: dict[str, int] = {}


COOKIES = (
    *("csrftoken=", "sessionid=", "session=", "session_id=", "sid=", "connect.sid=s%3A"),
    *("PHPSESSID=", "JSESSIONID=", "token=", "lang=", "_ga=GA1.1.", "user="),
)
"""Frequent beginnings of cookies."""

_PUNCTUATION = "\n !\"#$%&'()*+,-./:;<>?@[\\]^_`{|}~"
_PLAIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ESCAPE = "/"  # never the second symbol of a pair, so that it can also fill the last byte
_SYMBOLS: dict[str, str] = {"=": "+"} | {
    word: _ESCAPE + symbol
    for word, symbol in zip(
        (*_PUNCTUATION, "; ", *(start + one for start in ("\n", "; ") for one in COOKIES)),
        _PLAIN,
        strict=False,
    )
}
"""The symbols of base64 for text: letters and digits stand for themselves, "=" has another symbol,
and an escape with a second symbol stands for any other ASCII character or for a frequent word."""

_TEXTS: dict[str, str] = {symbols: text for text, symbols in _SYMBOLS.items()}
_NAMES = "|".join(map(re.escape, COOKIES))
_WORD = re.compile(rf"[^A-Za-z0-9](?:(?<=\n)(?:{_NAMES})|(?<=;) (?:{_NAMES})?)?")
_PAIR = re.compile(rf"{_ESCAPE}.|\+")


def pack(request: Request) -> Request | bytes:
    """Return the request in about a hundred bytes, if other connections share the rest.

    Returns the request itself if it cannot be packed: its address has a type that `marshal` does
    not support, or one of its strings contains a line break.
    """
    shared = [request.method, request.http_version, request.scheme]
    own = [request.target]
    for name, value in request.headers.fields():
        shared.append(name)
        (shared if name in SHARED_FIELDS else own).append(value)
    shared_text, own_text = "\n".join(shared), "\n".join(own)
    if shared_text.count("\n") != len(shared) - 1 or own_text.count("\n") != len(own) - 1:
        return request
    number = _numbers.get(shared_text) or _keep(shared_text)
    if number and request.received is None and len(own_text) >= MIN_COMPACT_CHARACTERS:
        packed = _compact(number, request, own)
        if packed:
            return packed
    return _marshalled(request, number, shared_text, own_text)


def _compact(number: int, request: Request, own: list[str]) -> bytes:
    """Return the packed request, b"" if its address or its text is not a usual one."""
    key, place = b"", 1
    for name, value in request.headers.fields():
        if name in KEY_FIELDS:  # the first one
            key = _key_bytes(value)
            if key:
                del own[place]
            break
        place += name not in SHARED_FIELDS
    address, text = _address_bytes(request.remote_address), _six_bits("\n".join(own))
    if not (address and text):
        return b""
    number |= COMPACT | (HAS_KEY if key else 0)
    return number.to_bytes(2, "big") + key + address + text


def _marshalled(request: Request, number: int, shared_text: str, own_text: str) -> Request | bytes:
    parts: list[Any] = [request.remote_address, own_text]
    if not number or request.received is not None:
        parts.append(request.received and (*request.received,))
    if not number:
        parts.append(shared_text)
    try:
        plain = marshal.dumps(tuple(parts))
    except ValueError:
        return request
    if len(plain) < MIN_COMPRESSED_BYTES:
        return number.to_bytes(2, "big") + plain
    deflater = _DEFLATER.copy()
    return (number | COMPRESSED).to_bytes(2, "big") + deflater.compress(plain) + deflater.flush()


def _key_bytes(key: str) -> bytes:
    """Return the bytes of a usual Sec-WebSocket-Key, b"" for any other value."""
    try:
        data = a2b_base64(key)
    except (Base64Error, ValueError):
        return b""
    return data if len(data) == KEY_SIZE and _key_text(data) == key else b""


def _key_text(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode()


def _address_bytes(address: object) -> bytes:
    """Return the bytes of an address and port of IPv4, b"" for any other value."""
    if type(address) is not tuple or len(address) != 2 or type(address[1]) is not int:
        return b""
    host, port = address
    try:
        data = inet_aton(host) + port.to_bytes(2, "big")
    except (TypeError, OSError, OverflowError):
        return b""
    return data if _address(data) == address else b""


def _address(data: bytes) -> tuple[str, int]:
    return inet_ntoa(data[:4]), int.from_bytes(data[4:], "big")


def _six_bits(text: str) -> bytes:
    """Return the text in symbols of 6 bits, b"" if it is empty or contains other characters."""
    try:
        symbols = _WORD.sub(lambda found: _SYMBOLS[found[0]], text)
        data = a2b_base64(symbols + _ESCAPE * (-len(symbols) % 4))
    except (KeyError, ValueError):
        return b""
    return data[: (6 * len(symbols) + 7) // 8]


def _from_six_bits(data: bytes) -> str:
    symbols = b2a_base64(data + b"\xff" * (-len(data) % 3), newline=False).decode()
    return _PAIR.sub(lambda found: _TEXTS[found[0]], symbols.rstrip(_ESCAPE))


def _keep(shared_text: str) -> int:
    """Return the number of a text that is shared from now on, 0 if no more texts are kept.

    Two threads may keep the same text; each of its numbers is valid.
    """
    if len(_shared_texts) > MAX_SHARED_TEXTS or len(shared_text) > MAX_SHARED_CHARACTERS:
        return 0
    _shared_texts.append(shared_text)
    number = _numbers[shared_text] = _shared_texts.index(shared_text)
    return number


def unpack(packed: bytes) -> Request:
    """Return the request that `pack` turned into `packed`."""
    number, rest = int.from_bytes(packed[:2], "big"), packed[2:]
    if not number & COMPACT:
        return _unmarshalled(number, rest)
    key = ""
    if number & HAS_KEY:
        key, rest = _key_text(rest[:KEY_SIZE]), rest[KEY_SIZE:]
    address, own_text = _address(rest[:ADDRESS_SIZE]), _from_six_bits(rest[ADDRESS_SIZE:])
    return _joined(_shared_texts[number & NUMBER], own_text, key, address)


def _unmarshalled(number: int, rest: bytes) -> Request:
    if number & COMPRESSED:
        rest = zlib.decompressobj(WINDOW_BITS, zdict=ZLIB_DICTIONARY).decompress(rest)
    address, own_text, received, shared_text = (
        *marshal.loads(rest),  # noqa: S302 (our own bytes)
        *(None, None),
    )[:4]
    forwarded = None if received is None else Forwarded(*received)
    return _joined(shared_text or _shared_texts[number & NUMBER], own_text, "", address, forwarded)


def _joined(
    shared_text: str,
    own_text: str,
    key: str,
    address: object,
    received: Forwarded | None = None,
) -> Request:
    """Return the request of the two texts. `key`, if there is one, is not in `own_text`."""
    shared, own = iter(shared_text.split("\n")), iter(own_text.split("\n"))
    method, http_version, scheme = next(shared), next(shared), next(shared)
    target = next(own)
    fields = []
    for name in shared:
        if name in SHARED_FIELDS:
            fields.append((name, next(shared)))
        elif key and name in KEY_FIELDS:
            fields.append((name, key))
            key = ""
        else:
            fields.append((name, next(own)))
    return Request(method, target, Headers(fields), http_version, address, scheme, received)
