"""Real clients in JavaScript and Python, with every feature, on every server."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import socketio

from ..conftest import PEERS
from ..support.programs import Program
from ..support.raw_client import RawClient
from ..support.tls import AUTHORITY, context
from .engineio_client import PATH
from .servers import BOTH, COMMANDS, serving, wait_for_state

VALUE = ["é", {"a": [1, None]}]
"""Without bytes: the client in Python handles each packet in a thread of its own, so that it may
see an attachment before its event."""

ALL_RESULTS = {
    "events": [["token"]],
    "echo": ["héllo", {"a": [1, None]}],
    "binary": [[0, 255], 70000, 7],
    "session": {"agent": "node", "text": "me"},
    "environ": ["/socket.io/", "node"],
    "asked": 42,
    "namespace": [1, 2],
    "news": "hi",
    "reason": "io server disconnect",
}


def run_client(node: str, program: Program, **options: Any) -> dict[str, Any]:
    script = str(PEERS / "socketio_client.js")
    command = [node, script, program.url("/", "http"), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> Iterator[Program]:
    """The application on a server, shared by the tests; each leaves it without sessions.

    The interval is short because a client that polls may wait for a packet before it ends.
    """
    with serving(request.param, ping_interval=1) as started:
        yield started


@pytest.mark.parametrize("program", COMMANDS, indirect=True)
def test_javascript_client_upgraded_uses_every_feature(program: Program, node: str) -> None:
    results = run_client(node, program, auth={"token": 1})
    assert results == {**ALL_RESULTS, "transport": "websocket"}, program.log()
    state = wait_for_state(program, sockets=0, environs=0, rooms=0)
    assert ["disconnect", "server disconnect"] in state["journal"]
    assert "Traceback" not in program.log(), program.log()


@pytest.mark.parametrize("server", [*BOTH, "flask-wsgiref", "flask-gevent"])
def test_javascript_client_polling_uses_every_feature(server: str, node: str) -> None:
    with serving(server) as program:
        results = run_client(node, program, auth={"token": 1}, transports=["polling"])
        assert results == {**ALL_RESULTS, "transport": "polling"}, program.log()
        assert "Traceback" not in program.log(), program.log()


@pytest.mark.parametrize("program", BOTH, indirect=True)
def test_refused_client_gets_the_reason(program: Program, node: str) -> None:
    results = run_client(node, program, auth={"refuse": True})
    assert results["refused"] == ["not welcome", {"code": 7}]
    wait_for_state(program, environs=0, sockets=0)


@pytest.mark.parametrize("program", COMMANDS, indirect=True)
def test_python_client_upgraded_echoes_and_disconnects(program: Program) -> None:
    echo_and_disconnect(program, ["polling", "websocket"])


@pytest.mark.parametrize("program", BOTH, indirect=True)
@pytest.mark.parametrize("transport", ["polling", "websocket"])
def test_python_client_with_one_transport_echoes_and_disconnects(
    program: Program, transport: str
) -> None:
    echo_and_disconnect(program, [transport])


def echo_and_disconnect(program: Program, transports: list[str]) -> None:
    with socketio.SimpleClient() as client:
        client.connect(program.url("/", "http"), transports=transports)
        assert client.call("echo", VALUE, timeout=15) == [VALUE]
        wait_for_state(program, sockets=1, websockets=int("websocket" in transports))
        client.disconnect()
        event, reason = wait_for_state(program, sockets=0)["journal"][-1]
        assert event == "disconnect"
        assert reason in ("client disconnect", "transport close")  # the client may close first


def echo_repeatedly(client: socketio.SimpleClient) -> object:
    """Call "echo", again if no answer arrives. Over TLS, this client misses about one answer in a
    thousand, also with python-socketio's own server, and gets that of the next call."""
    for _ in range(2):
        with contextlib.suppress(socketio.exceptions.TimeoutError):
            return client.call("echo", VALUE, timeout=8)
    return client.call("echo", VALUE, timeout=8)


TLS_OPTIONS = {
    "flask-gunicorn": "--certfile {0} --keyfile {0}",
    "fastapi-uvicorn": "--ssl-certfile {0} --ssl-keyfile {0}",
    "aiohttp": "{0}",
    "tornado": "{0}",
}


@pytest.mark.parametrize("server", TLS_OPTIONS)
def test_python_client_over_tls_echoes(server: str, certificate: Path, tmp_path: Path) -> None:
    extra = TLS_OPTIONS[server].format(certificate)
    session = requests.Session()
    session.trust_env = False
    session.verify = str(tmp_path / "authority.pem")
    AUTHORITY.cert_pem.write_to_path(session.verify)
    with (
        serving(server, extra=extra, tls=context()) as program,
        socketio.SimpleClient(http_session=session) as client,
    ):
        client.connect(program.url("/", "https"))
        assert echo_repeatedly(client) == [VALUE]
        assert client.client.transport() == "websocket"
        with RawClient(program.address, context=context()) as browser:
            host = f"localhost:{program.port}"
            browser.open(f"{PATH}websocket", {"Host": host, "Origin": f"https://{host}"})
        assert "Traceback" not in program.log(), program.log()


@pytest.mark.parametrize("server", BOTH)
def test_pure_python_engine_serves_javascript_client(server: str, node: str) -> None:
    with serving(server, pure=True) as program:
        results = run_client(node, program, auth={"token": 1})
        assert results == {**ALL_RESULTS, "transport": "websocket"}, program.log()
