"""The statistics of an engine, and its limits on the number of connections.

A connection is counted from its accepted handshake until its socket is closed. The limits are
checked here, because the numbers of open connections are counted here.
"""

from __future__ import annotations

import operator
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import reduce
from typing import NamedTuple, Protocol

from ..refusals import RefusalLog

ROUND_TRIP_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the histogram of ping round trips, in seconds."""


class CannotStart(RuntimeError):
    """An engine cannot be started now."""

    def __init__(self) -> None:
        super().__init__("no thread can be started for the engine, or no descriptors are left")


class Traffic(NamedTuple):
    """Counts of one connection, or of all connections of an engine.

    Bytes include the HTTP response and frame headers, but not the overhead of TLS. Frames include
    control frames.
    """

    messages_received: int = 0
    messages_sent: int = 0
    frames_received: int = 0
    frames_sent: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def __add__(self, other: Traffic) -> Traffic:  # type: ignore[override]
        return Traffic(*map(operator.add, self, other))


class Histogram(NamedTuple):
    """Counts of values per bucket: `counts[i]` values were at most `bounds[i]` and above the bound
    before; the last count is for values above all bounds. `total` is the sum of the values."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics of an engine since it was created: `Engine.stats()`."""

    open: int
    """Open connections, each from its accepted handshake until its socket is closed."""
    accepted: int
    """Handshakes accepted so far, and connections opened as a client."""
    refused: Mapping[int, int]
    """Handshakes refused, by HTTP status."""
    closed: Mapping[int, int]
    """Closed connections, by close code."""
    buffered: int
    """Unsent bytes of all open connections."""
    traffic: Traffic
    """Counts of all connections, open and closed."""
    round_trips: Histogram
    """Seconds from a ping to its pong."""
    listener_takeovers: int
    """Number of takeovers of the engine by another thread, because a listener blocked."""
    threads_exhausted: int
    """Number of times that no thread was left, or could be started, for another takeover."""


class Limit(Enum):
    """The reason why an engine does not accept another connection."""

    CLOSING = auto()
    """The engine is closing its connections (`close_all` with a window)."""
    CONNECTIONS = auto()
    """`max_connections` are open."""
    CONNECTIONS_PER_ADDRESS = auto()
    """`max_connections_per_address` are open from this address."""


class Limits(Protocol):
    """The limits of `Settings` that are checked here."""

    @property
    def max_connections(self) -> int | None: ...
    @property
    def max_connections_per_address(self) -> int | None: ...


class Connection(Protocol):
    """An open connection."""

    @property
    def traffic(self) -> Traffic: ...
    @property
    def buffered_amount(self) -> int: ...


class Ledger:
    """Counts the events of one engine and checks its limits. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = self._accepted = self._exhausted = 0
        self._by_address: Counter[str] = Counter()
        self._refused: Counter[int] = Counter()
        self._closed: Counter[int] = Counter()
        self._past = Traffic()
        self._round_trips = [0] * (len(ROUND_TRIP_BOUNDS) + 1)
        self._round_trip_total = 0.0
        self.refusals: RefusalLog = RefusalLog()
        """The log of refused handshakes."""
        self.is_draining = False
        """Whether every new handshake is refused because the engine is closing."""
        self.error_observers: tuple[Callable[[BaseException], object], ...] = ()
        """Called with each error that a listener raises: for `websocket_handler.testing`."""

    def enter(self, limits: Limits, address: str | None) -> Limit | None:
        """Count a connection from `address`. Returns None, or the limit that is reached."""
        most, most_there = limits.max_connections, limits.max_connections_per_address
        with self._lock:
            if self.is_draining:
                return Limit.CLOSING
            if most is not None and self._open >= most:
                return Limit.CONNECTIONS
            if most_there is not None and address is not None:
                if self._by_address[address] >= most_there:
                    return Limit.CONNECTIONS_PER_ADDRESS
                self._by_address[address] += 1
            self._open += 1
        return None

    def count_accepted(self) -> None:
        """Count an accepted handshake, when its 101 is sent."""
        with self._lock:
            self._accepted += 1

    def enter_client(self) -> None:
        """Count a connection that was opened by the client."""
        with self._lock:
            self._open += 1
            self._accepted += 1

    def leave(self, address: str | None) -> None:
        """Count that a connection has ended. `address` is None if there is no limit per address."""
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

    def observe_error(self, error: BaseException) -> None:
        for observer in self.error_observers:
            observer(error)

    def count_exhausted(self) -> int:
        """Count that no thread was left. Returns the number of times so far."""
        with self._lock:
            self._exhausted += 1
            return self._exhausted

    def stats(self, present: Collection[Connection], listener_takeovers: int) -> Stats:
        """Return the statistics. The engine passes its `present` connections and its takeovers."""
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
