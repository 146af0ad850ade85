"""Times that both engines use."""

from __future__ import annotations

DISCARD_TIMEOUT_S = 60.0
"""Seconds, from the first bytes, for which the input of a socket is discarded.

The input is the HTTP server's response to a handler that has connected. It may come late, but the
server closes the connection after it."""

END_CHECK_INTERVAL_S = 1.0
"""Seconds between the looks of the pure-Python engine for the end of a paused connection."""
