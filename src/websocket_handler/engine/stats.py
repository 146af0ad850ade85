"""What an engine has seen, and who may still come in.

Every connection is entered when its handshake is accepted and struck out when its socket is
closed; the two limits on how many there may be are decided here, because only here are all
of them known.
"""

from __future__ import annotations

import operator
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import reduce
from http import HTTPStatus
from typing import NamedTuple, Protocol

from ..refusals import RefusalLog

ROUND_TRIP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of round trips, in seconds."""

NOT_SERVED = HTTPStatus.SERVICE_UNAVAILABLE, "the server cannot serve one more connection now"
"""Why nobody enters an engine that was stopped, or for which no thread can be started."""


class NoThread(RuntimeError):
    """The thread of an engine cannot be started."""

    def __init__(self) -> None:
        super().__init__("no thread can be started for the engine")


class Traffic(NamedTuple):
    """What went over one connection, or all of an engine. Bytes are those of the socket, or
    within its TLS, handshake and frame headers included; frames include control frames."""

    messages_received: int = 0
    messages_sent: int = 0
    frames_received: int = 0
    frames_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Traffic) -> Traffic:  # type: ignore[override]
        return Traffic(*map(operator.add, self, other))


class Histogram(NamedTuple):
    """How many values were at most each of `bounds`, with one more count for those above."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Stats:
    """An engine's account of itself, since it began: `Engine.stats()`."""

    open: int
    """Connections now, from their accepted handshake until their socket is closed."""
    accepted: int
    """Handshakes accepted so far, and connections opened as a client."""
    refused: Mapping[int, int]
    """Handshakes refused, by HTTP status."""
    closed: Mapping[int, int]
    """Connections that ended, by close code."""
    buffered: int
    """Bytes that wait for peers to read."""
    traffic: Traffic
    """Of all connections, those that are open and those that were."""
    round_trips: Histogram
    """Seconds from pings to their pongs."""
    listener_takeovers: int
    """How often a listener blocked for so long that another thread went on for the others."""
    threads_exhausted: int
    """How often no thread was left, or could be started, for the next time."""


class Limits(Protocol):
    """Those of `Settings` that are decided here."""

    @property
    def max_connections(self) -> int | None: ...
    @property
    def max_connections_per_address(self) -> int | None: ...


class Connection(Protocol):
    """What is asked of one that is here."""

    @property
    def traffic(self) -> Traffic: ...
    @property
    def buffered_amount(self) -> int: ...


class Ledger:
    """The account itself. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = self._accepted = self._exhausted = 0
        self._by_address: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._closed: Counter[int] = Counter()
        self._past = Traffic()
        self._round_trips = [0] * (len(ROUND_TRIP_BOUNDS) + 1)
        self._round_trip_total = 0.0
        self.refusals = RefusalLog()
        """Where refused handshakes are reported to the operator."""
        self.is_draining = False
        """Whether nobody may come in any more."""

    def enter(self, limits: Limits, address: str | None) -> tuple[HTTPStatus, str] | None:
        """One more connection, from `address`; or why not: a status and a reason."""
        most, most_there = limits.max_connections, limits.max_connections_per_address
        with self._lock:
            if self.is_draining:
                return HTTPStatus.SERVICE_UNAVAILABLE, "the server is going away"
            if most is not None and self._open >= most:
                return HTTPStatus.SERVICE_UNAVAILABLE, "too many connections"
            if most_there is not None and address is not None:
                if self._by_address[address] >= most_there:
                    return HTTPStatus.TOO_MANY_REQUESTS, f"too many connections from {address}"
                self._by_address[address] += 1
            self._open += 1
        return None

    def count_accepted(self) -> None:
        """The 101 of a connection that was entered is on its way."""
        with self._lock:
            self._accepted += 1

    def enter_client(self) -> None:
        """One more connection, which we have opened."""
        with self._lock:
            self._open += 1
            self._accepted += 1

    def leave(self, address: str | None) -> None:
        """A connection that was entered has no socket any more. `address` is None where the
        limit for each is off."""
        with self._lock:
            self._open -= 1
            if address is not None:
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]

    def count_past(self, traffic: Traffic) -> None:
        with self._lock:
            self._past += traffic

    def count_refused(self, status: int) -> None:
        with self._lock:
            self._refused[status] += 1

    def count_closed(self, code: int) -> None:
        with self._lock:
            self._closed[code] += 1

    def count_round_trip(self, seconds: float) -> None:
        with self._lock:
            self._round_trips[bisect_left(ROUND_TRIP_BOUNDS, seconds)] += 1
            self._round_trip_total += seconds

    def count_exhausted(self) -> None:
        with self._lock:
            self._exhausted += 1

    def stats(self, present: Collection[Connection], listener_takeovers: int) -> Stats:
        """With what only the engine knows: who is `present`."""
        buffered = sum(connection.buffered_amount for connection in present)
        traffic = [connection.traffic for connection in present]
        with self._lock:
            return Stats(
                open=self._open,
                accepted=self._accepted,
                refused=dict(self._refused),
                closed=dict(self._closed),
                buffered=buffered,
                traffic=reduce(operator.add, traffic, self._past),
                round_trips=Histogram(
                    ROUND_TRIP_BOUNDS, tuple(self._round_trips), self._round_trip_total
                ),
                listener_takeovers=listener_takeovers,
                threads_exhausted=self._exhausted,
            )
