"""Misuse by handlers, the same in every framework."""

from __future__ import annotations

import contextlib
from typing import Any

from websocket_handler import WebSocketError

KINDS = ("forgets", "body", "twice", "ordinary")
"""The kinds: return the value of `connect()`; return a body instead; connect twice; connect on an
ordinary request."""


def connect(ws: Any, kind: str) -> Any:
    ws.on("message", ws.send)  # raises if there is no WebSocket
    result = ws.connect()
    if kind == "twice":
        with contextlib.suppress(WebSocketError):
            ws.connect()
    return result
