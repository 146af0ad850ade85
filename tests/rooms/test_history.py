"""The history of rooms: no message lost or duplicated, and clients that return."""

from __future__ import annotations

import asyncio
import threading

import pytest
import redis

from tests.support.programs import wait_for
from websocket_handler.brokers.broker import Entry
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.envelope import EnvelopeKind, encode_content, seal
from websocket_handler.bus.names import room_channel
from websocket_handler.bus.settings import BusState, History
from websocket_handler.errors import BusUnavailable

from .brokers import BrokerProcess, break_connection
from .conftest import Connect, Start
from .link import Link
from .publishing import send
from .recorder import new_room, offsets
from .replay import Replay

KEPT = History(length=10_000)


def test_all_processes_see_one_order(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    ends = [connect(shared, room, history=KEPT) for _ in range(3)]

    def work(bus: Bus, name: int) -> None:
        for number in range(200):
            send(bus, room, f"{name} {number}")

    threads = [
        threading.Thread(target=work, args=(bus, name)) for name, (bus, _) in enumerate(ends)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *others = [recorder.wait_for_messages(600) for _, recorder in ends]
    assert all(other == first for other in others)
    assert len(set(first)) == 600
    assert len({tuple(offsets(recorder)) for _, recorder in ends}) == 1


def test_returning_client_gets_missed_messages(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    bus, recorder = connect(shared, room, history=KEPT)
    send(bus, room, *map(str, range(1200)))  # more than a page
    recorder.wait_for_messages(1200)
    known = offsets(recorder)
    replay = Replay(bus, recorder, room, known[9]).wait()
    assert replay.messages() == [str(number) for number in range(10, 1200)]
    assert [offset for _, offset in replay.given] == known[10:]
    nothing = Replay(bus, recorder, room, known[-1]).wait()
    assert nothing.given == []
    assert replay.losses == nothing.losses == []
    assert recorder.losses == []


def test_returning_client_gets_messages_sent_meanwhile(
    shared: BrokerProcess, connect: Connect
) -> None:
    room = new_room()
    sender, _ = connect(shared, history=KEPT)
    bus, recorder = connect(shared, room, history=KEPT)
    send(sender, room, *map(str, range(100)))
    recorder.wait_for_messages(100)
    since = offsets(recorder)[49]
    stop = threading.Event()

    def work() -> None:
        for number in range(100, 5000):
            send(sender, room, str(number))
            if stop.is_set():
                break

    thread = threading.Thread(target=work)
    thread.start()
    replays = []
    for _ in range(20):
        replays.append(Replay(bus, recorder, room, since).wait())
    stop.set()
    thread.join()
    assert sender.flush(10)
    total = sender.stats().published
    everything = recorder.wait_for_messages(total)
    assert everything == [str(number) for number in range(total)]
    for replay in replays:
        assert replay.messages() + everything[replay.delivered_before :] == everything[50:]


def test_returning_client_may_use_another_process(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    first, recorder = connect(shared, room, history=KEPT)
    send(first, room, "a", "b", "c")
    recorder.wait_for_messages(3)
    since = offsets(recorder)[0]
    second, others = connect(shared, room, history=KEPT)
    replay = Replay(second, others, room, since).wait()
    assert replay.messages() == ["b", "c"]
    assert [offset for _, offset in replay.given] == offsets(recorder)[1:]
    assert others.delivered == []


def test_replay_waits_until_the_room_is_joined(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    first, recorder = connect(shared, room, history=KEPT)
    send(first, room, "a", "b")
    recorder.wait_for_messages(2)
    second, others = connect(shared, room, history=KEPT, wait=False)
    replay = Replay(second, others, room, offsets(recorder)[0]).wait()
    assert replay.messages() == ["b"]


def test_replay_of_an_empty_room_gives_nothing(
    shared: BrokerProcess, connect: Connect, kind: str
) -> None:
    room = new_room()
    bus, recorder = connect(shared, room, history=KEPT)
    nothing = "0" if kind == "nats" else "0-0"
    replay = Replay(bus, recorder, room, nothing).wait()
    assert (replay.error, replay.given, replay.losses) == (None, [], [])
    send(bus, room, "first")
    recorder.wait_for_messages(1)
    assert Replay(bus, recorder, room, nothing).wait().messages() == ["first"]
    assert recorder.losses == []


def test_offset_older_than_the_history_is_a_loss(
    shared: BrokerProcess, connect: Connect, kind: str
) -> None:
    room = new_room()
    bus, recorder = connect(shared, room, history=History(length=50), prefix=f"short-{kind}")
    send(bus, room, *map(str, range(1000)))
    recorder.wait_for_messages(1000)
    replay = Replay(bus, recorder, room, offsets(recorder)[3]).wait()
    kept = len(replay.given)
    assert 50 <= kept < 500
    assert replay.messages() == [str(number) for number in range(1000 - kept, 1000)]
    assert replay.losses == [None if kind == "nats" else 1000 - 4 - kept]
    late = Replay(bus, recorder, room, offsets(recorder)[-10]).wait()
    assert late.messages() == [str(number) for number in range(991, 1000)]
    assert late.losses == []
    assert recorder.losses == []


def test_expired_messages_are_a_loss(shared: BrokerProcess, connect: Connect, kind: str) -> None:
    room = new_room()
    history = History(length=None, age=1.0)
    bus, recorder = connect(shared, room, history=history, prefix=f"brief-{kind}")
    send(bus, room, "old", "older")
    recorder.wait_for_messages(2)
    since = offsets(recorder)[0]

    def is_gone() -> bool:
        replay = Replay(bus, recorder, room, since).wait()
        assert replay.losses or replay.messages() == ["older"]
        return replay.messages() == []

    wait_for(is_gone, "the messages to be gone")
    send(bus, room, "new")
    assert recorder.wait_for_messages(3)[2:] == ["new"]
    send(bus, room, "newer")
    assert recorder.wait_for_messages(4)[3:] == ["newer"]
    assert recorder.losses == []
    assert bus.state is BusState.UP


@pytest.mark.parametrize(
    "since",
    ["", "x", "-1", "1-", "-", "1.5", "1-2-3", "٣", "9" * 30, "1-" + "9" * 30, "$", "1 OR 1"],
)
def test_malformed_offset_is_an_error(shared: BrokerProcess, connect: Connect, since: str) -> None:
    bus, recorder = connect(shared, new_room(), history=KEPT)
    (room,) = bus._joined
    replay = Replay(bus, recorder, room, since).wait()
    assert isinstance(replay.error, ValueError)
    assert bus.state is BusState.UP


def test_impossible_replay_is_an_error_or_a_loss(start: Start, connect: Connect, kind: str) -> None:
    broker = start()
    since = "1-1" if kind == "redis" else "1"
    plain, recorder = connect(broker, "room")
    with pytest.raises(ValueError, match="no history"):
        Replay(plain, recorder, "room", since)
    bus, recorder = connect(broker, "room", history=KEPT)
    assert isinstance(Replay(bus, recorder, "another", since).wait().error, ValueError)
    beyond = Replay(bus, recorder, "room", "999999999999999-9" if kind == "redis" else "999").wait()
    assert (beyond.error, beyond.given, beyond.losses) == (None, [], [None])
    assert recorder.losses == []
    broker.kill()
    recorder.wait_for_state(BusState.DOWN)
    assert isinstance(Replay(bus, recorder, "room", since).wait().error, BusUnavailable)


def test_broker_away_local_delivery_continues_without_offsets(
    start: Start, connect: Connect
) -> None:
    """Local delivery continues at once, without an offset, and only once."""
    broker = start()
    sender, here = connect(broker, "room", history=KEPT)
    _, there = connect(broker, "room", history=KEPT)
    sender.publish(sender.prepare("room", "before"), 1)
    there.wait_for_messages(1)
    here.wait_for_messages(1)
    broker.kill()
    here.wait_for_state(BusState.DOWN)
    for number in range(100):
        sender.publish(sender.prepare("room", f"away {number}"), number)
    away = here.wait_for_messages(101)[1:]
    assert away == [f"away {number}" for number in range(100)]
    assert [what.context for what in here.delivered] == [1, *range(100)]
    assert {what.offset for what in here.delivered[1:]} == {None}
    broker.start()
    here.wait_for_state(BusState.UP)
    sender.publish(sender.prepare("room", "after"), "after")
    assert there.wait_for_messages(102) == ["before", *away, "after"]
    assert here.wait_for_messages(102) == ["before", *away, "after"]
    assert here.delivered[-1].context == "after"
    assert here.delivered[-1].offset == there.delivered[-1].offset
    assert (here.losses, there.losses) == ([], [])
    assert sender.stats().echoed == 102


def test_process_that_was_away_catches_up(fresh: BrokerProcess, connect: Connect) -> None:
    """Only its own connection is lost: other processes continue meanwhile."""
    rooms = ["room", *(f"quiet {number}" for number in range(50))]
    history = History(length=1_000_000)
    bus, recorder = connect(fresh, *rooms, history=history)
    sender, _ = connect(fresh, history=history)
    send(sender, "room", "0")
    recorder.wait_for_messages(1)
    stop = threading.Event()

    def work() -> None:
        number = 1
        while not stop.is_set():
            send(sender, "room", str(number))
            number += 1
            if number % 500 == 0:
                sender.flush(10)

    thread = threading.Thread(target=work)
    thread.start()
    for connects in (2, 3, 4):
        break_connection(bus)
        wait_for(lambda: bus.stats().connects == connects, "the next connection")  # noqa: B023
    stop.set()
    thread.join()
    assert sender.flush(10)
    total = sender.stats().published
    wait_for(lambda: len(recorder.delivered) >= total or recorder.losses, f"all {total}", 30)
    assert recorder.losses == []
    assert recorder.messages() == [str(number) for number in range(total)]


def test_append_repeated_after_a_lost_reply_stores_once(
    shared: BrokerProcess, connect: Connect
) -> None:
    """The broker's reply to the first append was lost."""
    room = new_room()
    bus, recorder = connect(shared, room, history=KEPT)
    thread, broker = bus._thread, bus._worker.broker
    assert thread is not None
    assert broker is not None
    node = b"another!"
    entries = [
        Entry(room_channel(room), node, number, message(node, number)) for number in range(1, 21)
    ]

    async def append(*batches: list[Entry]) -> None:
        for batch in batches:
            await broker.append(batch)

    appending = append(entries[:10], entries[:10], entries[5:15], entries)
    asyncio.run_coroutine_threadsafe(appending, thread.loop).result(10)
    assert recorder.wait_for_messages(20) == [str(number) for number in range(1, 21)]
    replay = Replay(bus, recorder, room, offsets(recorder)[0]).wait()
    assert len(replay.given) == 19
    assert bus.stats().duplicates == 0


def message(node: bytes, number: int) -> bytes:
    return seal(EnvelopeKind.MESSAGE, node, number, number == 1, encode_content(str(number), None))


def test_buses_with_and_without_history_receive_each_other(
    shared: BrokerProcess, connect: Connect
) -> None:
    room = new_room()
    plain, plain_ears = connect(shared, room)
    kept, kept_recorder = connect(shared, room, history=KEPT)
    send(kept, room, "kept")
    assert plain_ears.wait_for_messages(1) == ["kept"]
    send(plain, room, "plain")
    assert kept_recorder.wait_for_messages(2) == ["kept", "plain"]
    assert kept_recorder.delivered[1].offset is None


def test_history_without_bounds_is_an_error() -> None:
    with pytest.raises(ValueError, match="without bound"):
        History(length=None)
    with pytest.raises(ValueError, match="length"):
        History(length=0)
    with pytest.raises(ValueError, match="age"):
        History(age=-1)


def test_messages_sent_right_after_join_return(shared: BrokerProcess, connect: Connect) -> None:
    bus, recorder = connect(shared, history=KEPT)
    rooms = [new_room() for _ in range(500)]
    for room in rooms:
        bus.join(room)
        bus.publish(bus.prepare(room, room), room)
    wait_for(lambda: len(recorder.delivered) >= len(rooms), "all of them")
    assert sorted(map(str, recorder.messages())) == sorted(rooms)
    assert all(what.context == what.room for what in recorder.delivered)


def test_room_left_and_rejoined_keeps_live_delivery(
    shared: BrokerProcess, connect: Connect
) -> None:
    """Live delivery continues in whichever order the bus notices the changes."""
    bus, recorder = connect(shared, history=KEPT)
    room = new_room()
    for number in range(200):
        bus.join(room)
        bus.publish(bus.prepare(room, str(number)))
        if number % 3 == 0:
            wait_for(lambda: str(number) in recorder.messages(), "the message")  # noqa: B023
        bus.leave(room)
    bus.join(room)
    bus.publish(bus.prepare(room, "last"), "mine")
    wait_for(lambda: "last" in recorder.messages(), "the last message")
    assert recorder.delivered[-1].context == "mine"
    assert len(set(recorder.messages())) == len(recorder.messages())


def test_server_that_lost_the_end_of_its_history_continues_from_there(
    start: Start, connect: Connect, kind: str
) -> None:
    """As with a Redis that is killed before it has written its append-only file."""
    if kind != "redis":
        pytest.skip("NATS numbers all messages of its stream")
    broker = start()
    link = Link(broker.port)
    sender, sent = connect(broker, "room", history=KEPT)
    bus, recorder = connect(f"redis://127.0.0.1:{link.port}", "room", history=KEPT)
    send(sender, "room", *map(str, range(5)))
    recorder.wait_for_messages(5)
    known = offsets(recorder)
    link.cut()
    recorder.wait_for_state(BusState.DOWN)
    name = f"{{websocket-handler:{room_channel('room')}}}"
    with redis.Redis(port=broker.port) as client:
        client.xdel(f"{name}:stream", known[3], known[4])
        client.set(f"{name}:tip", known[2])
    sent.wait_for_messages(5)
    send(sender, "room", "after")
    assert sender.flush(10)
    link.restore()
    assert recorder.wait_for_messages(6)[5:] == ["after"]
    assert recorder.losses == [("room", None)]
    assert bus.stats().lost == 0
    link.close()
