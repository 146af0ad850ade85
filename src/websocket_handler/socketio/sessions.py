"""A limit on the sessions of one server: python-engineio opens any number of them."""

from __future__ import annotations

from typing import Any

TOO_MANY_SESSIONS = {
    "status": "503 SERVICE UNAVAILABLE",
    "headers": [("Content-Type", "text/plain")],
    "response": b'"Too many sessions"',
}
"""A response in the form of python-engineio."""


def limit_sessions(eio: Any, limit: int) -> None:
    """Have an Engine.IO server answer 503 to new clients while it has `limit` sessions.

    A client that polls has no connection between two polls, so the engine's own limit does not
    count it. Its session lasts for `ping_interval` + `ping_timeout` seconds without a poll.
    """
    connect = eio._handle_connect

    def handle(*request: Any) -> Any:
        return connect(*request) if len(eio.sockets) < limit else TOO_MANY_SESSIONS

    async def handle_in_loop(*request: Any) -> Any:
        return await connect(*request) if len(eio.sockets) < limit else TOO_MANY_SESSIONS

    eio._handle_connect = handle_in_loop if eio.is_asyncio_based() else handle
