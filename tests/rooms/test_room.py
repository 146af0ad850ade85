"""Rooms of one process."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
import weakref
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from websocket_handler import (
    ALL_VERSIONS,
    Delivery,
    Engine,
    Room,
    Rooms,
    SlowConsumers,
    WebSocket,
    WebSocketError,
    configure_server,
)
from websocket_handler import connect as connect_client
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.prepared import PreparedMessage

from ..protocol.frames import client_frame
from ..support.connections import Peer, connect, make_websocket
from ..support.programs import wait_for
from .members import join


def test_every_member_receives_but_the_excluded(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    members = [join(engine, lobby) for _ in range(4)]
    websockets = [websocket for websocket, _ in members]
    assert lobby.send("for all") == Delivery(sent=4)
    assert lobby.send(b"not for one", exclude=websockets[0]) == Delivery(sent=3)
    assert lobby.send("not for two", exclude=websockets[:2]) == Delivery(sent=2)
    assert lobby.send("end") == Delivery(sent=4)
    for number, (_, peer) in enumerate(members):
        some = ([], [b"not for one"], [b"not for one", "not for two"])[min(number, 2)]
        for message in ("for all", *some, "end"):
            assert peer.read() == Message(message)


def test_members_lists_each_websocket_once(engine: Engine) -> None:
    rooms = Rooms()
    lobby = rooms["lobby"]
    assert (len(lobby), list(lobby), list(rooms)) == (0, [], [])
    (one, its_peer), (other, other_peer) = join(engine, lobby), join(engine, lobby)
    lobby.add(one)
    assert lobby.members == (one, other)
    assert rooms["lobby"] is lobby
    assert list(rooms) == [lobby]
    lobby.discard(other)
    lobby.discard(other)
    assert other not in lobby
    assert lobby.send("x") == Delivery(sent=1)
    assert its_peer.read() == Message("x")
    other.send("still open")
    assert other_peer.read() == Message("still open")
    assert rooms.stats().rooms == rooms.stats().members == 1
    assert rooms.stats().delivered == Delivery(sent=1)


@pytest.mark.parametrize("who_ends", ["peer closes", "peer drops", "close", "abort"])
def test_closed_member_is_removed(engine: Engine, who_ends: str) -> None:
    rooms = Rooms()
    websocket, peer = join(engine, rooms["a"], rooms["b"])
    seen: list[Any] = []
    websocket.on("close", lambda *_: seen.append([room.name for room in rooms]))
    if who_ends == "peer closes":
        peer.sock.sendall(client_frame(Opcode.CLOSE, b"\x03\xe8"))
    elif who_ends == "peer drops":
        peer.sock.close()
    elif who_ends == "close":
        websocket.close()
        peer.sock.sendall(client_frame(Opcode.CLOSE, b"\x03\xe8"))
    else:
        websocket.abort()
    assert websocket.wait_closed(10)
    assert seen == [[]]
    assert rooms["a"].send("x") == Delivery()


def test_room_is_removed_with_its_last_member(engine: Engine) -> None:
    rooms = Rooms()
    websocket, _ = join(engine, rooms["lobby"])
    gone = weakref.ref(rooms["lobby"])
    gc.collect()
    assert gone() is not None
    websocket.abort()
    assert websocket.wait_closed(10)
    gc.collect()
    assert gone() is None


def test_websocket_that_is_not_connected_cannot_be_added(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    websocket = make_websocket(engine)
    with pytest.raises(WebSocketError, match=r"connect\(\) has not been called"):
        lobby.add(websocket)
    connect(websocket)
    websocket.abort()
    assert websocket.wait_closed(10)
    lobby.add(websocket)
    refused = make_websocket(engine)
    refused.request.headers["Upgrade"] = "nothing"
    refused.connect()
    lobby.add(refused)
    assert len(lobby) == 0


@pytest.mark.parametrize("who", ["x" * 1025, 1])
def test_identity_is_text_of_bounded_size(engine: Engine, who: Any) -> None:
    websocket, _ = join(engine)
    lobby = Rooms()["lobby"]
    with pytest.raises(ValueError, match="an identity must be text of at most 1024 characters"):
        lobby.add(websocket, identity=who)
    assert websocket not in lobby


def test_messages_before_the_handover_are_delivered_after_it(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    websocket = make_websocket(engine)
    websocket.connect()
    lobby.add(websocket)
    assert lobby.send("early").dropped == 0
    ours, theirs = socket.socketpair()
    websocket._take_over(ours)
    peer = Peer(theirs)
    peer.read_head()
    assert peer.read() == Message("early")


@pytest.mark.parametrize(
    "name", ["", " ", "a.b.*.>", "\n\x00", "\xe9\u20ac\U0001f600", "x" * 10_000]
)
def test_any_text_is_a_name_of_a_local_room(engine: Engine, name: str) -> None:
    rooms = Rooms()
    _, peer = join(engine, rooms[name])
    assert rooms[name].send("x") == Delivery(sent=1)
    assert peer.read() == Message("x")


def test_room_name_must_be_text() -> None:
    with pytest.raises(TypeError, match="a room's name must be a str"):
        Rooms()[1]  # type: ignore[index]


def fill(websocket: WebSocket) -> int:
    """Send until the buffers of the unreading peer are full; returns the number of messages."""
    count = 0
    while True:
        while websocket._send_prepared(PreparedMessage(f"{count:06}" + "x" * 10_000)):
            count += 1
        flushed = threading.Event()
        assert websocket._engine is not None
        websocket._engine._post(flushed.set)
        assert flushed.wait(10)
        if websocket.buffered_amount > websocket._settings.high_water:
            return count


@pytest.mark.parametrize("when_full", ["drop_oldest", "drop_newest", "latest"])
def test_slow_member_misses_messages_and_others_do_not(engine: Engine, when_full: Any) -> None:
    lobby = Rooms(slow_consumers=SlowConsumers(when_full, max_backlog=10_000))["lobby"]
    slow, slow_peer = join(engine, lobby)
    _, quick_peer = join(engine, lobby)
    sent = fill(slow)
    delivery = Delivery()
    for number in range(100):
        delivery += lobby.send(f"{number:1000}", key="ab"[number % 2])
        assert quick_peer.read() == Message(f"{number:1000}")
    for count in range(sent):
        assert slow_peer.read() == Message(f"{count:06}" + "x" * 10_000)
    wait_for(lambda: not lobby._slow, "the slow member to catch up")
    lobby.send("end")
    rest = []
    while (event := slow_peer.read()) != Message("end"):
        assert isinstance(event, Message)
        rest.append(int(event.data))
    expected = {
        "drop_newest": list(range(9)),
        "drop_oldest": list(range(91, 100)),
        "latest": [98, 99],
    }
    assert rest == expected[when_full]
    assert delivery.sent == 100
    assert delivery.queued == (9 if when_full == "drop_newest" else 100)
    assert delivery.dropped == 100 - len(rest)


def test_slow_member_is_closed_by_policy(engine: Engine) -> None:
    rooms = Rooms(
        slow_consumers=lambda name: SlowConsumers(max_backlog=len(name) * 1000, close_code=4001)
    )
    lobby = rooms["lobby"]
    slow, slow_peer = join(engine, lobby)
    _, quick_peer = join(engine, lobby)
    sent = fill(slow)
    deliveries = [lobby.send("x" * 936) for _ in range(5)]
    assert deliveries == [Delivery(sent=1, queued=1)] * 5
    assert lobby.send("x" * 936) == Delivery(sent=1, dropped=6)
    assert slow not in lobby
    assert lobby.send("end") == Delivery(sent=1)
    assert [quick_peer.read() for _ in range(7)][-1] == Message("end")
    for _ in range(sent):
        assert isinstance(slow_peer.read(), Message)
    assert slow_peer.read() == Close(4001, "slow consumer")


def test_backlog_of_a_member_goes_with_it(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    slow, _ = join(engine, lobby)
    fill(slow)
    assert lobby.send("x") == Delivery(queued=1)
    slow.abort()
    assert slow.wait_closed(10)
    assert not lobby._slow


def test_threads_send_join_and_leave_without_loss(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    stay = [join(engine, lobby) for _ in range(5)]
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            websocket, peer = join(engine, lobby)
            lobby.discard(websocket)
            lobby.add(websocket)
            websocket.abort()
            peer.sock.close()

    def send(thread: int) -> None:
        for number in range(300):
            lobby.send(f"{thread} {number}")

    moving = threading.Thread(target=come_and_go)
    moving.start()
    sending = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    for one in sending:
        one.start()
    for _, peer in stay:
        counts = dict.fromkeys(range(4), 0)
        for _ in range(1200):
            event = peer.read()
            assert isinstance(event, Message)
            thread, number = map(int, str(event.data).split())
            assert counts[thread] == number
            counts[thread] += 1
    stop.set()
    for one in (moving, *sending):
        one.join()
    wait_for(lambda: len(lobby) == 5, "the others to be gone")


def test_members_of_every_version_receive() -> None:
    lobby = Rooms()["lobby"]

    class Handler(BaseHTTPRequestHandler):
        websocket: WebSocket | None

        def do_GET(self) -> None:
            assert self.websocket is not None
            self.websocket.connect()
            lobby.add(self.websocket)

        def log_message(self, *_: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    configure_server(server, versions=ALL_VERSIONS)
    threading.Thread(target=server.serve_forever).start()
    try:
        url = f"ws://127.0.0.1:{server.server_port}/"
        clients = [connect_client(url, version=version) for version in ALL_VERSIONS for _ in "12"]
        wait_for(lambda: len(lobby) == len(clients), "all to be there")
        assert lobby.send("h\xe9llo") == Delivery(sent=len(clients))
        assert [client.receive(10) for client in clients] == ["h\xe9llo"] * len(clients)
        assert lobby.send(b"binary") == Delivery(sent=len(clients) - 4, dropped=4)  # two hixies
        for client in clients:
            if "hixie" not in str(client.version):
                assert client.receive(10) == b"binary"
            client.close()
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_forked_child_has_empty_rooms(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    _, peer = join(engine, lobby)
    with lobby._lock:  # as if another thread held it
        child = os.fork()
        if child == 0:
            os._exit(0 if lobby.send("from the child") == Delivery() and not len(lobby) else 1)
    assert os.waitpid(child, 0)[1] == 0
    lobby.send("from the parent")
    assert peer.read() == Message("from the parent")


def test_policy_may_use_the_rooms() -> None:
    made: list[Rooms] = []

    def policy(name: str) -> SlowConsumers:
        (rooms,) = made
        assert name not in [room.name for room in rooms]
        return rooms["default"]._policy if name != "default" else SlowConsumers("drop_newest")

    made.append(Rooms(slow_consumers=policy))
    done: list[str] = []
    working = threading.Thread(target=lambda: done.append(made[0]["lobby"]._policy.when_full))
    working.daemon = True
    working.start()
    working.join(10)
    assert done == ["drop_newest"]


def test_name_that_is_not_utf_8_adds_no_member(engine: Engine) -> None:
    rooms = Rooms()
    websocket, _ = join(engine)
    with pytest.raises(ValueError, match="UTF-8"):
        rooms["\udc80"].add(websocket)
    assert list(rooms) == []


def test_add_that_raises_adds_no_member(engine: Engine) -> None:
    lobby = Rooms()["lobby"]
    websocket, _ = join(engine)
    is_failing = True
    changed = lobby._rooms._members_changed

    def fail(room: Room, identity: str | None) -> None:
        if is_failing and len(room):
            raise RuntimeError("can't start new thread")
        changed(room, identity)

    lobby._rooms._members_changed = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        lobby.add(websocket, "alice")
    assert websocket not in lobby
    assert lobby.presence() == {}
    is_failing = False
    lobby.add(websocket, "alice")
    assert lobby.presence() == {"alice": 1}


def test_cost_of_slow_members_is_linear(engine: Engine) -> None:
    """Sixteen times as many members may not cost 256 times as much."""

    def cost(count: int) -> float:
        lobby = Rooms(slow_consumers=SlowConsumers("drop_newest", max_backlog=0))["lobby"]
        members = [make_websocket(engine, high_water=1) for _ in range(count)]
        for websocket in members:
            websocket.connect()
            websocket.send("more than high water")
            lobby.add(websocket)
        assert lobby.send("x") == Delivery(dropped=count)

        def measure() -> float:
            begin = time.thread_time()
            lobby.send("x")
            return time.thread_time() - begin

        return min(measure() for _ in range(7))

    assert cost(3200) < 64 * cost(200)
