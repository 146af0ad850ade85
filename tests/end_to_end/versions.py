"""Requests of every protocol version."""

from __future__ import annotations

import json
from urllib.parse import quote

from websocket_handler import ALL_VERSIONS

NAMES = [version.name for version in ALL_VERSIONS]
ALL = f"versions={quote(json.dumps(NAMES))}&max_message_size=2000000"
"""The query of an echo server that accepts every version."""


def hixie_76(**others: str | None) -> dict[str, str | None]:
    return {
        "Upgrade": "WebSocket",
        "Origin": None,
        "Sec-WebSocket-Version": None,
        "Sec-WebSocket-Key": None,
        "Sec-WebSocket-Key1": "4 @1  46546xW%0l 1 5",
        "Sec-WebSocket-Key2": "12998 5 Y3 1  .P00",
        **others,
    }
