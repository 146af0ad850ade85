"""Compact storage of the request while no code reads it.

Each open WebSocket keeps its request, and a server may have a hundred thousand of them. The
requests of browsers are nearly equal: connections share the text of the fields that most clients
of a site send alike. A packed request is the number of that text and the connection's own part:
target, address and all other fields. zlib compresses the own part if it is long, with a preset
dictionary.
"""

from __future__ import annotations

import marshal
import zlib
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

MIN_COMPRESSED_BYTES = 128
"""A shorter own part is not compressed."""

COMPRESSED = 1 << 15  # a bit of the two bytes with the number

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


def pack(request: Request) -> Request | bytes:
    """Return the request in about fifty bytes, if other connections share the rest.

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
    number, plain = int.from_bytes(packed[:2], "big"), packed[2:]
    if number & COMPRESSED:
        plain = zlib.decompressobj(WINDOW_BITS, zdict=ZLIB_DICTIONARY).decompress(plain)
    address, own_text, received, shared_text = (
        *marshal.loads(plain),  # noqa: S302 (our own bytes)
        *(None, None),
    )[:4]
    shared = iter((shared_text or _shared_texts[number & ~COMPRESSED]).split("\n"))
    own = iter(own_text.split("\n"))
    method, http_version, scheme = next(shared), next(shared), next(shared)
    target = next(own)
    fields = [(name, next(shared if name in SHARED_FIELDS else own)) for name in shared]
    forwarded = None if received is None else Forwarded(*received)
    return Request(method, target, Headers(fields), http_version, address, scheme, forwarded)
