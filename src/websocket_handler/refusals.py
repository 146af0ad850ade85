"""Logs refused handshakes: the first of each kind, then counts."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from .protocol.printable import printable

logger: logging.Logger = logging.getLogger("websocket_handler")

INTERVAL_S = 60.0
"""Seconds. Each kind of refusal is logged once per interval, and its count afterwards."""

MAX_KINDS = 32
"""Kinds that are counted separately within one interval. All others are counted together."""

OTHERS = (0, "other refusals")


class RefusalLog:
    """Logs a warning for refused handshakes. Thread-safe.

    The number of lines and the memory are bounded, regardless of the number of refusals.
    """

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, str]] = Counter()
        self._since = float("-inf")

    def report(self, request: object, status: int, reason: str) -> None:
        """Log or count a refused handshake. The `repr` of `request` names its peer and path."""
        kind = (int(status), printable(reason))
        with self._lock:
            repeated = self._begin_interval()
            if kind not in self._counts and len(self._counts) >= MAX_KINDS:
                kind = OTHERS
            self._counts[kind] += 1
            is_first = self._counts[kind] == 1
        for (known_status, known_reason), count in repeated.items():
            logger.warning(
                "%d more handshakes were refused: %s",
                count - 1,
                f"{known_status} {known_reason}" if known_status else known_reason,
            )
        if is_first:
            logger.warning("%r: handshake refused with %d: %s", request, status, reason)

    def _begin_interval(self) -> Counter[tuple[int, str]]:
        """Start a new interval if the last one is over. Returns the repeated kinds of that one."""
        now = time.monotonic()
        if now - self._since < self._interval_s:
            return Counter()
        past, self._counts, self._since = self._counts, Counter(), now
        return Counter({kind: count for kind, count in past.items() if count > 1})
