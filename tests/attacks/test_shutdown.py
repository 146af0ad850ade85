"""Server shutdown under load: every peer gets the close frame after the messages sent before it.

Each server is started from its command line and ended with SIGTERM.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import Opcode

from ..conftest import ROOT
from ..support.ports import free_port
from ..support.programs import EngineSetup, Program, echo_program, running, wait_for
from ..support.raw_client import RawClient, close, text
from .rig import FULL, at_scale, note

READY = (
    r"(?:ready on port |Listening at: http://127\.0\.0\.1:|running on http://127\.0\.0\.1:)(\d+)"
)
MESSAGES, SIZE = 40, 30_000
WSGI = ["gunicorn sync", "gunicorn gthread", "gunicorn gevent", "werkzeug", "cheroot", "waitress"]
ASGI = ["uvicorn", "uvicorn uvloop", "gunicorn asgi"]


def command(server: str) -> list[str]:
    kind, _, worker = server.partition(" ")
    wsgi, asgi = "tests.attacks.sending:wsgi_app", "tests.attacks.sending:asgi_app"
    if kind == "uvicorn":
        ours = "websocket_handler.servers.uvicorn:WebSocketProtocol"
        loop = ["--loop", worker or "asyncio"]
        return ["-m", "uvicorn", "--port", str(free_port()), "--ws", ours, *loop, asgi]
    if kind != "gunicorn":
        return ["-m", "tests.end_to_end.wsgi.serve", kind, wsgi]
    if worker == "asgi":
        worker = "websocket_handler.servers.gunicorn.ASGIWorker"
    app = asgi if "ASGI" in worker else wsgi
    bind = ["--bind", f"127.0.0.1:{free_port()}"]
    return ["-m", "gunicorn", "-k", worker, *bind, "--threads", "4", app]


def sent_then_told(server: Callable[[], contextlib.AbstractContextManager[Program]]) -> float:
    """Have the server send to many peers that do not read yet, end it, and then read. Returns the
    duration of its shutdown in seconds."""
    count = at_scale(20, 1000)
    with server() as program, contextlib.ExitStack() as stack:
        wait_for(lambda: _serves(program), "the server to serve")
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(count)]
        for client in clients:
            client.open("/").send(text(f"{MESSAGES} {SIZE}"))
        for client in clients:
            client.expect(text("0" * SIZE))  # by now all its messages are in transit
        begun = time.monotonic()
        program.end_soon(signal.SIGTERM)
        told = []
        for client in clients:
            client.expect(*(text(str(n % 10) * SIZE) for n in range(1, MESSAGES)))
            opcode, payload, _ = client.read_frame()
            assert opcode == Opcode.CLOSE
            told.append(int.from_bytes(payload, "big"))
            client.send(close(told[-1]))
        for client in clients:
            client.read_to_end()
        program.wait()
        seconds = time.monotonic() - begun
        assert set(told) <= {1001, 1012}
        assert "Traceback" not in program.log()
    return seconds


def _serves(program: Program) -> bool:
    with contextlib.suppress(OSError), RawClient(program.address) as client:
        client.open("/")
        return True
    return False


# end_to_end/ tests the shutdown of every server; under load the two most different ones suffice.
LOADED = [*WSGI, *ASGI] if FULL else ["gunicorn gthread", "uvicorn"]


@pytest.mark.parametrize("server", LOADED)
def test_sigterm_delivers_messages_then_closes(server: str) -> None:
    seconds = sent_then_told(lambda: running(Program(command(server), READY, not IS_NATIVE)))
    note("SIGTERM", f"SIGTERM, {server}: not told, or not sent all", 0, "", "0")
    note("SIGTERM", f"SIGTERM, {server}: gone within", seconds, "s", "≤ 5")


def test_sigterm_of_http_server_delivers_messages_then_closes(engine_setup: EngineSetup) -> None:
    seconds = sent_then_told(partial(echo_program, engine_setup, "--application", "sending"))
    note("SIGTERM", f"SIGTERM, http.server, {engine_setup.name}: gone within", seconds, "s", "≤ 5")


@pytest.mark.parametrize("worker", ["gthread", "gevent"] if FULL else ["gthread"])
def test_gunicorn_hook_delivers_messages_to_slow_readers(worker: str, tmp_path: Path) -> None:
    """A peer that starts to read after more than a second still gets every message, and 1012."""
    example = (ROOT / "examples" / "gunicorn" / "gunicorn.conf.py").read_text()
    assert "window=5" in example
    conf = tmp_path / "gunicorn.conf.py"
    conf.write_text(example.replace("window=5", "window=0.1"))
    words = [*command(f"gunicorn {worker}"), "-c", str(conf)]
    with running(Program(words, READY, not IS_NATIVE)) as program:
        wait_for(lambda: _serves(program), "the server to serve")
        with RawClient(program.address, receive_buffer=4096) as client:
            client.open("/").send(text(f"100 {SIZE}"))
            client.expect(text("0" * SIZE))
            program.end_soon(signal.SIGTERM)
            time.sleep(1.5)
            client.expect(*(text(str(n % 10) * SIZE) for n in range(1, 100)))
            client.expect_closed(1012)
        assert program.wait() == 0
        assert "Traceback" not in program.log()
