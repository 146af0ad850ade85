"""Emitting from another process, through Redis."""

from __future__ import annotations

from pathlib import Path

import pytest

import socketio

from ..rooms.brokers import redis_server
from .engineio_client import connected, receive
from .servers import BOTH, serving


@pytest.mark.parametrize("server", BOTH)
def test_emit_of_another_process_reaches_the_clients(server: str, tmp_path: Path) -> None:
    redis = redis_server(tmp_path)
    try:
        with (
            serving(server, message_queue=redis.url) as program,
            connected(program) as client,
        ):
            emitter = socketio.RedisManager(redis.url, "flask-socketio", write_only=True)
            emitter.emit("news", "from elsewhere", namespace="/")
            assert receive(client) == '42["news","from elsewhere"]'
    finally:
        redis.close()
