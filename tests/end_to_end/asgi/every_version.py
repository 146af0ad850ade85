"""uvicorn's protocol class with another setting."""

from __future__ import annotations

from websocket_handler import ALL_VERSIONS
from websocket_handler.servers.uvicorn import WebSocketProtocol


class Protocol(WebSocketProtocol):
    settings = {"versions": ALL_VERSIONS}  # noqa: RUF012
