"""The operator sees the reason of every rejected handshake, in a bounded number of log lines."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from websocket_handler import Engine, Headers, Request, WebSocket
from websocket_handler.refusals import MAX_KINDS, RefusalLog

from ..support.connections import HANDSHAKE, make_websocket


def refuse(engine: Engine, headers: dict[str, str | None], **settings: Any) -> None:
    fields = {**HANDSHAKE, **headers}
    kept = [(name, value) for name, value in fields.items() if value is not None]
    request = Request("GET", "/chat", Headers(kept), remote_address=("192.0.2.7", 4711))
    websocket = WebSocket(request, engine=engine)
    websocket.connect(**settings)


@pytest.mark.parametrize(
    ("headers", "settings", "texts"),
    [
        ({"Sec-WebSocket-Key": None}, {}, ["400", "Sec-WebSocket-Key"]),
        ({"Sec-WebSocket-Version": "14"}, {}, ["426", "'14'"]),
        ({}, {"max_connections": 0}, ["503", "too many connections"]),
        ({}, {"max_connections_per_address": 0}, ["429", "192.0.2.7"]),
        (
            {"Origin": "https://app.example", "Host": "10.0.0.1:8000"},
            {},
            ["403", "'https://app.example'", "'10.0.0.1:8000'", "proxy", "allowed_origins=["],
        ),
    ],
    ids=["400", "426", "503", "429", "403"],
)
def test_refusal_is_a_warning_with_reason_path_and_peer(
    caplog: pytest.LogCaptureFixture,
    headers: dict[str, str | None],
    settings: dict[str, Any],
    texts: list[str],
) -> None:
    engine = Engine()
    refuse(engine, headers, **settings)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    for text in ["192.0.2.7:4711", "/chat", *texts]:
        assert text in record.getMessage()


def test_repeated_refusal_is_logged_once_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    log = RefusalLog(interval_s=3600)
    for _ in range(1000):
        log.report("peer", 403, "the origin is foreign")
    log.report("peer", 400, "no key")
    assert len(caplog.messages) == 2
    assert "no key" in caplog.messages[1]
    caplog.clear()

    log = RefusalLog(interval_s=0)
    log.report("peer", 403, "first interval")
    log._interval_s = 3600
    for _ in range(9):
        log.report("peer", 403, "first interval")
    log._interval_s = 0
    log.report("peer", 503, "later")
    assert caplog.messages == [
        "'peer': handshake refused with 403: first interval",
        "9 more handshakes were refused: 403 first interval",
        "'peer': handshake refused with 503: later",
    ]


def test_invented_reasons_neither_fill_the_log_nor_memory(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = RefusalLog()
    for number in range(10_000):
        log.report("peer", 403, f"the origin 'https://{number}.example' {'x' * 1000}")
    assert len(caplog.records) == MAX_KINDS + 1
    assert len(log._counts) == MAX_KINDS + 1
    assert all(len(reason) < 300 for _, reason in log._counts)


def test_accepted_handshake_logs_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    make_websocket(Engine()).connect()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
