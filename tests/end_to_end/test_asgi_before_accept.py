"""An ASGI application that waits for a message before it accepts learns at once that its client has
disconnected, and the server's shutdown does not wait for it."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, masked, text
from ..support.tls import context
from .asgi_programs import SERVERS, THEIRS, serve
from .loop_programs import OTHER_SERVERS
from .loop_programs import serve as serve_other

OUTCOMES: dict[str, list[Any]] = {
    "/waits": [["websocket.disconnect", 1006], ["too late"]],
    "/asked/waits": [["http.disconnect", None]],
}
KINDS = ["closed", "reset", "half-closed", "early frames"]


class Asked:
    """A server, plain or with TLS, whose application keeps a journal."""

    def __init__(
        self, program: Program, tls: ssl.SSLContext | None = None, drops_early: bool = False
    ) -> None:
        """`drops_early`: the server drops frames that it reads together with the request head, so
        a rest of them that it reads later may be no whole frames."""
        self.program = program
        self._tls = tls
        self._early = b"" if drops_early else masked(*[text("x" * 1000)] * 40)

    def client(self) -> RawClient:
        return RawClient(self.program.address, context=self._tls)

    def journal(self) -> list[Any]:
        with self.client() as client:
            response = client.get("/journal", {"Connection": "close"})
            assert response.status == 200
            found: list[Any] = json.loads(client.read_to_end())
            return found

    def tasks(self) -> int:
        with self.client() as client:
            assert client.get("/tasks", {"Connection": "close"}).status == 200
            return int(client.read_to_end())

    @contextlib.contextmanager
    def waiting(self, path: str, early: bytes = b"") -> Iterator[RawClient]:
        """A client whose application waits before it accepts."""
        seen = len(self.journal())
        with self.client() as client:
            client.sock.sendall(client.handshake(path) + early)
            wait_for(lambda: self.journal()[seen:] == [["waiting"]], "the application to wait")
            yield client

    def leave(self, path: str, kind: str) -> list[Any]:
        """Disconnect while the application waits; returns the application's notes."""
        seen = len(self.journal()) + 1
        wanted = len(OUTCOMES[path])
        early = self._early if kind == "early frames" else b""
        with self.waiting(path, early) as client:
            if kind == "reset" and self._tls is None:
                client.reset()
            elif kind == "half-closed":
                client.sock.shutdown(socket.SHUT_WR)
                client.read_to_end()
        wait_for(lambda: len(self.journal()) >= seen + wanted, f"the end in {self.journal()}")
        return self.journal()[seen:]


@pytest.fixture(scope="module", params=[*SERVERS, "uvicorn's own"])
def server(request: pytest.FixtureRequest) -> Iterator[Asked]:
    with serve(SERVERS.get(request.param, THEIRS)) as program:
        yield Asked(program, drops_early=request.param not in SERVERS)


@pytest.fixture(scope="module", params=[name for name in OTHER_SERVERS if name != "granian"])
def other(request: pytest.FixtureRequest) -> Iterator[Asked]:
    """granian itself sends nothing before the application accepts."""
    with serve_other(*OTHER_SERVERS[request.param]) as program:
        asked = Asked(program)

        def is_up() -> bool:
            with contextlib.suppress(OSError):
                return asked.journal() == []
            return False

        wait_for(is_up, "the server to serve")
        yield asked


def serve_tls(server: str, pem: Path) -> contextlib.AbstractContextManager[Program]:
    name = "--ssl-%sfile" if server.startswith("uvicorn") else "--%sfile"
    secure = [name % "cert", str(pem), name % "key", str(pem)]
    ready = r"(?:Uvicorn running on|Listening at:) https://127\.0\.0\.1:(\d+)"
    command = [*SERVERS[server], *secure, "tests.end_to_end.asgi.bare:app"]
    return running(Program(command, ready))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", OUTCOMES)
def test_application_learns_that_its_client_left(server: Asked, path: str, kind: str) -> None:
    tasks = server.tasks()
    assert server.leave(path, kind) == OUTCOMES[path]
    wait_for(lambda: server.tasks() <= tasks, "the application's task to end")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["uvicorn", "uvicorn uvloop h11", "gunicorn"])
def test_application_learns_that_its_client_left_over_tls(
    name: str,
    kind: str,
    certificate: Path,
) -> None:
    with serve_tls(name, certificate) as program:
        for path, outcome in OUTCOMES.items():
            assert Asked(program, context()).leave(path, kind) == outcome


def test_route_over_messages_learns_that_its_client_left(other: Asked) -> None:
    assert other.leave("/asked/waits", "closed") == OUTCOMES["/asked/waits"]


@pytest.mark.parametrize("path", OUTCOMES)
@pytest.mark.parametrize("name", SERVERS)
def test_shutdown_answers_clients_whose_application_waits(name: str, path: str) -> None:
    with serve(SERVERS[name]) as program, Asked(program).waiting(path) as client:
        program.end_soon(signal.SIGTERM)
        assert client.read_response().status == 503
        client.read_to_end()
        program.wait()
        assert "Traceback" not in program.log(), program.log()
