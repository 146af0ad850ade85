"""An old process that does not answer does not delay the other requests of an event loop."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.moving.arrivals import HEADER
from websocket_handler.moving.directory import VARIABLE, Directory, open_directory
from websocket_handler.moving.facts_pipe import facts_offered
from websocket_handler.moving.messages import receive
from websocket_handler.moving.state import Facts
from websocket_handler.protocol.request import Forwarded
from websocket_handler.protocol.versions import by_name

from ..support.ports import free_port
from ..support.programs import Program, running
from ..support.raw_client import RawClient
from .test_servers import BY_PORT, GUNICORN, PROGRAMS, PROTOCOL, READY

NAME, SECRET = "0123456789abcdef", "0" * 32
ANSWER_LIMIT_S = 4.0
"""Less than an event loop was blocked when it waited for the old process."""

ONE_PROCESS = {
    "gunicorn asgi": [
        *(*GUNICORN, "-w", "1"),
        *("-k", "websocket_handler.servers.gunicorn.MovingASGIWorker", f"{PROGRAMS}.asgi:app"),
    ],
    "uvicorn": ["-m", "uvicorn", "--ws", PROTOCOL, "--port", "0", f"{PROGRAMS}.asgi:app"],
    **{server: ["-m", f"{PROGRAMS}.{BY_PORT[server]}"] for server in ("aiohttp", "Tornado")},
}
FACTS = Facts(
    version=by_name("RFC 6455"),
    secret=b"",
    subprotocol=None,
    negotiated=None,
    origin=Forwarded(("192.0.2.7", 1234), "http", "localhost"),
    carried=None,
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Directory]:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "private"))
    with open_directory(create=True) as directory:
        yield directory


@contextlib.contextmanager
def silent_process(directory: Directory) -> Iterator[socket.socket]:
    """The socket of an old process that does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(directory.path(NAME))
        listener.listen()
        listener.settimeout(ANSWER_LIMIT_S)
        yield listener


@contextlib.contextmanager
def serving(server: str) -> Iterator[Program]:
    arguments = ONE_PROCESS[server]
    if server in BY_PORT:
        arguments = [*arguments, str(free_port())]
    with running(Program(arguments, READY, not IS_NATIVE)) as program:
        answer(program)
        yield program


def answer(program: Program) -> bytes:
    with urlopen(program.url("/page", "http"), timeout=ANSWER_LIMIT_S) as page:
        body: bytes = page.read()
        return body


@pytest.mark.parametrize("server", ONE_PROCESS)
@pytest.mark.parametrize("has_facts", [False, True])
def test_old_process_that_does_not_answer_delays_no_other_request(
    directory: Directory, server: str, has_facts: bool
) -> None:
    with (
        serving(server) as program,
        silent_process(directory) as listener,
        facts_offered(directory, SECRET if has_facts else "f" * 32, FACTS.to_json()),
        RawClient(program.address) as client,
    ):
        client.sock.sendall(client.handshake("/echo", {HEADER: f"{NAME}:{SECRET}"}))
        with listener.accept()[0] as exchange:
            if has_facts:
                assert receive(exchange, ANSWER_LIMIT_S).fields == {"secret": SECRET}
                assert receive(exchange, ANSWER_LIMIT_S).fields == {"take": True}
            assert answer(program).isdigit()
        if has_facts:
            assert client.sock.recv(1) == b"", "the connection of the request is of no use"
        else:
            client.expect_opened()
