"""What handlers may do wrong, the same in every framework."""

from __future__ import annotations

import contextlib
from typing import Any

from websocket_handler import WebSocketError

KINDS = ("forgets", "body", "twice", "ordinary")
"""To return what `connect()` gave; to return a body instead; to connect a second time; to
connect although the request is an ordinary one."""


def connect(ws: Any, kind: str) -> Any:
    ws.on("message", ws.send)  # raises where there is no WebSocket
    result = ws.connect()
    if kind == "twice":
        with contextlib.suppress(WebSocketError):
            ws.connect()
    return result
