"""Rooms: a member that moves misses nothing, and does not leave for the others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import (
    BusSettings,
    BusState,
    Engine,
    History,
    Room,
    Rooms,
    State,
    WebSocket,
)
from websocket_handler.moving import open_connection
from websocket_handler.protocol.versions import by_name

from ..rooms.brokers import STARTERS, BrokerProcess, LocalDirectory
from ..support.programs import wait_for
from .between_engines import Client, move

RFC6455 = by_name("RFC 6455")
MOVES = 8
HISTORY = History(length=100_000)


@pytest.fixture(params=list(STARTERS), scope="module")
def broker(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[BrokerProcess]:
    process = STARTERS[request.param](tmp_path_factory.mktemp("broker"))
    yield process
    process.close()


def numbers_of(client: Client, last: int) -> list[int]:
    """The numbers that the member has received, up to the last one."""
    found: list[int] = []
    while not found or found[-1] != last:
        found += [int(event.data.split()[0]) for event in client.read(1)]  # type: ignore[union-attr]
    return found


class Publisher:
    """Sends numbers to a room from another process's rooms, from 1 on."""

    def __init__(self, room: Room, interval: float) -> None:
        self.count = 0
        self._room = room
        self._interval = interval
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._is_over.wait(self._interval):
            self.publish()

    def publish(self, filler: str = "") -> None:
        self.count += 1
        self._room.send(f"{self.count} {filler}")

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()


@contextlib.contextmanager
def processes_with(url: str, history: History | None = HISTORY) -> Iterator[list[Rooms]]:
    """The rooms of a publisher, and of two processes between which a member moves."""
    settings = BusSettings(backoff_min=0.05, backoff_max=0.1)
    processes = [Rooms(url, history=history, bus_settings=settings) for _ in range(3)]
    yield processes
    for rooms in processes:
        rooms.close(1)


@pytest.mark.parametrize("interval", [0.001, 0.005, 0.05])
@pytest.mark.parametrize("waits", [True, False], ids=["after messages", "at once"])
def test_moved_member_receives_every_message_of_the_history_once(
    broker: BrokerProcess,
    engines: tuple[Engine, Engine],
    tmp_path: Path,
    interval: float,
    waits: bool,
) -> None:
    name = f"room of {tmp_path}"
    with (
        processes_with(broker.url) as (publishing, *others),
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        others[0][name].add(client.websocket, "someone")
        assert others[0][name].ready(10)
        with Publisher(publishing[name], interval) as publisher:
            for index in range(1, MOVES + 1):
                if waits:
                    wait_for(lambda: client.websocket.traffic.messages_sent > 1, "messages")
                with joining(others[index % 2][name], "someone"):
                    client.move(engines[index % 2], lambda _: None)
        publisher.publish()
        assert numbers_of(client, publisher.count) == list(range(1, publisher.count + 1))


def test_member_moved_during_its_replay_receives_every_message_once(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    """The peer does not read, so the replay and the room's queue for slow members wait."""
    name = f"replay of {tmp_path}"
    with (
        processes_with(broker.url) as (publishing, *others),
        Client(engines[0], RFC6455, lambda _: None) as watcher,
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        publishing[name].add(watcher.websocket)
        assert publishing[name].ready(10)
        publisher = Publisher(publishing[name], 1)
        publisher.publish()
        first = offset_of(publishing[name])
        for _ in range(60):
            publisher.publish("x" * 50_000)
        wait_for(lambda: publishing.flush(0), "the broker")  # else some are live, not replayed
        others[0][name].add(client.websocket, since=first)
        for index in range(1, 5):
            wait_for(lambda: client.websocket.buffered_amount > 0, "the replay to wait")
            with joining(others[index % 2][name]):
                client.move(engines[index % 2], lambda _: None)
            publisher.publish("live")
        assert numbers_of(client, publisher.count) == list(range(2, publisher.count + 1))


@pytest.mark.parametrize("history", [HISTORY, None], ids=["history", "no history"])
def test_moved_slow_member_receives_its_queued_messages(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path, history: History | None
) -> None:
    name = f"slow member of {tmp_path}"
    with (
        processes_with(broker.url, history) as (publishing, *others),
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        others[0][name].add(client.websocket)
        assert others[0][name].ready(10)
        publisher = Publisher(publishing[name], 1)
        for index in range(1, 4):
            for _ in range(10):
                publisher.publish("x" * 50_000)
            wait_for(partial(has_slow_member, others[(index - 1) % 2][name]), "a slow member")
            wait_for(lambda: publishing.flush(0), "the broker")
            with joining(others[index % 2][name]):
                client.move(engines[index % 2], lambda _: None)
            assert others[index % 2][name].ready(10)
        publisher.publish("last")
        found = numbers_of(client, publisher.count)
        if history is None:  # messages that are sent at the moment of a move may arrive twice
            found = list(dict.fromkeys(found))
        assert found == list(range(1, publisher.count + 1))


def test_member_moved_while_broker_is_down_receives_every_message_once(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    if isinstance(broker, LocalDirectory):
        return  # it cannot be down
    name = f"outage of {tmp_path}"
    with (
        processes_with(broker.url) as (publishing, *others),
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        others[0][name].add(client.websocket, "someone")
        assert others[0][name].ready(10)
        publisher = Publisher(publishing[name], 1)
        publisher.publish()
        wait_for(lambda: client.websocket.traffic.messages_sent == 1, "the message")
        with down(broker, others[0]):
            for index in range(1, 4):
                publisher.publish()
                with joining(others[index % 2][name], "someone"):
                    client.move(engines[index % 2], lambda _: None)
        assert numbers_of(client, publisher.count) == list(range(1, publisher.count + 1))
        assert client.websocket.state is State.OPEN


def test_member_that_has_received_unstored_messages_waits_for_the_broker(
    broker: BrokerProcess,
    engines: tuple[Engine, Engine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process that cannot reach the broker delivers its own messages to its members at once."""
    if isinstance(broker, LocalDirectory):
        return
    monkeypatch.setattr(open_connection, "IDLE_TIMEOUT_S", 0.2)
    name = f"unstored messages of {tmp_path}"
    with (
        processes_with(broker.url) as (_, *others),
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        old = client.websocket
        others[0][name].add(old)
        assert others[0][name].ready(10)
        publisher = Publisher(others[0][name], 1)
        with down(broker, others[0]):
            publisher.publish()
            wait_for(lambda: old.traffic.messages_sent == 1, "the message")
            with joining(others[1][name]):
                _, answer = move(old, client.request, engines[1], lambda _: None)
            assert "has not stored all messages" in answer.reason
        assert others[0].flush(20)
        wait_for(lambda: others[0][name]._may_move(old), "the message to come back")
        with joining(others[1][name]):
            client.move(engines[1], lambda _: None)
        publisher.publish()
        assert numbers_of(client, 2) == [1, 2]


def test_own_message_in_flight_stays_excluded_after_a_move(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    name = f"excluded of {tmp_path}"
    with (
        processes_with(broker.url) as (_, *others),
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        others[0][name].add(client.websocket)
        assert others[0][name].ready(10)
        for index in range(1, 6):
            room = others[(index - 1) % 2][name]
            room.send("0", exclude=client.websocket)
            room.send(str(index))
            with joining(others[index % 2][name]):
                client.move(engines[index % 2], lambda _: None)
        received = [event.data for event in client.read(5)]  # type: ignore[union-attr]
        assert sorted(received) == ["1", "2", "3", "4", "5"]  # of two senders, in any order


def test_member_of_two_rooms_of_one_name_continues_in_each(
    engines: tuple[Engine, Engine], tmp_path: Path
) -> None:
    urls = [str(tmp_path / name) for name in "ab"]
    for path in urls:
        Path(path).mkdir(0o700)
    with contextlib.ExitStack() as stack:
        (one, *ones), (two, *twos) = (
            stack.enter_context(processes_with(f"local://{path}")) for path in urls
        )
        client = stack.enter_context(Client(engines[0], RFC6455, lambda _: None))
        for rooms in (ones[0], twos[0]):
            rooms["x"].add(client.websocket)
            rooms["x"].add(client.websocket)
            assert rooms["x"].ready(10)
        two["x"].send("1")
        wait_for(lambda: client.websocket.traffic.messages_sent == 1, "the message")
        for index in range(1, 4):
            with joining(ones[index % 2]["x"]), joining(twos[index % 2]["x"]):
                client.move(engines[index % 2], lambda _: None)
        one["x"].send("2")
        assert numbers_of(client, 2) == [1, 2]
        two["x"].send("3")
        assert numbers_of(client, 3) == [3]


@pytest.mark.parametrize("waits", [True, False], ids=["one by one", "at once"])
def test_presence_of_moved_member_does_not_change(
    broker: BrokerProcess, engines: tuple[Engine, Engine], tmp_path: Path, waits: bool
) -> None:
    name = f"presence of {tmp_path}"
    seen: list[dict[str, int]] = []
    with (
        processes_with(broker.url, None) as (observer, *others),
        Client(engines[0], RFC6455, lambda _: None) as watcher,
        Client(engines[0], RFC6455, lambda _: None) as client,
    ):
        observer.on("presence", lambda room: seen.append(room.presence()))
        observer[name].add(watcher.websocket)
        assert observer[name].ready(10)
        others[0][name].add(client.websocket, "someone")
        wait_for(lambda: observer[name].presence().get("someone"), "the member")
        seen.clear()
        for index in range(1, 4):
            with joining(others[index % 2][name], "someone"):
                client.move(engines[index % 2], lambda _: None)
            if waits:
                wait_until_left(others[(index + 1) % 2], name)
                wait_for(lambda: observer[name].presence() == {"someone": 1}, "the new process")
        wait_until_left(others[0], name)
        wait_for(lambda: observer[name].presence() == {"someone": 1}, "the new process")
        assert all(presence.get("someone") for presence in seen), seen


def wait_until_left(rooms: Rooms, name: str) -> None:
    wait_for(lambda: name not in rooms._joined, "the old process to leave")


def offset_of(room: Room) -> str:
    """Wait for the first message of a room, and return its offset."""
    offsets: list[str | None] = []
    bus = room._rooms._bus
    assert bus is not None

    def note(offset: str | None) -> None:
        offsets[:] = [offset]

    def has_arrived() -> bool:
        bus.at_offset(room.name, note, lambda: True)
        return room._rooms.stats().delivered.sent > 0

    wait_for(has_arrived, "the message")
    bus.at_offset(room.name, note, lambda: True)
    assert offsets[0] is not None
    return offsets[0]


def has_slow_member(room: Room) -> bool:
    """Whether messages are queued for a member, or it catches up."""
    return bool(room._slow or room._joining)


@contextlib.contextmanager
def down(broker: BrokerProcess, rooms: Rooms) -> Iterator[None]:
    """Have no broker inside, which the rooms have noticed."""
    broker.kill()
    try:
        wait_for(lambda: rooms.bus_state is BusState.DOWN, "the outage")
        yield
    finally:
        broker.start()


@contextlib.contextmanager
def joining(room: Room, identity: str | None = None) -> Iterator[None]:
    """Have the handler add its WebSocket to a room after `connect()`."""
    connect = WebSocket.connect

    def connect_and_join(ws: WebSocket, *arguments: Any, **options: Any) -> Any:
        result = connect(ws, *arguments, **options)
        room.add(ws, identity)
        room.add(ws, identity)  # does nothing
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WebSocket, "connect", connect_and_join)
        yield
