"""An application that accepts one WebSocket per client address."""

from __future__ import annotations

from typing import Any

from websocket_handler import WebSocket, WSGIMiddleware


def handler(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = WebSocket.of(environ)
    assert ws is not None
    ws.connect(max_connections_per_address=1)
    start_response("200 OK", [])
    return []


app = WSGIMiddleware(handler)
