"""Realistic messages: JSON that compresses like that of applications."""

from __future__ import annotations

import json
import zlib


def json_message(size: int) -> bytes:
    """Return `size` bytes of JSON with similar records, as an application sends it."""
    records, text = [], ""
    while len(text) < size:
        number = len(records)
        records.append(
            {
                "id": 1_000_003 * number % 1_000_000,
                "user": f"user{number * 7919 % 10_000}",
                "price": round(100 + number * 1.37 % 17, 2),
                "change": round(number * 0.73 % 5 - 2.5, 3),
                "at": f"2026-01-{number % 28 + 1:02}T{number % 24:02}:{number * 7 % 60:02}:00Z",
                "active": number % 3 == 0,
            }
        )
        text = json.dumps(records)
    return text.encode()[:size]


def compress(message: bytes) -> bytes:
    """Return the payload of a compressed message (RFC 7692 section 7.2.1)."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, -15, 8)
    return (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
