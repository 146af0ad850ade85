"""Counts, logs and reports refusals by the broker, to publish or to subscribe."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .worker import BusWorker

logger: logging.Logger = logging.getLogger("websocket_handler")

MAX_LOGGED = 100
"""The maximum number of log records about refusals, one for each channel and direction."""


class BrokerRefusalLog:
    """Runs in the bus's thread."""

    def __init__(self, worker: BusWorker) -> None:
        self._worker = worker
        self._logged: set[tuple[str, str]] = set()

    def message(self, room: str, reason: str) -> None:
        """Report a message that did not reach the other processes."""
        self._worker.counters.refused += 1
        self._report("send to", room, reason)

    def room(self, room: str, reason: str) -> None:
        """Report a room whose messages from other processes do not reach this process."""
        self._report("receive from", room, reason)

    def _report(self, action: str, room: str, reason: str) -> None:
        self.log(action, room, reason)
        worker = self._worker
        worker.call(worker.rooms.refused, room, action, reason)

    def log(self, action: str, name: str, reason: str) -> None:
        """Log a refusal, once for each action and name."""
        if (action, name) in self._logged or len(self._logged) >= MAX_LOGGED:
            return
        self._logged.add((action, name))
        more = "" if len(self._logged) < MAX_LOGGED else "; further refusals are not logged"
        logger.warning("the broker refuses to %s %r: %s%s", action, name, reason, more)
