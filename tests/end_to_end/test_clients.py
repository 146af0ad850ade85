"""Third-party clients: `websockets` from PyPI and `ws` from npm."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from ..support.programs import Journal, Program, demo

MIB = 1 << 20
MESSAGES: dict[str, str | bytes] = {
    "empty text": "",
    "empty binary": b"",
    "text": "hello \u20ac \U0001f600",
    "binary": bytes(range(256)),
    "1 MiB of text": "\u20ac" * (MIB // 3),
    "1 MiB": bytes(range(256)) * (MIB // 256),
    "20 MiB": bytes(range(256)) * (20 * MIB // 256),
}


@pytest.fixture(scope="module")
def running_demo() -> Iterator[Program]:
    with demo() as program:
        yield program


def open_websocket(url: str, **options: Any) -> ClientConnection:
    ws: ClientConnection = connect(url, compression=None, max_size=64 * MIB, **options)
    return ws


@pytest.mark.parametrize("name", MESSAGES)
def test_websockets_client_gets_its_messages_back(running_demo: Program, name: str) -> None:
    with open_websocket(running_demo.url("/echoserver")) as ws:
        for _ in range(2):
            ws.send(MESSAGES[name])
            assert ws.recv(timeout=10) == MESSAGES[name]


def test_websockets_client_sends_fragments(running_demo: Program) -> None:
    with open_websocket(running_demo.url("/echoserver")) as ws:
        ws.send(["one ", "two ", "", "thr\u00e9e"])
        assert ws.recv(timeout=10) == "one two thr\u00e9e"
        ws.send([b"\0" * 100_000] * 30)
        assert ws.recv(timeout=10) == b"\0" * 3_000_000


def test_websockets_client_receives_fragments(program: Program) -> None:
    with open_websocket(program.url("/fragments")) as ws:
        ws.send("go")
        assert list(ws.recv_streaming()) == ["one ", "two ", "thr\u00e9e"]
        assert ws.recv(timeout=10) == "meanwhile"


def test_websockets_client_pings_and_is_pinged(program: Program, journal: Journal) -> None:
    with open_websocket(program.url(f"/pings?id={journal.name}")) as ws:
        assert ws.ping(b"marco").wait(10)
        ws.send("polo")
        journal.wait_for("pong", "b'polo'")


def test_websockets_client_selects_a_subprotocol(running_demo: Program) -> None:
    offer = [Subprotocol("one"), Subprotocol("two")]
    with open_websocket(running_demo.url("/echoserver"), subprotocols=offer) as ws:
        assert ws.subprotocol == "one"


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "away"), (4999, "\u20ac")])
def test_websockets_client_closes_the_connection(
    program: Program, journal: Journal, code: int, reason: str
) -> None:
    with open_websocket(program.url(f"/echo?id={journal.name}")) as ws:
        ws.close(code, reason)
        assert ws.close_code == code
    assert journal.wait_for("close")[-1] == ["close", code, reason]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "oops"), (4000, "bye \u20ac")])
def test_websockets_client_sees_the_servers_close(
    program: Program, journal: Journal, code: int, reason: str
) -> None:
    with open_websocket(program.url(f"/closes?id={journal.name}")) as ws:
        ws.send(f"{code} {reason}")
        assert ws.recv(timeout=10) == "before"
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(timeout=10)
        received = closed.value.rcvd
        assert received is not None
        assert (received.code, received.reason) == (code, reason)
    assert journal.wait_for("close")[-1][:2] == ["close", code]


def run_ws(node: str, *arguments: str) -> dict[str, Any]:
    script = Path(__file__).with_name("ws_client.js")
    run = subprocess.run(
        [node, script, *arguments], capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    seen: dict[str, Any] = json.loads(run.stdout)
    return seen


def test_ws_client_gets_its_messages_back(node: str, running_demo: Program) -> None:
    assert run_ws(node, running_demo.url("/echoserver")) == {
        "echoes": 9,
        "wrong": 0,
        "pong": "are you there",
        "subprotocol": "one",
        "close": [4321, "done \u20ac"],
    }
    running_demo.wait_for_log("4321 done \u20ac")


def test_ws_client_sees_the_servers_close(node: str, program: Program, journal: Journal) -> None:
    seen = run_ws(node, program.url(f"/closes?id={journal.name}"), "4000", "bye \u20ac")
    assert seen["close"] == [4000, "bye \u20ac"]
    assert journal.wait_for("close")[-1][:2] == ["close", 4000]
