"""Moves the clock of an engine's connections: the time of pings and of the closing handshake."""

from __future__ import annotations

import math
from typing import Any

from ..engine import Engine

MAX_STEPS = 1000
"""The number of steps of one advance, at most."""


def advance(engine: Engine, seconds: float, min_step: float, read_at: float) -> float:
    """Move the clock to the next deadline of a connection, `seconds` at most and `min_step` at
    least, and act on that deadline. Returns the seconds moved. In the engine's thread only.

    The clock itself stays: each connection's times are moved into the past. Moves nothing if a ping
    was sent after `read_at`, when the peers began to read: they must be able to answer it.
    """
    servers = [channel for channel in engine.channels() if not channel._is_client]
    if any(channel._pinged and channel._pinged.pinged_at > read_at for channel in servers):
        return 0.0
    deadlines = [left for channel in servers if (left := channel._advance(0)) is not None]
    next_deadline = math.ceil(min(deadlines, default=seconds) * 1000) / 1000
    moved = min(seconds, max(next_deadline, min_step)) if next_deadline > 0 else 0.0
    for channel in servers:
        _move(channel, moved)
    return moved


def _move(channel: Any, seconds: float) -> None:
    awaited = channel._pinged
    if awaited is not None:
        channel._pinged = awaited._replace(
            pinged_at=awaited.pinged_at - seconds, since=awaited.since - seconds
        )
    left = channel._advance(seconds)
    if left is not None and left <= 0:
        channel._set_deadline(None)
        channel._run_exclusively(channel._deadline_passed)
