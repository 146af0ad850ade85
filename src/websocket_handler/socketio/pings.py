"""The time of a ping, which decides when its client has not answered in time."""

from __future__ import annotations

import time

MAX_LATENESS_S = 0.1
"""Seconds by which a ping may be late without giving the client more time for its pong."""


def time_of_ping(due: float) -> float:
    """Return the `last_ping` of a session whose ping was due at `due` and is sent now: so that a
    session ends `ping_interval` + `ping_timeout` seconds after its last pong."""
    return max(due, time.time() - MAX_LATENESS_S)
