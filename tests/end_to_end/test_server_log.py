"""The operator finds errors and rejections in the server's log, in the server's own format."""

from __future__ import annotations

import re

import pytest

from websocket_handler import HandshakeFailed, connect

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient

HERE = "tests.end_to_end.asgi.logged"

UVICORN = r"WARNING:  +<WebSocket .*handshake refused with 403"
GUNICORN = r"^\[\d{4}-.*\] \[\d+\] \[WARNING\] <WebSocket .*handshake refused with 403"
OURS = "websocket_handler.servers.uvicorn:WebSocketProtocol"
WORKER = "websocket_handler.servers.gunicorn.ASGIWorker"
SERVERS = {
    "uvicorn": (["uvicorn", "--port", "{port}", "--ws", OURS, "HERE:asgi"], UVICORN),
    "uvicorn's own": (["uvicorn", "--port", "{port}", "HERE:asgi"], UVICORN),
    "gunicorn": (
        ["gunicorn", "-b", "127.0.0.1:{port}", "--threads", "2", "HERE:wsgi"],
        GUNICORN,
    ),
    "gunicorn with our worker": (
        ["gunicorn", "-b", "127.0.0.1:{port}", "-k", WORKER, "HERE:asgi"],
        GUNICORN,
    ),
    "hypercorn": (["hypercorn", "-b", "127.0.0.1:{port}", "HERE:asgi"], r"\[WARNING\] .* 403"),
    "daphne": (["daphne", "-p", "{port}", "HERE:asgi"], r"WARNING +<WebSocket .* 403"),
    "granian": (
        ["granian", "--interface", "asgi", "--port", "{port}", "HERE:asgi"],
        r"\[WARNING\] .* 403",
    ),
}


@pytest.mark.parametrize("name", SERVERS)
def test_refusal_and_traceback_are_in_the_log_of_the_server(name: str) -> None:
    command, refusal = SERVERS[name]
    port = free_port()
    arguments = ["-m", *(part.format(port=port).replace("HERE", HERE) for part in command)]
    with running(Program(arguments, f"({port})")) as program:

        def is_up() -> bool:
            try:
                RawClient(program.address).sock.close()
            except OSError:
                return False
            return True

        wait_for(is_up, "the server to listen")
        with pytest.raises(HandshakeFailed):
            connect(program.url("/"), origin="https://elsewhere.example")
        program.wait_for_log("handshake refused with 403")
        with connect(program.url("/")) as websocket:
            websocket.send("hello")
            websocket.wait_closed(10)
        log = program.wait_for_log("ZeroDivisionError")
        assert re.search(refusal, log, re.MULTILINE), log
        assert log.count("handshake refused with 403") == log.count(": 1006") + 1, log
        assert log.count("a listener raised") == 1, log
        assert "messages failed" not in log, log
