"""Listeners that use a database: Django's ORM, and SQLAlchemy in Flask's application context."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_port
from websocket_handler import WebSocket, connect

from ..support.programs import Program, running, wait_for
from .postgresql import PostgreSQL

MODULE = "tests.end_to_end.wsgi.with_database"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    """A server in a folder that its user can reach; pytest's folders are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        server = PostgreSQL(Path(folder))
        yield server
        server.stop()


def gunicorn(application: str, *options: str) -> list[str]:
    bind = f"127.0.0.1:{free_port()}"
    return ["-m", "gunicorn", "-b", bind, *options, f"{MODULE}:{application}"]


def uvicorn(application: str) -> list[str]:
    protocol = "websocket_handler.servers.uvicorn:WebSocketProtocol"
    options = ["--port", str(free_port()), "--ws", protocol, "--log-level", "info"]
    return ["-m", "uvicorn", *options, f"{MODULE}:{application}"]


def server(name: str) -> tuple[list[str], str]:
    """The command that serves the Django application, and the target of its WebSocket."""
    if name == "asgi":
        return uvicorn("django_asgi"), "/listen_async"
    workers = ["-k", "gevent"] if name == "gevent" else ["--threads", "4"]
    return gunicorn("django_app", *workers), "/listen"


@contextlib.contextmanager
def serving(
    command: list[str], postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Program]:
    monkeypatch.setenv("POSTGRESQL_FOLDER", str(postgresql.folder))
    with running(Program(command, r"http://127\.0\.0\.1:(\d+)")) as program:
        yield program


def ask(websocket: WebSocket, command: str) -> str:
    websocket.send(command)
    return str(websocket.receive(timeout=20))


@pytest.fixture(params=["threads", "gevent", "asgi"])
def django_server(
    request: pytest.FixtureRequest, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Program, str]]:
    command, target = server(request.param)
    with serving(command, postgresql, monkeypatch) as program:
        yield program, target


def test_django_listener_recovers_after_a_restart_of_the_database(
    django_server: tuple[Program, str], postgresql: PostgreSQL
) -> None:
    program, target = django_server
    with connect(program.url(target)) as one, connect(program.url(target)) as other:
        assert ask(one, "select 42") == "42"
        assert ask(one, "select 1/0") == "DataError"
        with postgresql.stopped():
            assert ask(one, "select 42") == "OperationalError"
        assert [ask(websocket, "select 42") for websocket in (one, other, one)] == ["42"] * 3


def test_django_listeners_leave_no_database_connection_open(
    django_server: tuple[Program, str], postgresql: PostgreSQL
) -> None:
    program, target = django_server
    with contextlib.ExitStack() as stack:
        websockets = [stack.enter_context(connect(program.url(target))) for _ in range(8)]
        for websocket in websockets:
            websocket.send("slow")
        assert [websocket.receive(timeout=20) for websocket in websockets] == ["42"] * 8
        wait_for(lambda: postgresql.connections() == 0, "the listeners' connections to be closed")


@pytest.mark.parametrize("name", ["threads", "asgi"])
def test_django_listener_keeps_persistent_connections_and_recovers(
    name: str, postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONN_MAX_AGE", "600")
    command, target = server(name)
    with (
        serving(command, postgresql, monkeypatch) as program,
        connect(program.url(target)) as websocket,
    ):
        backends = {ask(websocket, "select pg_backend_pid()") for _ in range(3)}
        if name == "asgi":  # otherwise each thread of the engine has its own
            assert len(backends) == 1
        assert postgresql.connections() == len(backends)
        with postgresql.stopped():
            pass
        assert ask(websocket, "select 42") == "OperationalError"  # as in a view
        wait_for(lambda: ask(websocket, "select 42") == "42", "the listener to recover")


def test_flask_session_ends_with_each_listener(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = gunicorn("flask_app", "--threads", "4")
    with (
        serving(command, postgresql, monkeypatch) as program,
        connect(program.url("/listen")) as one,
        connect(program.url("/listen")) as other,
    ):
        assert ask(one, "select 42") == "42"
        assert ask(one, "select 1/0") == "DataError"
        assert ask(other, "select 42") == "42"  # not the failed transaction of the first listener
        wait_for(lambda: program.get("/checked_out") == 0, "the connections to be given back")
        with postgresql.stopped():
            pass
        assert [ask(websocket, "select 42") for websocket in (one, other)] == ["42"] * 2
