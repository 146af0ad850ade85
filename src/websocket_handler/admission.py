"""Whether a handshake is accepted: the limits on connections, and the HTTP response if not.

The engine counts its connections and checks the limits (`engine/stats.py`); the statuses and texts
of HTTP are here.
"""

from __future__ import annotations

from http import HTTPStatus

from .engine import Engine
from .engine.stats import Limit, Limits

NOT_SERVED = HTTPStatus.SERVICE_UNAVAILABLE, "the server cannot serve another connection now"
"""The refusal if the engine was stopped, or if its thread cannot be started."""


def admit(engine: Engine, limits: Limits, address: str | None) -> tuple[HTTPStatus, str] | None:
    """Start `engine` if necessary, and count a connection from `address`. Returns None, or the
    status and reason to refuse the handshake with."""
    if not engine._try_to_start():
        return NOT_SERVED
    limit = engine._ledger.enter(limits, address)
    if limit is None:
        return None
    if limit is Limit.CLOSING:
        return HTTPStatus.SERVICE_UNAVAILABLE, "the server is shutting down"
    if limit is Limit.CONNECTIONS:
        return HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"
    return HTTPStatus.TOO_MANY_REQUESTS, f"too many connections from {address}"
