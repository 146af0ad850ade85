"""The statistics of an engine for Prometheus, with `prometheus-client` (extra `[metrics]`).

    from prometheus_client import REGISTRY
    from websocket_handler.metrics import EngineCollector

    REGISTRY.register(EngineCollector())

Statistics are read only when Prometheus scrapes, so messages cost nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .engine import Engine, default_engine
from .engine.stats import Histogram, Traffic


class EngineCollector(Collector):
    """Collects `Engine.stats()`. Times are in seconds, sizes in bytes."""

    def __init__(self, engine: Engine | None = None, prefix: str = "websocket") -> None:
        """Collect from `engine`; by default, from the default engine at the time of a scrape.

        `prefix` starts the name of each metric, which distinguishes several engines.
        """
        self._engine = engine
        self._prefix = prefix

    def collect(self) -> Iterator[Metric]:
        stats = (self._engine or default_engine()).stats()
        yield self._gauge("connections", "Open connections.", stats.open)
        yield self._gauge("buffered_bytes", "Bytes not yet sent to peers.", stats.buffered)
        yield self._counter("connections_accepted", "Accepted handshakes.", stats.accepted)
        yield self._by(
            "handshakes_refused", "Rejected handshakes, by HTTP status.", "status", stats.refused
        )
        yield self._by(
            "connections_closed", "Closed connections, by close code.", "code", stats.closed
        )
        yield from self._traffic(stats.traffic)
        yield self._histogram(
            "round_trip_seconds", "Time from a ping to its pong.", stats.round_trips
        )
        yield self._counter(
            "listener_takeovers",
            "Listeners that blocked until another thread took over the engine.",
            stats.listener_takeovers,
        )
        yield self._counter(
            "threads_exhausted",
            "Times all threads were blocked by listeners.",
            stats.threads_exhausted,
        )

    def _traffic(self, traffic: Traffic) -> Iterator[Metric]:
        for unit in ("messages", "frames", "bytes"):
            amounts = {way: getattr(traffic, f"{unit}_{way}") for way in ("received", "sent")}
            yield self._by(unit, f"{unit.capitalize()} of all connections.", "direction", amounts)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        return GaugeMetricFamily(f"{self._prefix}_{name}", text, value=value)

    def _counter(self, name: str, text: str, value: float) -> Metric:
        return CounterMetricFamily(f"{self._prefix}_{name}", text, value=value)

    def _by(
        self, name: str, text: str, label: str, values: Mapping[int, int] | Mapping[str, int]
    ) -> Metric:
        family = CounterMetricFamily(f"{self._prefix}_{name}", text, labels=[label])
        for key, value in values.items():
            family.add_metric([str(key)], value)
        return family

    def _histogram(self, name: str, text: str, histogram: Histogram) -> Metric:
        bounds = [*map(str, histogram.bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
        return HistogramMetricFamily(
            f"{self._prefix}_{name}", text, buckets=buckets, sum_value=histogram.total
        )
