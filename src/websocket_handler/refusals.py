"""Refused handshakes in the log: the first of each kind, then counts."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter

from .protocol.printable import printable

logger = logging.getLogger("websocket_handler")

INTERVAL_S = 60.0
"""A kind of refusal is logged once in this time, and then how often it has come."""

MAX_KINDS = 32
"""Kinds that are told apart within one interval; further ones count together."""

OTHERS = (0, "other refusals")


class RefusalLog:
    """Warns of refused handshakes, with a bounded number of lines and bounded memory, however
    many clients are refused. Safe from any thread."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._counts: Counter[tuple[int, str]] = Counter()
        self._since = float("-inf")

    def report(self, request: object, status: int, reason: str) -> None:
        """A handshake was refused; `request` is shown with its peer and path."""
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
        """Forget an interval that is over; return which kinds came repeatedly in it."""
        now = time.monotonic()
        if now - self._since < self._interval_s:
            return Counter()
        past, self._counts, self._since = self._counts, Counter(), now
        return Counter({kind: count for kind, count in past.items() if count > 1})
