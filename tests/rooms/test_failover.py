"""A Redis with a replica that becomes the primary, located by real Sentinels or by an address."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.programs import wait_for
from websocket_handler.bus.settings import BusState, History

from ..support.ports import free_port
from .brokers import BrokerProcess, redis_server
from .conftest import Connect
from .publishing import send

HISTORIES = [None, History(length=10_000)]
FAST_HEARTBEAT = {"heartbeat_interval": 0.3, "silence_timeout": 3.0}
PASSWORD = "p/ss"


def ask(port: int, *words: str, password: str = "") -> str:
    """Returns a server's answer to one command."""
    program = shutil.which("redis-cli")
    require(program, "redis-cli")
    credentials = ["--no-auth-warning", "-a", password] if password else []
    command = [str(program), "-p", str(port), *credentials, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()


def promote(new: BrokerProcess, old: BrokerProcess) -> None:
    """Make `new` the primary and `old` its replica; connections stay open."""
    assert ask(new.port, "REPLICAOF", "NO", "ONE") == "OK"
    assert ask(old.port, "REPLICAOF", "127.0.0.1", str(new.port)) == "OK"


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[BrokerProcess, BrokerProcess]]:
    """A primary, and its synchronised replica."""
    started = []
    for name in ("primary", "replica"):
        (tmp_path / name).mkdir()
        options = ["--repl-diskless-sync-delay", "0"]
        started.append(redis_server(tmp_path / name, *options))
    primary, replica = started
    assert ask(replica.port, "REPLICAOF", "127.0.0.1", str(primary.port)) == "OK"
    wait_for(lambda: "master_link_status:up" in ask(replica.port, "INFO", "replication"), "it", 30)
    yield primary, replica
    for server in started:
        server.close()


class Address:
    """Forwards new connections to the current primary; existing ones stay."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.mark.parametrize("history", HISTORIES, ids=["plain", "history"])
def test_primary_that_became_a_replica_is_noticed(
    servers: tuple[BrokerProcess, BrokerProcess], connect: Connect, history: History | None
) -> None:
    primary, replica = servers
    address = Address(primary.port)
    try:
        url = f"redis://127.0.0.1:{address.port}"
        bus, recorder = connect(url, "room", history=history, **FAST_HEARTBEAT)
        address.target = replica.port
        promote(replica, primary)
        wait_for(lambda: bus.stats().connects == 2, "the failover to be noticed", 20)
        assert "replica" in next(why for state, why in recorder.states if state is BusState.DOWN)
        wait_for(lambda: bus.stats().rooms == 1, "the room to be subscribed")
        sender, _ = connect(f"redis://127.0.0.1:{replica.port}", history=history)
        send(sender, "room", "from a process that came after it")
        wait_for(lambda: recorder.messages() == ["from a process that came after it"], "it")
    finally:
        address.close()


def test_replica_is_not_taken_for_a_broker(
    servers: tuple[BrokerProcess, BrokerProcess], connect: Connect
) -> None:
    _, recorder = connect(servers[1], wait=False)
    assert "replica" in recorder.wait_for_state(BusState.DOWN)


class Sentinels:
    """Two Sentinels that watch a primary."""

    def __init__(self, folder: Path, primary: BrokerProcess, password: str = "") -> None:
        program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
        require(program, "redis-server")
        self.processes: list[BrokerProcess] = []
        for number in range(2):
            place = folder / f"sentinel-{number}"
            place.mkdir()
            port = free_port()
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {place}",
                f"sentinel monitor main 127.0.0.1 {primary.port} 2",
                "sentinel down-after-milliseconds main 500",
                "sentinel failover-timeout main 3000",
            ]
            lines += [f"sentinel auth-pass main {password}"] if password else []
            configuration = "\n".join(lines) + "\n"
            (place / "sentinel.conf").write_text(configuration)
            command = [str(program), str(place / "sentinel.conf"), "--sentinel"]
            self.processes.append(BrokerProcess(command, "", port, place))
        self.hosts = ",".join(f"127.0.0.1:{one.port}" for one in self.processes)

    def know_each_other(self) -> bool:
        told = [ask(one.port, "SENTINEL", "MASTER", "main").split("\n") for one in self.processes]
        return all(
            words[words.index("num-other-sentinels") + 1] == "1"
            and words[words.index("num-slaves") + 1] == "1"
            for words in told
        )

    def close(self) -> None:
        for one in self.processes:
            one.close()


@pytest.mark.parametrize("history", HISTORIES, ids=["plain", "history"])
def test_sentinels_lead_to_the_new_primary(
    servers: tuple[BrokerProcess, BrokerProcess],
    tmp_path: Path,
    connect: Connect,
    history: History | None,
) -> None:
    primary, replica = servers
    for server in servers:
        settings = ("masterauth", PASSWORD, "requirepass", PASSWORD)
        assert ask(server.port, "CONFIG", "SET", *settings) == "OK"
    sentinels = Sentinels(tmp_path, primary, PASSWORD)
    try:
        wait_for(sentinels.know_each_other, "the Sentinels to know each other", 30)
        url = f"redis+sentinel://:p%2Fss@127.0.0.1:1,{sentinels.hosts}/main/1"
        bus, recorder = connect(url, "room", history=history)
        sender, _ = connect(url, history=history)
        send(sender, "room", "before")
        assert recorder.wait_for_messages(1) == ["before"]
        primary.kill()
        recorder.wait_for_state(BusState.DOWN)
        send(sender, "room", "while there is none")
        wait_for(lambda: bus.stats().connects == 2, "the new primary", 60)
        wait_for(lambda: bus.stats().rooms == 1, "the room to be subscribed")
        assert sender.flush(60)
        send(sender, "room", "after")
        wait_for(lambda: "after" in recorder.messages(), "the message after it", 30)
        assert "role:master" in ask(replica.port, "INFO", "replication", password=PASSWORD)
    finally:
        sentinels.close()


def test_sentinel_without_the_service_is_reported(
    servers: tuple[BrokerProcess, BrokerProcess], tmp_path: Path, connect: Connect
) -> None:
    sentinels = Sentinels(tmp_path, servers[0])
    try:
        _, recorder = connect(f"redis+sentinel://{sentinels.hosts}/other", wait=False)
        assert "no service 'other'" in recorder.wait_for_state(BusState.DOWN)
        port = servers[0].port
        _, others = connect(f"redis+sentinel://:hunter2@127.0.0.1:{port}/main", wait=False)
        reason = others.wait_for_state(BusState.DOWN)
        assert "Sentinel" in reason
        assert "hunter2" not in reason
    finally:
        sentinels.close()
