"""Classes for uvicorn and gunicorn that allow every version."""

from __future__ import annotations

from typing import Any, ClassVar

from websocket_handler import ALL_VERSIONS
from websocket_handler.servers.gunicorn import ASGIWorker
from websocket_handler.servers.uvicorn import WebSocketProtocol

SETTINGS = {"versions": ALL_VERSIONS}


class Protocol(WebSocketProtocol):
    settings: ClassVar[dict[str, Any]] = SETTINGS


class Worker(ASGIWorker):
    settings: ClassVar[dict[str, Any]] = SETTINGS
