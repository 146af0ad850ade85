"""The buses of two processes, with a real broker between them."""

from __future__ import annotations

import asyncio
import threading
import time
from contextvars import ContextVar, copy_context

import pytest

from tests.support.programs import wait_for
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusState, History
from websocket_handler.bus.thread import BusThread
from websocket_handler.errors import BusUnavailable

from .brokers import BrokerProcess, SilentServer
from .conftest import Connect, Start
from .publishing import NAMES, publish_raw, send
from .recorder import Delivered, Recorder, new_room

HISTORIES = [None, History(length=10_000)]


@pytest.fixture(params=HISTORIES, ids=["plain", "history"])
def history(request: pytest.FixtureRequest) -> History | None:
    found: History | None = request.param
    return found


def test_message_reaches_the_other_buses(
    shared: BrokerProcess, connect: Connect, history: History | None
) -> None:
    room = new_room()
    sender, _ = connect(shared, room, history=history)
    _, receiver = connect(shared, room, history=history)
    send(sender, room, "text ✓", b"\x00\xff", "", b"")
    send(sender, room, "with a key", key="schlüssel")
    assert receiver.wait_for_messages(5) == ["text ✓", b"\x00\xff", "", b"", "with a key"]
    keys = [what.key for what in receiver.delivered]
    assert keys == [None, None, None, None, "schlüssel"]
    assert all((what.offset is not None) == (history is not None) for what in receiver.delivered)
    assert all(what.context is None for what in receiver.delivered)


def test_only_messages_of_joined_rooms_arrive(shared: BrokerProcess, connect: Connect) -> None:
    room, other = new_room(), new_room()
    sender, _ = connect(shared)
    receiver, recorder = connect(shared, room)
    send(sender, other, "not for me")
    send(sender, room, "for me")
    assert recorder.wait_for_messages(1) == ["for me"]
    receiver.leave(room)
    receiver.join(other)
    while not recorder.messages(other):
        send(sender, other, "probe")
        time.sleep(0.01)
    send(sender, room, "left")
    send(sender, other, "the last")
    wait_for(lambda: "the last" in recorder.messages(), "the last message")
    assert recorder.messages(room) == ["for me"]


def test_own_messages_return_only_with_a_history(
    shared: BrokerProcess, connect: Connect, history: History | None
) -> None:
    room = new_room()
    bus, recorder = connect(shared, room, history=history)
    marker = object()
    bus.publish(bus.prepare(room, "mine"), marker)
    wait_for(lambda: bus.stats().echoed == 1, "the echo")
    if history is None:
        assert recorder.delivered == []
    else:
        (what,) = recorder.delivered
        assert what == Delivered(room, "mine", None, what.offset, marker)
        assert what.offset
    wait_for(lambda: bus.stats().published == 1, "the broker's answer")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_any_text_is_a_room_name(shared: BrokerProcess, connect: Connect, name: str) -> None:
    others = [other for other in NAMES if other != name]
    sender, _ = connect(shared, history=HISTORIES[1])
    _, receiver = connect(shared, name, history=HISTORIES[1])
    for other in others:
        send(sender, other, "for another room")
    send(sender, name, "here")
    assert receiver.wait_for_messages(1) == ["here"]
    assert receiver.delivered[0].room == name


@pytest.mark.parametrize("name", ["\ud800", 5, None, b"bytes"])
def test_invalid_text_as_room_name_is_an_error(
    shared: BrokerProcess, connect: Connect, name: str
) -> None:
    bus, _ = connect(shared)
    with pytest.raises(ValueError, match="a room's name"):
        bus.prepare(name, "x")
    with pytest.raises(ValueError, match="a room's name"):
        bus.join(name)


def test_text_that_is_not_utf_8_is_an_error(shared: BrokerProcess, connect: Connect) -> None:
    bus, _ = connect(shared)
    with pytest.raises(ValueError, match="UTF-8"):
        bus.prepare("room", "\ud800")
    with pytest.raises(ValueError, match="UTF-8"):
        bus.prepare("room", "x", "\ud800")
    with pytest.raises(ValueError, match="a key has at most"):
        bus.prepare("room", "x", "k" * 70_000)


def test_messages_from_many_threads_keep_their_order(
    shared: BrokerProcess, connect: Connect, history: History | None
) -> None:
    room = new_room()
    sender, _ = connect(shared, history=history)
    _, receiver = connect(shared, room, history=history)
    each = 500

    def work(name: int) -> None:
        for number in range(each):
            send(sender, room, f"{name} {number}")

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    messages = [str(message).split() for message in receiver.wait_for_messages(4 * each)]
    for name in range(4):
        assert [int(number) for who, number in messages if who == str(name)] == list(range(each))
    assert receiver.losses == []
    assert sender.flush(5)
    assert sender.stats().published == 4 * each


def test_bus_joins_ten_thousand_rooms(shared: BrokerProcess, connect: Connect) -> None:
    rooms = [new_room() for _ in range(10_000)]
    _, recorder = connect(shared, *rooms)
    sender, _ = connect(shared)
    for room in rooms:
        send(sender, room, room)
    assert recorder.wait_for_messages(10_000, 60) == recorder.messages()
    assert sorted(map(str, recorder.messages())) == sorted(rooms)


def test_flush_waits_for_the_broker(start: Start, connect: Connect) -> None:
    broker = start()
    bus, _ = connect(broker)
    with broker.held():
        send(bus, "room", "x")
        assert not bus.flush(0.2)
        assert bus.stats().queued == 1
    assert bus.flush(10)
    assert bus.stats().queued == 0


def test_close_flushes_queued_messages(fresh: BrokerProcess, connect: Connect) -> None:
    _, receiver = connect(fresh, "room")
    bus, recorder = connect(fresh, wait=False)
    send(bus, "room", *map(str, range(1000)))
    assert bus.close(10)
    assert receiver.wait_for_messages(1000) == [str(number) for number in range(1000)]
    assert recorder.states[-1] == (BusState.CLOSED, "")
    assert bus.state is BusState.CLOSED
    with pytest.raises(BusUnavailable):
        send(bus, "room", "x")
    assert bus.close(1)


# Limits


def test_message_over_the_brokers_limit_is_an_error(
    start: Start, kind: str, connect: Connect
) -> None:
    if kind == "redis":
        broker = start("--proto-max-bulk-len", "1mb")
    else:
        broker = start(configuration="max_payload: 100KB")
    _, receiver = connect(broker, "room")
    bus, _ = connect(broker)
    with pytest.raises(ValueError, match="over the broker's limit"):
        bus.prepare("room", b"x" * (1 << 20))
    send(bus, "room", b"x" * 90_000)
    assert receiver.wait_for_messages(1) == [b"x" * 90_000]
    assert bus.state is BusState.UP


def test_message_over_an_unknown_limit_is_dropped_later(
    start: Start, kind: str, connect: Connect
) -> None:
    if kind == "redis":
        broker = start("--proto-max-bulk-len", "1mb")
    else:
        broker = start(configuration="max_payload: 100KB")
    _, receiver = connect(broker, "room")
    bus = Bus(broker.url, Recorder())
    prepared = bus.prepare("room", b"x" * ((1 << 20) - 30))
    bus.publish(prepared)
    send(bus, "room", "small")
    assert receiver.wait_for_messages(1) == ["small"]
    assert bus.flush(10)
    assert (bus.stats().refused, bus.stats().published) == (1, 1)
    assert bus.state is BusState.UP
    bus.close(5)


@pytest.mark.parametrize("bound", [{"queue_size": 10}, {"queue_bytes": 10 * 22}])
def test_queue_while_broker_is_away_is_bounded(
    connect: Connect, start: Start, bound: dict[str, int], history: History | None
) -> None:
    broker = start()
    bus, recorder = connect(broker, "room", history=history, **bound)
    broker.kill()
    recorder.wait_for_state(BusState.DOWN)
    for _ in range(10):
        send(bus, "room", "x")
    with pytest.raises(BusUnavailable, match="wait for the broker already"):
        send(bus, "room", "x")
    assert bus.stats().queued == 10
    assert bus.stats().queued_bytes == 10 * 22
    broker.start()
    assert bus.flush(10)
    send(bus, "room", "x")
    assert bus.flush(10)
    assert bus.stats().published == 11


def test_publish_raises_while_away_if_configured(start: Start, connect: Connect) -> None:
    broker = start()
    bus, recorder = connect(broker, wait=False, on_unavailable="raise")
    send(bus, "room", "while it connects for the first time, it waits")
    recorder.wait_for_state(BusState.UP)
    broker.kill()
    recorder.wait_for_state(BusState.DOWN)
    with pytest.raises(BusUnavailable, match="unreachable"):
        send(bus, "room", "x")
    broker.start()
    recorder.wait_for_state(BusState.UP)
    send(bus, "room", "x")
    assert bus.flush(5)


# Errors


@pytest.mark.parametrize(
    "url", ["", "redis", "http://localhost", "amqp://localhost", "redis:/x", "redis://", "nats://"]
)
def test_url_of_another_service_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Bus(url, Recorder())


@pytest.mark.parametrize("url", ["redis://127.0.0.1:99999", "nats://:secret@[::1"])
def test_malformed_broker_url_is_an_error(url: str) -> None:
    with pytest.raises(ValueError, match="not a valid broker URL") as error:
        Bus(url, Recorder())
    assert "secret" not in str(error.value)


def test_refused_connection_is_reported_in_the_state(
    server_kind: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    with SilentServer() as silent:
        port = silent.port
    bus, recorder = connect(f"{server_kind}://user:secret@127.0.0.1:{port}", wait=False)
    bus.join("room")
    reason = recorder.wait_for_state(BusState.DOWN)
    assert "refused" in reason.lower() or "connect" in reason.lower()
    wait_for(lambda: "is down" in caplog.text, "the log")
    assert "secret" not in caplog.text


def test_wrong_password_is_reported_in_the_state(
    start: Start, kind: str, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    if kind == "redis":
        broker = start("--requirepass", "right", user=":right@")
    else:
        broker = start("--user", "me", "--pass", "right", user="me:right@")
    bus, recorder = connect(broker.url.replace("right", "wrong"), "room", wait=False)
    reason = recorder.wait_for_state(BusState.DOWN)
    assert "refuses this user or password" in reason
    assert "wrong:" not in reason
    nameless, others = connect(f"{kind}://127.0.0.1:{broker.port}", "room", wait=False)
    assert "refuses this user or password" in others.wait_for_state(BusState.DOWN)
    wait_for(lambda: len(recorder.states) >= 1 and bus.stats().attempts > 3, "further attempts")
    assert recorder.states == [(BusState.DOWN, reason)]
    assert caplog.text.count(reason) == 2 if others.states[0][1] == reason else 1
    right, ours = connect(broker, "room")
    ours.wait_for_state(BusState.UP)
    assert right.state is BusState.UP
    assert nameless.state is BusState.DOWN


@pytest.mark.parametrize(
    "says",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-A\r\n", b"\x00\xff" * 50, b"+OK\r\n"],
    ids=["nothing", "http", "ssh", "bytes", "ok"],
)
def test_broker_of_another_protocol_is_reported_in_the_state(
    server_kind: str, connect: Connect, says: bytes
) -> None:
    with SilentServer(says) as silent:
        bus, recorder = connect(
            f"{server_kind}://127.0.0.1:{silent.port}", "room", wait=False, connect_timeout=0.5
        )
        reason = recorder.wait_for_state(BusState.DOWN)
        assert "has not answered" in reason or "does not answer like" in reason
        send(bus, "room", "it waits")
        assert bus.stats().queued == 1


def test_malformed_messages_are_ignored(
    shared: BrokerProcess,
    kind: str,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    history: History | None,
) -> None:
    room = new_room()
    bus, recorder = connect(shared, room, history=history)
    sender, _ = connect(shared, history=history)
    separator = ":" if kind == "redis" else "."
    broken = [b"", b"x", b"\x01" * 10, b"\x00" + bytes(40), b"@1-1,x;", b"@"]
    broken += [b"\x01\x09" + bytes(19), b"\x01\x00\xf0" + bytes(18)]
    broken += [b"\x01\x00\x01" + bytes(18) + b"\xff", b"\x01\x00\x02" + bytes(16) + b"\xff\xff"]
    publish_raw(shared, kind, f"websocket-handler{separator}room.{room}", broken)
    wait_for(lambda: bus.stats().malformed == len(broken), "them to be counted")
    send(sender, room, "still here")
    assert recorder.wait_for_messages(1) == ["still here"]
    assert caplog.text.count("malformed message") == 1
    assert recorder.losses == []


def test_posted_call_sees_no_variable_of_its_caller() -> None:
    user: ContextVar[str] = ContextVar("user", default="nobody")
    seen: list[str] = []
    thread = BusThread("a test's bus")

    async def serve() -> None:
        while not seen:
            await asyncio.sleep(0.01)

    def post() -> None:
        user.set("alice")
        thread.post(lambda: seen.append(user.get()))

    thread.start(serve)
    copy_context().run(post)
    wait_for(lambda: thread.has_ended, "the thread to end")
    assert seen == ["nobody"]
