"""The engine's statistics as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from websocket_handler import Engine
from websocket_handler.metrics import EngineCollector

from ..support.programs import wait_for
from .traffic import echoing, frame, leave


def scrape(engine: Engine, prefix: str = "websocket") -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(EngineCollector(engine, prefix))
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_metrics_show_engine_counters(engine: Engine) -> None:
    gone, peer = echoing(engine)
    leave(gone, peer, code=4001)
    websocket, peer = echoing(engine)
    websocket.ping("hello")
    peer.read()
    peer.sock.sendall(frame(10, b"hello") + frame(1, b"message"))
    peer.read()
    found = scrape(engine)
    assert found["websocket_connections_accepted_total"] == 2
    assert found["websocket_connections_closed_total code=4001"] == 1
    assert found["websocket_messages_total direction=received"] == 1
    assert found["websocket_frames_total direction=sent"] == 3
    assert found["websocket_bytes_total direction=received"] > 20
    assert found["websocket_round_trip_seconds_bucket le=+Inf"] == 1
    assert found["websocket_round_trip_seconds_count"] == 1
    assert found["websocket_round_trip_seconds_sum"] == websocket.latency
    assert found["websocket_connections"] >= 1
    assert found["websocket_listener_takeovers_total"] == 0
    wait_for(lambda: scrape(engine)["websocket_buffered_bytes"] == 0, "the buffer to be empty")


def test_metrics_of_two_engines_stay_separate(engine: Engine) -> None:
    echoing(engine)
    assert scrape(engine, "chat")["chat_connections"] == 1
