"""Counts, logs and reports what the broker refuses: a message, or to receive from a room."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import BusWorker

logger = logging.getLogger("websocket_handler")

MAX_LOGGED = 100
"""Log records of refusals, one for each channel and direction."""


class RefusalLog:
    """In the bus's thread."""

    def __init__(self, endpoint: BusWorker) -> None:
        self._worker = endpoint
        self._logged: set[tuple[str, str]] = set()

    def message(self, room: str, reason: str) -> None:
        """A message to the room has not reached the other processes."""
        self._worker.counters.refused += 1
        self._report("send to", room, reason)

    def room(self, room: str, reason: str) -> None:
        """Messages that others send to the room do not reach this process."""
        self._report("receive from", room, reason)

    def _report(self, action: str, room: str, reason: str) -> None:
        self.log(action, room, reason)
        endpoint = self._worker
        endpoint.call(endpoint.rooms.refused, room, action, reason)

    def log(self, action: str, name: str, reason: str) -> None:
        """Once for each channel or room."""
        if (action, name) in self._logged or len(self._logged) >= MAX_LOGGED:
            return
        self._logged.add((action, name))
        more = "" if len(self._logged) < MAX_LOGGED else "; further ones are only counted"
        logger.warning("the broker refuses to %s %r: %s%s", action, name, reason, more)
