"""Rooms of several processes; here several `Rooms` in one process, each with its own bus."""

from __future__ import annotations

import json

import pytest

from websocket_handler import (
    BusState,
    BusUnavailable,
    Delivery,
    Engine,
    History,
    Room,
    Rooms,
    WebSocket,
    WebSocketError,
)
from websocket_handler.protocol.assembly import Close, Message

from ..support.connections import Peer, make_websocket
from ..support.programs import wait_for
from .brokers import BrokerProcess
from .conftest import Start
from .members import Make, add_offset, join, wait_until_joined


def test_message_reaches_the_members_of_all_processes(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    name = request.node.name + " *.> \u20ac"
    here, there, only_sends = make(shared), make(shared), make(shared)
    one, its_peer = join(engine, here[name])
    _, other_peer = join(engine, here[name])
    _, far_peer = join(engine, there[name])
    wait_until_joined(here, there)
    assert here[name].send("from here", exclude=one) == Delivery(sent=1)
    assert far_peer.read() == Message("from here")
    assert there[name].send(b"from there") == Delivery(sent=1)
    assert [its_peer.read(), far_peer.read()] == [Message(b"from there")] * 2
    assert only_sends[name].send("from nowhere") == Delivery()
    assert only_sends.flush(10)
    assert [its_peer.read(), far_peer.read()] == [Message("from nowhere")] * 2
    assert [other_peer.read() for _ in range(3)] == [
        Message("from here"),
        Message(b"from there"),
        Message("from nowhere"),
    ]


def test_room_without_members_receives_nothing(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared)
    websocket, peer = join(engine, rooms[request.node.name])
    wait_until_joined(rooms)
    websocket.abort()
    wait_until_joined(rooms, count=0)
    _, peer = join(engine, rooms[request.node.name])
    wait_until_joined(rooms)
    make(shared)[request.node.name].send("again")
    assert peer.read() == Message("again")


def test_presence_lists_members_of_all_processes(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    here, there = make(shared), make(shared)
    seen: list[str] = []
    there.on("presence", lambda room: seen.append(room.name))

    def come(room: Room, who: str | None) -> WebSocket:
        websocket, _ = join(engine)
        room.add(websocket, who)
        return websocket

    alice, _, nobody = (come(here[name], who) for who in ("alice", "bob", None))
    come(there[name], "alice")
    for rooms in (here, there):
        wait_for(lambda rooms=rooms: rooms[name].presence() == {"alice": 2, "bob": 1}, "all")  # type: ignore[misc]
    alice.abort()
    nobody.abort()
    wait_for(lambda: there[name].presence() == {"alice": 1, "bob": 1}, "one alice to be gone")
    assert set(seen) == {name}
    here.close(5)
    wait_for(
        lambda: there[name].presence() == {"alice": 1}, "those of the other process to be gone"
    )
    assert len(here[name]) == 1


def read(peer: Peer) -> tuple[str, str]:
    event = peer.read()
    assert isinstance(event, Message)
    message, offset = json.loads(event.data)
    return message, offset


def test_members_catch_up_from_the_history(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    name = request.node.name
    options = {"history": History(length=100), "add_offset": add_offset}
    here, there = make(shared, **options), make(shared, **options)
    one, its_peer = join(engine, here[name])
    wait_until_joined(here)
    for number in range(5):
        assert there[name].send(str(number), key="x") == Delivery()
    seen = [read(its_peer) for _ in range(5)]
    assert [message for message, _ in seen] == list("01234")
    late, late_peer = join(engine)
    there[name].add(late, since=seen[1][1])
    assert [read(late_peer) for _ in range(3)] == seen[2:]
    wait_for(lambda: late in there[name], "it to be admitted")
    here[name].send("not to one", exclude=one)
    here[name].send("now")
    assert [read(late_peer)[0] for _ in range(2)] == ["not to one", "now"]
    assert read(its_peer)[0] == "now"


def test_malformed_since_closes_the_member(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared, history=History())
    websocket, peer = join(engine)
    rooms[request.node.name].add(websocket, since="yesterday")
    assert peer.read() == Close(1008, "no such offset")
    assert websocket not in rooms[request.node.name]


def test_member_that_leaves_before_admission_gets_nothing(
    engine: Engine, shared: BrokerProcess, make: Make, request: pytest.FixtureRequest
) -> None:
    rooms = make(shared, history=History())
    room = rooms[request.node.name]
    websocket, _ = join(engine)
    room.add(websocket, since="0-1" if shared.url.startswith("redis") else "1")
    websocket.abort()
    assert websocket.wait_closed(10)
    wait_for(lambda: not room._is_needed, "it to be forgotten")
    assert len(room) == 0


def test_broker_away_members_here_still_receive(engine: Engine, start: Start, make: Make) -> None:
    broker = start()
    queues, raises = make(broker), make(broker, bus_settings={"on_unavailable": "raise"})
    states: list[BusState] = []
    queues.on("bus", lambda state, _: states.append(state))
    _, peer = join(engine, queues["a"])
    _, other_peer = join(engine, raises["a"])
    wait_until_joined(queues, raises)
    broker.kill()
    for rooms in (queues, raises):
        wait_for(lambda rooms=rooms: rooms.bus_state is BusState.DOWN, "it to be noticed")  # type: ignore[misc]
    assert queues["a"].send("waits") == Delivery(sent=1)
    assert peer.read() == Message("waits")
    with pytest.raises(BusUnavailable):
        raises["a"].send("is lost to others")
    assert other_peer.read() == Message("is lost to others")
    broker.start()
    wait_until_joined(queues, raises)
    raises["a"].send("again")
    assert peer.read() == Message("again")
    while (event := other_peer.read()) != Message("again"):
        assert event == Message("waits")  # if it was back before the other one
    assert states[-2:] == [BusState.DOWN, BusState.UP]


def test_history_without_its_requirements_is_an_error(
    engine: Engine, shared: BrokerProcess
) -> None:
    with pytest.raises(ValueError, match="a history needs a URL"):
        Rooms(history=History())
    with pytest.raises(ValueError, match="without a history messages have no offset"):
        Rooms(shared.url, add_offset=add_offset)
    websocket = make_websocket(engine)
    websocket.connect()
    lobby = Rooms()["lobby"]
    with pytest.raises(WebSocketError, match="since needs a history"):
        lobby.add(websocket, since="1-1")
    assert not lobby._is_needed
    lobby.add(websocket)
    assert websocket in lobby


@pytest.mark.parametrize("event", ["bus", "lost", "presence"])
def test_listener_of_unknown_event_is_an_error(event: str) -> None:
    rooms = Rooms()

    @rooms.on(event)
    def listener(*_: object) -> None:
        """Does nothing."""

    assert rooms.on(event, listener) is listener
    with pytest.raises(ValueError, match="unknown event 'message'"):
        rooms.on("message")
