"""The keeper: connections stay open while no process listens."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Engine
from websocket_handler.moving import keeper as keeper_module
from websocket_handler.moving import open_connection
from websocket_handler.moving.departures import move_connections
from websocket_handler.moving.directory import VARIABLE
from websocket_handler.moving.giving import MOVED
from websocket_handler.moving.keeper import Keeper
from websocket_handler.moving.keeping import VARIABLE as KEEP
from websocket_handler.moving.keeping import KeeperLink
from websocket_handler.moving.messages import NotMoved
from websocket_handler.moving.open_connection import OpenConnection, StillBusy
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.versions import by_name

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, close, masked, text
from .between_engines import Client
from .programs.reloaded import SOURCE
from .test_servers import HELLO, PROGRAMS, PROTOCOL, READY, ask, serves

RFC6455 = by_name("RFC 6455")
CLIENTS = 50


@pytest.fixture(autouse=True)
def runtime_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    directory = tmp_path / "private"
    monkeypatch.setenv(VARIABLE, str(directory))
    monkeypatch.setenv(KEEP, "30")
    yield directory
    for pid in keepers(directory):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def keepers(directory: Path) -> list[int]:
    """The keepers that this test's programs have started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_keeper = b"websocket_handler\0keep\0" in (path / "cmdline").read_bytes()
            if is_keeper and os.fsencode(directory) in (path / "environ").read_bytes():
                found.append(int(path.name))
    return found


def http_server(port: int) -> contextlib.AbstractContextManager[Program]:
    return running(Program(["-m", f"{PROGRAMS}.http_server", str(port)], READY, not IS_NATIVE))


@contextlib.contextmanager
def ended_server(port: int, count: int = 1) -> Iterator[list[RawClient]]:
    """The clients of a server that has ended, with a keeper."""
    with contextlib.ExitStack() as stack:
        with http_server(port) as old:
            clients = [stack.enter_context(RawClient(old.address).open()) for _ in range(count)]
            for client in clients:
                ask(client)
            for client in clients[::2]:
                client.sock.sendall(HELLO[:7])
            assert old.end(signal.SIGTERM) == 0
        yield clients


def test_restart_of_a_server_keeps_connections_open(runtime_directory: Path) -> None:
    port = free_port()
    with ended_server(port, CLIENTS) as clients:
        for index, client in enumerate(clients):  # while no process listens
            client.sock.sendall(HELLO[7 if index % 2 == 0 else 0 :])
            client.sock.sendall(masked(text("again")))
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            raise AssertionError("no process listens")
        with http_server(port) as new:
            for client in clients:
                words = client.read_frame().payload.decode().split()
                assert words == [str(new.pid), "True", "2", "hello"]
                words = client.read_frame().payload.decode().split()
                assert words == [str(new.pid), "True", "3", "again"]
                client.send(close(1000))
                client.expect_close(1000)
            wait_for(lambda: not keepers(runtime_directory), "the keeper to end")


def test_edited_application_keeps_connections_open(tmp_path: Path) -> None:
    (tmp_path / "edited").mkdir()
    app = tmp_path / "edited" / "app.py"
    app.write_text(SOURCE)
    directory = ["--app-dir", str(app.parent), "--reload-dir", str(app.parent)]
    command = ["-m", "uvicorn", "--reload", *directory, "--ws", PROTOCOL, "--port", "0", "app:app"]
    with (
        running(Program(command, READY, not IS_NATIVE)) as server,
        contextlib.ExitStack() as stack,
    ):
        wait_for(lambda: serves(server), "the application", 20)
        client = stack.enter_context(RawClient(server.address).open())
        first, version, _ = ask(client)
        assert version == "1"
        # Another length: Python takes bytecode of the same second and size as current.
        app.write_text(SOURCE.replace("VERSION = 1", "VERSION = 20"))
        start = edited = time.monotonic()
        while (words := ask(client))[1] != "20":
            now = time.monotonic()
            assert now < start + 30, server.log()
            # A late reloader takes an edit before its first look for the state at the start.
            if now > edited + 3 and "detected changes" not in server.log():
                edited = now
                os.utime(app, (time.time() + now - start, time.time() + now - start))
        assert words[0] != first
        assert "Traceback" not in server.log(), server.log()
        client.send(close(1000))
        client.expect_close(1000)


def test_application_that_refuses_a_kept_connection_closes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode = tmp_path / "mode"
    monkeypatch.setenv("DEPLOY_MODE_FILE", str(mode))
    port = free_port()
    with ended_server(port) as (client,):
        mode.write_text("refuse")
        with http_server(port):
            client.expect_close(1008)


def test_kept_connections_close_with_1012_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch, runtime_directory: Path
) -> None:
    monkeypatch.setenv(KEEP, "0.2")
    with ended_server(free_port(), 3) as clients:
        for client in clients:
            client.sock.sendall(HELLO)  # stays unread, and resets no connection
        for client in clients:
            client.expect_close(1012)
            client.sock.close()
        wait_for(lambda: not keepers(runtime_directory), "the keeper to end")


def test_killed_keeper_closes_the_connections(runtime_directory: Path) -> None:
    with ended_server(free_port()) as (client,):
        (pid,) = keepers(runtime_directory)
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ConnectionResetError):
            assert client.sock.recv(100) == b""


@pytest.mark.parametrize("keep", [-1, 61, float("nan")])
def test_time_that_is_too_long_is_refused(keep: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 60"):
        move_connections(Engine(), keep=keep)


def test_command_without_a_process_to_end_says_so() -> None:
    command = [sys.executable, "-m", "websocket_handler", "keep"]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for stdin in (subprocess.DEVNULL, theirs.fileno()):
            ended = subprocess.run(
                command, stdin=stdin, capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 2
            assert "no other use" in ended.stderr


# One keeper in this process


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = Engine()
    yield engine
    engine.stop(timeout=5)


@contextlib.contextmanager
def kept_by(keeper: Keeper) -> Iterator[KeeperLink]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = threading.Thread(target=keeper.take_all, args=[theirs])
    thread.start()
    link = KeeperLink(ours)
    yield link
    link.close()
    thread.join(10)
    theirs.close()


def give(link: KeeperLink, client: Client) -> Any:
    connection = OpenConnection(client.websocket)
    return link.move(connection, connection.describe(), 10)


def test_keeper_does_not_read_and_sends_what_was_unsent(engine: Engine) -> None:
    keeper = Keeper(0, 0, 1008)
    keeper._deadline = time.monotonic() + 10
    with Client(engine, RFC6455, lambda _: None) as client:
        with kept_by(keeper) as link:
            client.websocket.send("x" * 1_000_000)  # more than the socket takes
            assert give(link, client) is MOVED
            client.sock.sendall(client.encoder.message("hello"))
            assert not client.is_read()
        closing = threading.Thread(target=keeper.close_all)
        closing.start()
        message, end = client.read(2)
        assert message == Message("x" * 1_000_000)
        assert end[0] == 1012
        client.sock.close()
        closing.join(10)


@pytest.mark.parametrize("limit", ["MAX_CONNECTIONS", "MAX_BYTES"])
def test_keeper_at_its_limit_leaves_the_connection_to_the_old_process(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(keeper_module, limit, 1)
    keeper = Keeper(10, 0, 1008)
    with (
        Client(engine, RFC6455, lambda _: None) as first,
        Client(engine, RFC6455, lambda ws: ws.on("message", ws.send)) as second,
        kept_by(keeper) as link,
    ):
        first.sock.sendall(first.encoder.message("hello")[:7])
        wait_for(first.is_read, "the engine to read")
        assert give(link, first) is MOVED
        with pytest.raises(NotMoved, match="too many"):
            give(link, second)
        second.sock.sendall(second.encoder.message("on"))
        assert second.read(1) == [Message("on")]
        first.sock.close()
    keeper.close_all()


def test_connection_that_is_busy_does_not_stop_the_others(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_connection, "IDLE_TIMEOUT_S", 0.1)
    keeper = Keeper(10, 0, 1008)
    with (
        Client(engine, RFC6455, lambda ws: ws.on("message", ws.send)) as busy,
        Client(engine, RFC6455, lambda _: None) as idle,
        kept_by(keeper) as link,
    ):
        busy.websocket._queued_sends = deque()  # as while a fragmented message is sent
        with pytest.raises(StillBusy):
            give(link, busy)
        busy.websocket._queued_sends = None
        assert give(link, idle) is MOVED
        busy.sock.sendall(busy.encoder.message("on"))
        assert busy.read(1) == [Message("on")]
        idle.sock.close()
    keeper.close_all()
