"""A real Redis cluster of three servers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import require
from tests.support.programs import wait_for
from websocket_handler.brokers.redis_cluster import RedisClusterBroker
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusState, History

from ..support.ports import free_port
from .brokers import BrokerProcess, redis_server
from .conftest import Connect
from .publishing import NAMES, send
from .recorder import Recorder
from .replay import Replay

HISTORIES = [None, History(length=10_000)]


class Cluster:
    """Three servers, each with a third of the slots."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-cli")
        require(program, "redis-cli")
        self.servers: list[BrokerProcess] = []
        try:
            for number in range(3):
                place = folder / str(number)
                place.mkdir()
                options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
                options += ["--cluster-port", str(free_port())]
                self.servers.append(redis_server(place, *options))
            hosts = [f"127.0.0.1:{server.port}" for server in self.servers]
            command = [str(program), "--cluster", "create", *hosts, "--cluster-yes"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
        except BaseException:
            self.close()
            raise
        self.url = f"redis+cluster://{','.join(hosts)}"

    def rebalance(self) -> None:
        """Move all slots of the first server to the others; wait until every server knows it."""
        program = str(shutil.which("redis-cli"))
        first = f"127.0.0.1:{self.servers[0].port}"
        name = subprocess.run(
            [program, "-p", str(self.servers[0].port), "CLUSTER", "MYID"],
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
        command = [program, "--cluster", "rebalance", first, "--cluster-weight", f"{name}=0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr

    def close(self) -> None:
        for server in self.servers:
            server.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("history", HISTORIES, ids=["plain", "history"])
def test_cluster_delivers_rooms_of_all_servers(
    cluster: Cluster, connect: Connect, history: History | None
) -> None:
    sender, _ = connect(cluster.url, history=history)
    _, receiver = connect(cluster.url, *NAMES, history=history)
    for name in NAMES:
        send(sender, name, *map(str, range(50)))
    receiver.wait_for_messages(50 * len(NAMES))
    for name in NAMES:
        assert receiver.messages(name) == [str(number) for number in range(50)]
    servers = [
        subprocess.run(
            ["redis-cli", "-p", str(server.port), "INFO", "commandstats"],
            capture_output=True,
            text=True,
        ).stdout
        for server in cluster.servers
    ]
    assert all("cmdstat_spublish" in text for text in servers)


def test_cluster_keeps_history_and_presence(cluster: Cluster, connect: Connect) -> None:
    first, recorder = connect(cluster.url, "a", "b", "c", history=HISTORIES[1])
    second, others = connect(cluster.url, "a", "b", "c", history=HISTORIES[1])
    for room in "abc":
        send(first, room, "1", "2", "3")
        first.announce(room, {f"ann in {room}": 1})
    recorder.wait_for_messages(9)
    for room in "abc":
        wait_for(lambda: second.present(room) == {f"ann in {room}": 1}, "ann")  # noqa: B023
        since = next(what.offset for what in recorder.delivered if what.room == room)
        replay = Replay(second, others, room, str(since)).wait()
        assert replay.messages() == ["2", "3"]
    assert len({(what.room, what.offset) for what in recorder.delivered}) == 9


def test_cluster_survives_one_killed_server(cluster: Cluster, connect: Connect) -> None:
    rooms = [f"room {number}" for number in range(30)]  # on all servers
    sender, _ = connect(cluster.url, history=HISTORIES[1])
    _, receiver = connect(cluster.url, *rooms, history=HISTORIES[1])
    for room in rooms:
        send(sender, room, "before")
    receiver.wait_for_messages(30)
    cluster.servers[0].kill()
    receiver.wait_for_state(BusState.DOWN)
    for room in rooms:
        send(sender, room, "while it is away")
    cluster.servers[0].start()
    receiver.wait_for_state(BusState.UP, 30)
    for room in rooms:
        send(sender, room, "after")
    receiver.wait_for_messages(90, 30)
    for room in rooms:
        assert receiver.messages(room) == ["before", "while it is away", "after"]
    assert receiver.losses == []


@pytest.mark.parametrize("history", HISTORIES, ids=["plain", "history"])
def test_slot_moved_to_another_server_is_followed(
    cluster: Cluster, connect: Connect, history: History | None
) -> None:
    sender, _ = connect(cluster.url, history=history)
    bus, receiver = connect(cluster.url, *NAMES, history=history)
    for name in NAMES:
        send(sender, name, "before")
    receiver.wait_for_messages(len(NAMES))
    cluster.rebalance()
    wait_for(
        lambda: bus.state is BusState.UP and bus.stats().rooms == len(NAMES) and has_moved(bus),
        "the rooms to be subscribed on the servers that have them now",
        60,
    )
    for name in NAMES:
        send(sender, name, "after")
    for name in NAMES:
        wait_for(lambda name=name: "after" in receiver.messages(name), f"{name!r}", 30)  # type: ignore[misc]
    if history is not None:
        assert receiver.losses == []


def has_moved(bus: Bus) -> bool:
    """Returns whether the bus is connected to the servers as they are after `rebalance`."""
    broker = bus._worker.broker
    return isinstance(broker, RedisClusterBroker) and len(broker._pairs) == 2


def test_server_without_cluster_mode_is_reported(tmp_path: Path, connect: Connect) -> None:
    server = redis_server(tmp_path)
    try:
        _, recorder = connect(f"redis+cluster://127.0.0.1:{server.port}", wait=False)
        assert "not a server of a Redis cluster" in recorder.wait_for_state(BusState.DOWN)
    finally:
        server.close()


def test_url_with_several_hosts_is_a_cluster() -> None:
    with pytest.raises(ValueError, match="one host"):
        Bus("redis://a:1,b:2", Recorder())
    Bus("redis+cluster://a:1,b:2", Recorder())
    Bus("nats://user:password@a:1,b:2", Recorder())
