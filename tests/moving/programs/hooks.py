"""The configuration of gunicorn."""

from typing import Any

import websocket_handler

from .mode import report

graceful_timeout = 2  # handlers that receive messages themselves are running requests


def worker_exit(server: Any, worker: Any) -> None:
    del server, worker
    report(websocket_handler.move_connections(window=1, timeout=30))
