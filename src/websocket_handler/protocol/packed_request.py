"""Compact storage of the request while no code reads it.

Each open WebSocket keeps its request, and a server may have a hundred thousand of them. The
requests of browsers are nearly equal, so zlib compresses them well with a preset dictionary.
"""

from __future__ import annotations

import marshal
import zlib
from typing import Any

from .request import Forwarded, Headers, Request

WINDOW_BITS = -11  # a raw stream, and a window of 2 KiB, which the dictionary fits into
MEMORY_LEVEL = 3

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


def pack(request: Request) -> Request | bytes:
    """Return the request in about a hundred bytes.

    Returns the request itself if it cannot be packed: its address has a type that `marshal` does
    not support, or one of its strings contains a line break.
    """
    words = [request.method, request.target, request.http_version, request.scheme]
    for field in request.headers.fields():
        words += field
    text = "\n".join(words)
    if text.count("\n") != len(words) - 1:
        return request
    address: Any = request.remote_address
    try:
        received: Any = request.received and (*request.received,)
        plain = marshal.dumps((address, text, received))
    except ValueError:
        return request
    deflater = zlib.compressobj(1, zlib.DEFLATED, WINDOW_BITS, MEMORY_LEVEL, zdict=ZLIB_DICTIONARY)
    return deflater.compress(plain) + deflater.flush()


def unpack(packed: bytes) -> Request:
    """Return the request that `pack` turned into `packed`."""
    plain = zlib.decompressobj(WINDOW_BITS, zdict=ZLIB_DICTIONARY).decompress(packed)
    address, text, received = marshal.loads(plain)  # noqa: S302 (our own bytes)
    method, target, http_version, scheme, *words = text.split("\n")
    headers = Headers(zip(words[::2], words[1::2], strict=True))
    forwarded = None if received is None else Forwarded(*received)
    return Request(method, target, headers, http_version, address, scheme, forwarded)
