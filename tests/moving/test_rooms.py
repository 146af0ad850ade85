"""Rooms: a member that moves misses nothing, and does not leave for the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import Engine, History, Room, Rooms, WebSocket
from websocket_handler.moving import departures
from websocket_handler.protocol.versions import by_name

from ..rooms.brokers import STARTERS, BrokerProcess
from ..support.programs import wait_for
from .between_engines import Client

RFC6455 = by_name("RFC 6455")
MOVES = 8


@pytest.fixture(params=list(STARTERS), scope="module")
def broker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[BrokerProcess]:
    process = STARTERS[request.param](tmp_path_factory.mktemp("broker"))
    yield process
    process.close()


@pytest.fixture
def engines() -> Iterator[tuple[Engine, Engine]]:
    both = Engine(), Engine()
    yield both
    for engine in both:
        engine.stop(timeout=5)


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member may need long to catch up with a fast publisher on a busy machine."""
    monkeypatch.setattr(departures, "IDLE_TIMEOUT_S", 20.0)


def numbers_of(client: Client, last: int) -> list[int]:
    """The numbers that the member has received, up to the last one."""
    found: list[int] = []
    while not found or found[-1] != last:
        found += [int(event.data) for event in client.read(1)]  # type: ignore[union-attr]
    return found


def test_moved_member_receives_every_message_of_the_history_once(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    name = f"room of {tmp_path}"
    processes = [Rooms(broker.url, history=History(length=100_000)) for _ in range(3)]
    publisher, *others = processes
    is_over = threading.Event()
    count = [0]

    def publish(room: Room) -> None:
        while not is_over.wait(0.001):
            count[0] += 1
            room.send(str(count[0]))

    with Client(engines[0], RFC6455, lambda _: None) as client:
        others[0][name].add(client.websocket, "someone")
        assert others[0][name].ready(10)
        thread = threading.Thread(target=publish, args=[publisher[name]])
        thread.start()
        try:
            for index in range(1, MOVES + 1):
                wait_for(lambda: client.websocket.traffic.messages_sent > 3, "messages")
                with joining(others[index % 2][name], "someone"):
                    client.move(engines[index % 2], lambda _: None)
        finally:
            is_over.set()
            thread.join()
        found = numbers_of(client, count[0])
        assert found == list(range(found[0], count[0] + 1))
        assert found[0] == 1
    for rooms in processes:
        rooms.close(1)


def test_presence_of_moved_member_does_not_change(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    name = f"presence of {tmp_path}"
    processes = [Rooms(broker.url) for _ in range(3)]
    observer, *others = processes
    seen: list[dict[str, int]] = []
    observer.on("presence", lambda room: seen.append(room.presence()))
    with (
        Client(engines[0], RFC6455, lambda _: None) as watcher,
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        observer[name].add(watcher.websocket)
        assert observer[name].ready(10)
        others[0][name].add(client.websocket, "someone")
        wait_for(lambda: observer[name].presence().get("someone"), "the member")
        seen.clear()
        for index in (1, 2):
            with joining(others[index % 2][name], "someone"):
                client.move(engines[index % 2], lambda _: None)
            wait_for(lambda: observer[name].presence() == {"someone": 2}, "both processes")
            wait_for(lambda: observer[name].presence() == {"someone": 1}, "the new process")
        assert all(presence.get("someone") for presence in seen), seen
    for rooms in processes:
        rooms.close(1)


@contextlib.contextmanager
def joining(room: Room, identity: str) -> Iterator[None]:
    """Have the handler add its WebSocket to a room after `connect()`."""
    connect = WebSocket.connect

    def connect_and_join(ws: WebSocket, *arguments: Any, **options: Any) -> Any:
        result = connect(ws, *arguments, **options)
        room.add(ws, identity)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebSocket, "connect", connect_and_join)
        yield
