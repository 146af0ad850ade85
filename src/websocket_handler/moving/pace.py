"""The pace of a move: as gentle as the time allows."""

from __future__ import annotations

import math
import time

MAX_REQUESTS = 8
"""Requests that are repeated at the same time at most."""

MAX_PAUSE_S = 1.0

PACED_SHARE = 0.5
"""The share of the remaining time over which the remaining connections are spread at most."""

WEIGHT_OF_LAST = 0.1
"""The weight of the last duration in the average."""


class Pace:
    """Chooses the number of requests at the same time, and the pauses between them.

    Requests at the same time delay one another, and the connections that are served meanwhile. So
    there is one at first. If the time is short, the pauses become shorter, then requests are added.
    """

    def __init__(self, deadline: float, pause: float) -> None:
        """`pause`: the longest pause after a move, in relation to the duration of the move."""
        self._deadline = deadline
        self._pause = pause
        self._average: float | None = None
        self._last_end = time.monotonic()

    def note(self, seconds: float) -> None:
        """Note the duration of a move. Called by one thread at a time."""
        average = seconds if self._average is None else self._average
        self._average = average + WEIGHT_OF_LAST * (seconds - average)
        self._last_end = time.monotonic()

    def requests(self, remaining: int) -> int:
        """Return the number of requests at the same time that `remaining` connections need."""
        if self._average is None:  # the new process may still be starting
            return 1
        duration = max(self._average, time.monotonic() - self._last_end)
        needed = math.ceil(duration / max(self._seconds_each(remaining), 0.001))
        return max(1, min(needed, MAX_REQUESTS, remaining))

    def pause_after(self, seconds: float, remaining: int, requests: int) -> float:
        """Return the pause after a move of that duration, in seconds."""
        available = requests * self._seconds_each(remaining) - seconds
        return max(0.0, min(self._pause * seconds, available, MAX_PAUSE_S))

    def _seconds_each(self, remaining: int) -> float:
        return (self._deadline - time.monotonic()) * PACED_SHARE / (remaining + 1)
