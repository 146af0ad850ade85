"""Deploys of real servers: the connections go on in the new processes."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import tornado

from websocket_handler import IS_NATIVE
from websocket_handler.moving.directory import VARIABLE

from ..conftest import ROOT
from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, close, masked, text

PROGRAMS = "tests.moving.programs"
OPTIONS = ["-b", "127.0.0.1:0", "-w", "2", "--timeout", "60"]
GUNICORN = ["-m", "gunicorn", "-c", f"python:{PROGRAMS}.hooks", *OPTIONS]
ASGI_WORKER = "websocket_handler.servers.gunicorn.MovingASGIWorker"
GEVENT_WORKER = "websocket_handler.servers.gunicorn_gevent.MovingGeventWorker"
PROTOCOL = "websocket_handler.servers.uvicorn:MovingWebSocketProtocol"
UVICORN = ["-m", "uvicorn", "--ws", PROTOCOL, "--port", "0", "--workers", "2"]
BY_SIGNAL = {
    "gunicorn sync": [*GUNICORN, "-k", "sync", f"{PROGRAMS}.wsgi:app"],
    "gunicorn gthread": [*GUNICORN, "-k", "gthread", "--threads", "4", f"{PROGRAMS}.wsgi:app"],
    "gunicorn gevent": [*GUNICORN, "-k", "gevent", f"{PROGRAMS}.wsgi:app"],
    "gunicorn gevent, moving": [*GUNICORN, "-k", GEVENT_WORKER, f"{PROGRAMS}.wsgi:app"],
    "gunicorn asgi": [*GUNICORN, "-k", ASGI_WORKER, f"{PROGRAMS}.asgi:app"],
    "uvicorn": [*UVICORN, "--loop", "asyncio", f"{PROGRAMS}.asgi:app"],
    "uvicorn uvloop": [*UVICORN, "--loop", "uvloop", f"{PROGRAMS}.asgi:app"],
}
TORNADO_LOGS_CANCELLED = tornado.version_info < (6, 6)
"""Whether Tornado logs a traceback for a handler that `ConnectionMoved` has ended."""

BY_PORT = {"http.server": "http_server", "aiohttp": "aiohttp_server", "Tornado": "tornado_server"}
READY = (
    r"(?:Listening at: http://127\.0\.0\.1:|ready on port |running on http://127\.0\.0\.1:)(\d+)"
)
HELLO = masked(text("hello"))
EXIT_LIMIT_S = 60
"""More than all limits on the end of a worker together: of running requests, and of the move."""


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "private"
    monkeypatch.setenv(VARIABLE, str(directory))
    return directory


def ask(client: RawClient, cut: int = 0) -> list[str]:
    """Send the rest of a message; returns the words of the answer."""
    client.sock.sendall(HELLO[cut:])
    return client.read_frame().payload.decode().split()


@contextlib.contextmanager
def deploys(server: str) -> Iterator[tuple[Program, list[Program]]]:
    """A server, and a list to which the new process is added if it is another program."""
    with contextlib.ExitStack() as stack:
        if server in BY_SIGNAL:
            program = stack.enter_context(running(Program(BY_SIGNAL[server], READY, not IS_NATIVE)))
            wait_for(lambda: serves(program), "the workers to serve", 20)
            yield program, []
        else:
            port = str(free_port())
            command = ["-m", f"{PROGRAMS}.{BY_PORT[server]}", port]
            old = stack.enter_context(running(Program(command, READY, not IS_NATIVE)))
            others: list[Program] = []
            yield old, others
            for other in others:
                other.close()


def serves(program: Program) -> bool:
    with contextlib.suppress(OSError), urlopen(program.url("/page", "http"), timeout=2) as page:
        return page.status == 200  # type: ignore[no-any-return]
    return False


def deploy(server: str, old: Program, others: list[Program], pure: bool = not IS_NATIVE) -> None:
    if server in BY_SIGNAL:
        old.end_soon(signal.SIGHUP)
        return
    command = ["-m", f"{PROGRAMS}.{BY_PORT[server]}", str(old.port)]
    others.append(Program(command, READY, pure))
    old.end_soon(signal.SIGTERM)


def paths_of(server: str) -> list[str]:
    is_asgi = server.endswith("asgi") or server.startswith("uvicorn")
    return ["/echo", "/route" if is_asgi else "/receive"]


@pytest.mark.parametrize("server", [*BY_SIGNAL, *BY_PORT])
def test_deploy_keeps_connections_open(server: str) -> None:
    # gunicorn's sync worker has one thread; its gevent worker kills running requests
    iterates_in_worker = server in ("gunicorn sync", "gunicorn gevent")
    with deploys(server) as (old, others), contextlib.ExitStack() as stack:
        paths = paths_of(server)[:1] if iterates_in_worker else paths_of(server)
        clients = [
            stack.enter_context(RawClient(old.address).open(path)) for path in paths for _ in "12"
        ]
        first = [ask(client) for client in clients]
        assert all(words[1] == "False" for words in first), first
        for client in clients[::2]:
            client.sock.sendall(HELLO[:7])
        pids = {words[0] for words in first}
        seen = len(old.log())
        deploy(server, old, others)
        for pid in pids:
            wait_for_exit(pid)
        for index, client in enumerate(clients):
            words = ask(client, 7 if index % 2 == 0 else 0)
            assert words[0] not in pids, "another process"
            assert words[1] == "True"
            if first[index][2] != "0":
                assert words[2] == "2", "what the old process has left"
        for client in clients:
            client.send(close(1000))
            client.expect_close(1000)
        if server != "Tornado" or not TORNADO_LOGS_CANCELLED:
            assert "Traceback" not in old.log()[seen:], old.log()[seen:]
        for other in others:
            assert "Traceback" not in other.log(), other.log()


def test_worker_that_starts_late_gets_the_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application needs longer than gunicorn's `graceful_timeout`, as on a busy machine."""
    mode = tmp_path / "mode"
    monkeypatch.setenv("DEPLOY_MODE_FILE", str(mode))
    with (
        deploys("gunicorn asgi") as (old, others),
        RawClient(old.address).open("/echo") as client,
    ):
        former = ask(client)[0]
        mode.write_text("start late")
        deploy("gunicorn asgi", old, others)
        wait_for_exit(former)
        assert ask(client)[1:3] == ["True", "2"]


def wait_for_exit(pid: str) -> None:
    wait_for(lambda: not Path("/proc", pid).exists() or is_zombie(pid), pid, EXIT_LIMIT_S)


def test_worker_that_ends_because_of_max_requests_moves_its_connections() -> None:
    command = [*GUNICORN, "-k", "gthread", "--max-requests", "20", f"{PROGRAMS}.wsgi:app"]
    with (
        running(Program(command, READY, not IS_NATIVE)) as server,
        RawClient(server.address).open("/echo") as client,
    ):
        former = ask(client)[0]
        end = time.monotonic() + EXIT_LIMIT_S
        while (words := ask(client))[0] == former:
            assert serves(server)
            assert time.monotonic() < end, server.log()
        assert words[1:] == ["True", words[2], "hello"]
        wait_for_exit(former)
        client.send(close(1000))
        client.expect_close(1000)


def test_connections_move_to_another_master(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn's upgrade: SIGUSR2 starts another master, SIGTERM ends the old one."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    script = Path(sys.executable).with_name("gunicorn")  # a new master is not started with -m
    pid_file = tmp_path / "pid"
    options = ["-k", "gthread", "--graceful-timeout", "30", "--pid", str(pid_file)]
    with (
        running(
            Program(
                [str(script), *GUNICORN[2:], *options, f"{PROGRAMS}.wsgi:app"], READY, not IS_NATIVE
            )
        ) as old,
        RawClient(old.address).open("/echo") as client,
    ):
        former = ask(client)[0]
        wait_for(lambda: old.log().count("Booting worker") == 2, "two workers", 20)
        old.end_soon(signal.SIGUSR2)
        wait_for(lambda: old.log().count("Booting worker") == 4, "two new workers", 20)
        old.end_soon(signal.SIGTERM)
        assert old.wait(EXIT_LIMIT_S) == 0
        words = ask(client)
        assert words[0] != former
        assert words[1:] == ["True", "2", "hello"]
        client.send(close(1000))
        client.expect_close(1000)


def is_zombie(pid: str) -> bool:
    with contextlib.suppress(OSError):
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return True


@pytest.mark.skipif(not IS_NATIVE, reason="needs both engines")
@pytest.mark.parametrize("to_pure", [True, False])
def test_deploy_moves_between_engines(to_pure: bool) -> None:
    command = ["-m", f"{PROGRAMS}.http_server", str(free_port())]
    with running(Program(command, READY, not to_pure)) as old:
        others: list[Program] = []
        with RawClient(old.address).open("/echo") as client:
            first = ask(client)
            client.sock.sendall(HELLO[:7])
            deploy("http.server", old, others, to_pure)
            with running(others[0]) as new:
                assert old.wait() == 0
                assert ask(client, 7) == [str(new.pid), "True", "2", "hello"]
                assert first[:3] == [str(old.pid), "False", "1"]


@pytest.mark.parametrize("server", ["gunicorn sync", "aiohttp", "Tornado"])
def test_moved_request_has_the_address_of_the_client_and_no_header_of_ours(server: str) -> None:
    headers = {"X-Forwarded-For": "192.0.2.1"}
    with (
        deploys(server) as (old, others),
        RawClient(old.address, source="127.0.0.9").open("/facts", headers) as client,
    ):
        client.sock.sendall(HELLO)
        before = client.read_frame().payload.decode()
        assert before.startswith("127.0.0.9 http ")
        assert str(client.sock.getsockname()) in before
        assert "MOVE" not in before
        seen = len(old.log())
        deploy(server, old, others)
        wait_for(lambda: "moved=1" in old.log()[seen:], "the move", EXIT_LIMIT_S)
        client.sock.sendall(HELLO)
        assert client.read_frame().payload.decode() == before
