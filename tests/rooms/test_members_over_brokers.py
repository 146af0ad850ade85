"""Members of rooms over a broker: members that return, leave, or stay during an outage."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from typing import Any

import pytest

from websocket_handler import (
    BusState,
    BusUnavailable,
    Engine,
    History,
    Rooms,
    SlowConsumers,
    WebSocket,
)
from websocket_handler.protocol.assembly import Message

from ..support.connections import Peer, make_websocket
from ..support.programs import wait_for
from .admin import ADMINS
from .brokers import BrokerProcess, break_connection
from .conftest import Start
from .members import Make, add_offset, join

POLICIES = [
    SlowConsumers("close", max_backlog=1000),
    SlowConsumers("drop_oldest", max_backlog=1000),
    SlowConsumers("drop_newest", max_backlog=1000),
    SlowConsumers("latest", max_backlog=1000),
]


class Reader:
    """Reads all the time; messages are JSON with the sent text and its offset."""

    def __init__(self, peer: Peer) -> None:
        self.messages: list[str] = []
        self.offsets: list[str | None] = []
        self._peer = peer
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while isinstance(event := self._peer.read(), Message):
                message, offset = self._split(str(event.data))
                self.messages.append(message)
                self.offsets.append(offset)
        except (AssertionError, OSError):
            pass

    @staticmethod
    def _split(text: str) -> tuple[str, str | None]:
        if not text.startswith("["):
            return text, None
        message, offset = json.loads(text)
        return message, offset

    def wait_for(self, count: int) -> list[str]:
        wait_for(lambda: len(self.messages) >= count, f"{count} messages", 30)
        return self.messages


def member(engine: Engine) -> tuple[WebSocket, Peer]:
    """With a small socket buffer, so that unread data counts early."""
    websocket = make_websocket(engine)
    opened = threading.Event()
    websocket.on("open", opened.set)
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    websocket.connect()
    websocket._take_over(ours)
    peer = Peer(theirs)
    peer.read_head()
    assert opened.wait(10)
    return websocket, peer


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.when_full))
def test_since_with_megabytes_of_history_catches_up(
    engine: Engine,
    shared: BrokerProcess,
    make: Make,
    policy: SlowConsumers,
    request: pytest.FixtureRequest,
) -> None:
    rooms = make(shared, history=History(length=1000), add_offset=add_offset, slow_consumers=policy)
    room, sender = rooms[request.node.name], make(shared, history=History(length=1000))
    first, its_peer = member(engine)
    room.add(first)
    assert room.ready(10)
    sender[room.name].send("the first")
    reader = Reader(its_peer)
    reader.wait_for(1)
    since = reader.offsets[0]
    room.discard(first)
    keeper, keeper_peer = member(engine)
    threading.Thread(target=drain, args=(keeper_peer,), daemon=True).start()
    room.add(keeper)
    assert room.ready(10)
    texts = [f"{number:04}" + "x" * 4000 for number in range(600)]
    for text in texts:
        sender[room.name].send(text, key="the same")
    assert sender.flush(30)
    before = rooms.stats().delivered.sent
    late, late_peer = member(engine)
    room.add(late, since=since)
    late_reader = Reader(late_peer)
    assert late_reader.wait_for(600)[:600] == texts
    wait_for(lambda: late in room, "it to be admitted")
    sender[room.name].send("live")
    assert late_reader.wait_for(601)[600:] == ["live"]
    assert rooms.stats().delivered.sent >= before + 600


def drain(peer: Peer) -> None:
    try:
        while peer.sock.recv(1 << 20):
            pass
    except OSError:
        pass


def test_replay_waits_for_a_peer_that_does_not_read(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared, history=History(length=1000), add_offset=add_offset)
    room = rooms[request.node.name]
    keeper, keeper_peer = member(engine)
    room.add(keeper)
    assert room.ready(10)
    keeper_reader = Reader(keeper_peer)
    texts = [f"{number:04}" + "x" * 4000 for number in range(200)]
    for text in texts:
        room.send(text)
    keeper_reader.wait_for(200)
    late, late_peer = member(engine)
    room.add(late, since=keeper_reader.offsets[0])
    wait_for(lambda: late.buffered_amount > 0, "the replay to begin")
    room.send("meanwhile")
    keeper_reader.wait_for(201)
    assert late not in room
    assert late.buffered_amount < 1 << 18  # nor are the remaining ones queued for it
    assert Reader(late_peer).wait_for(200) == [*texts[1:], "meanwhile"]
    wait_for(lambda: late in room, "it to be admitted")


def test_message_that_excludes_a_returning_member_is_not_replayed_to_it(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared, history=History(length=1000), add_offset=add_offset)
    room = rooms[request.node.name]
    keeper, keeper_peer = member(engine)
    room.add(keeper)
    assert room.ready(10)
    keeper_reader = Reader(keeper_peer)
    texts = [f"{number:04}" + "x" * 4000 for number in range(200)]
    for text in texts:
        room.send(text)
    keeper_reader.wait_for(200)
    late, late_peer = member(engine)
    room.add(late, since=keeper_reader.offsets[0])
    wait_for(lambda: late.buffered_amount > 0, "the replay to begin")
    room.send("excluded", exclude=late)
    room.send("meanwhile")
    keeper_reader.wait_for(202)
    assert not room._may_move(late)
    assert Reader(late_peer).wait_for(200) == [*texts[1:], "meanwhile"]
    wait_for(lambda: late in room, "it to be admitted")
    assert room._may_move(late)


def test_replay_continues_after_a_reconnect(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared, history=History(length=1000), add_offset=add_offset)
    room = rooms[request.node.name]
    keeper, keeper_peer = member(engine)
    room.add(keeper)
    assert room.ready(10)
    keeper_reader = Reader(keeper_peer)
    texts = [f"{number:04}" + "x" * 4000 for number in range(200)]
    for text in texts:
        room.send(text)
    keeper_reader.wait_for(200)
    late, late_peer = member(engine)
    room.add(late, since=keeper_reader.offsets[0])
    wait_for(lambda: late.buffered_amount > 0, "the replay to begin")
    bus = rooms._bus
    assert bus is not None
    break_connection(bus)
    wait_for(lambda: bus.stats().connects == 2, "the next connection")
    assert Reader(late_peer).wait_for(199) == texts[1:]
    wait_for(lambda: late in room, "it to be admitted")


def test_expired_since_is_a_loss_of_that_member_only(
    engine: Engine, shared: BrokerProcess, make: Make, kind: str, request: pytest.FixtureRequest
) -> None:
    rooms = make(
        shared,
        history=History(length=10),
        add_offset=add_offset,
        bus_settings={"prefix": f"alone-{kind}"},
    )
    room = rooms[request.node.name]
    lost: list[Any] = []
    missed: list[Any] = []
    rooms.on("lost", lambda *what: lost.append(what))
    rooms.on("missed", lambda *what: missed.append(what))
    one, its_peer = join(engine, room)
    assert room.ready(10)
    reader = Reader(its_peer)
    for number in range(1000):
        room.send(str(number))
    reader.wait_for(1000)
    late, late_peer = member(engine)
    room.add(late, since=reader.offsets[0])
    wait_for(lambda: late in room, "it to be admitted")
    room.send("now")
    late_reader = Reader(late_peer)
    wait_for(lambda: late_reader.messages[-1:] == ["now"], "the present")
    kept = len(late_reader.messages) - 1
    assert late_reader.messages[:-1] == [str(number) for number in range(1000 - kept, 1000)]
    assert missed == [(room, late, None if kind == "nats" else 999 - kept)]
    assert lost == []
    assert one in room


def test_lost_history_is_reported_to_rooms_and_returning_members(
    engine: Engine, start: Start, make: Make, kind: str
) -> None:
    broker = start()
    history = History()
    here, there = (make(broker, history=history, add_offset=add_offset) for _ in range(2))
    lost: list[Any] = []
    missed: list[Any] = []
    here.on("lost", lambda room, count: lost.append((room.name, count)))
    here.on("missed", lambda _, websocket, count: missed.append((websocket, count)))
    _, peer = join(engine, here["a"])
    assert here["a"].ready(10)
    reader = Reader(peer)
    there["a"].send("before")
    reader.wait_for(1)
    ADMINS[kind](broker, "websocket-handler", history).crash()
    for rooms in (here, there):
        wait_for(lambda rooms=rooms: rooms.stats().bus.connects >= 2, "the broker", 20)  # type: ignore[misc]
    assert here["a"].ready(10)
    there["a"].send("after")
    assert reader.wait_for(2) == ["before", "after"]
    assert lost == [("a", None)]
    late, late_peer = member(engine)
    here["a"].add(late, since=reader.offsets[0])
    assert Reader(late_peer).wait_for(1) == ["after"]
    assert missed == [(late, None)]
    assert lost == [("a", None)]


def test_member_that_rejoins_receives_nothing_twice(
    engine: Engine, start: Start, make: Make
) -> None:
    broker = start()
    rooms = make(broker, history=History())
    room = rooms["a"]
    websocket, peer = join(engine, room)
    reader = Reader(peer)
    assert room.ready(10)
    broker.kill()
    wait_for(lambda: rooms.bus_state is BusState.DOWN, "it to be noticed")
    room.send("while away")
    reader.wait_for(1)
    room.discard(websocket)
    room.add(websocket)
    broker.start()
    assert room.ready(20)
    room.send("after")
    assert reader.wait_for(2) == ["while away", "after"]


@pytest.mark.parametrize("order", ["sent before it leaves", "sent while nobody is there"])
def test_exclude_holds_for_a_member_that_rejoins(
    engine: Engine, start: Start, make: Make, order: str
) -> None:
    broker = start()
    rooms = make(broker, history=History())
    room = rooms["a"]
    websocket, peer = join(engine, room)
    reader = Reader(peer)
    assert room.ready(10)
    for is_away in (False, True):
        if is_away:
            broker.kill()
            wait_for(lambda: rooms.bus_state is BusState.DOWN, "it to be noticed")
        if order == "sent before it leaves":
            room.send("not for it", exclude=websocket)
            room.discard(websocket)
        else:
            room.discard(websocket)
            room.send("not for it", exclude=websocket)
        room.add(websocket)
        if is_away:
            broker.start()
        assert room.ready(20)
        room.send(f"end {is_away}")
        wait_for(lambda: reader.messages[-1:] == [f"end {is_away}"], "the end")  # noqa: B023
    assert reader.messages == ["end False", "end True"]


@pytest.mark.parametrize("history", [None, History()], ids=["plain", "history"])
def test_local_members_receive_although_bus_unavailable_is_raised(
    engine: Engine, start: Start, make: Make, history: History | None
) -> None:
    broker = start()
    refuses = make(broker, history=history, bus_settings={"on_unavailable": "raise"})
    fills = make(broker, history=history, bus_settings={"queue_size": 3})
    readers = {}
    for rooms in (refuses, fills):
        _, peer = join(engine, rooms["a"])
        assert rooms["a"].ready(10)
        readers[rooms] = Reader(peer)
    broker.kill()
    for rooms in (refuses, fills):
        wait_for(lambda rooms=rooms: rooms.bus_state is BusState.DOWN, "it to be noticed")  # type: ignore[misc]
    with pytest.raises(BusUnavailable):
        refuses["a"].send("while away")
    raised = 0
    for number in range(6):
        try:
            fills["a"].send(str(number))
        except BusUnavailable:
            raised += 1
    assert raised == 3
    refuses.close(1)
    with pytest.raises(BusUnavailable):
        refuses["a"].send("after close")
    assert readers[refuses].wait_for(2) == ["while away", "after close"]
    assert readers[fills].wait_for(6) == list("012345")


def test_message_just_before_close_reaches_local_members(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    for number in range(20):
        rooms = make(shared, history=History())
        room = rooms[f"{request.node.name} {number}"]
        _, peer = join(engine, room)
        assert room.ready(10)
        room.send("the last")
        rooms.close(5)
        assert peer.read() == Message("the last")


@pytest.mark.parametrize("history", [None, History()], ids=["plain", "history"])
def test_message_after_add_arrives_although_last_member_just_left(
    engine: Engine,
    shared: BrokerProcess,
    make: Make,
    history: History | None,
    request: pytest.FixtureRequest,
) -> None:
    here, there = make(shared, history=history), make(shared, history=history)
    room, theirs = here[request.node.name], there[request.node.name]
    members = [join(engine) for _ in range(2)]
    room.add(members[0][0])
    assert room.ready(10)
    for number in range(100):
        (gone, _), (comes, peer) = members[number % 2], members[1 - number % 2]
        room.discard(gone)
        room.add(comes)
        theirs.send(str(number))
        assert there.flush(10)
        assert peer.read() == Message(str(number))


def test_ready_waits_until_other_processes_are_received(
    engine: Engine, start: Start, make: Make
) -> None:
    broker = start()
    here, there = make(broker), make(broker)
    for number in range(50):
        room = here[f"room {number}"]
        assert not room.ready(0.01)  # no other process is there
        _, peer = join(engine, room)
        assert room.ready(10) if number % 2 else asyncio.run(room.aready())
        there[room.name].send("now")
        assert peer.read() == Message("now")
    broker.kill()
    wait_for(lambda: here.bus_state is BusState.DOWN, "it to be noticed")
    assert not room.ready(0.05)
    broker.start()
    assert room.ready(20)
    here.close(1)
    assert not room.ready()
    assert not asyncio.run(room.aready())


def test_ready_without_a_broker_returns_at_once() -> None:
    room = Rooms()["a"]
    assert room.ready()
    assert asyncio.run(room.aready())


def test_ready_ends_when_the_last_member_leaves(engine: Engine, start: Start, make: Make) -> None:
    broker = start()
    rooms = make(broker)
    websocket, _ = join(engine, rooms["a"])
    assert rooms["a"].ready(10)
    broker.kill()
    wait_for(lambda: rooms.bus_state is BusState.DOWN, "it to be noticed")
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(rooms["a"].ready()))
    waiting.start()
    websocket.abort()
    waiting.join(10)
    assert answers == [False]
