"""Refusals of the broker are reported, and end nothing else."""

from __future__ import annotations

import asyncio
import socket

import pytest

from tests.support.programs import wait_for
from websocket_handler.brokers.broker_url import parse_broker_url
from websocket_handler.bus import outbox
from websocket_handler.bus.envelope import seal
from websocket_handler.bus.names import room_channel
from websocket_handler.bus.settings import BusState, History
from websocket_handler.errors import BusUnavailable

from .brokers import BrokerProcess, nats_server, redis_server
from .conftest import Connect, Start
from .publishing import publish_raw, send
from .replay import Replay

HISTORIES = [None, History(length=10_000)]
LARGE = 3 << 20
"""In bytes; over the limit that a test sets in Redis."""


@pytest.fixture(params=HISTORIES, ids=["plain", "history"])
def history(request: pytest.FixtureRequest) -> History | None:
    found: History | None = request.param
    return found


def redis_user(broker: BrokerProcess, *rules: str) -> str:
    """The URL of a user with all permissions, except as `rules` restrict them."""
    with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
        words = ["ACL", "SETUSER", "app", "reset", "on", ">pw", "~*", "&*", "+@all", *rules]
        connection.sendall(" ".join(words).encode() + b"\r\n")
        assert connection.recv(1000) == b"+OK\r\n"
    return broker.url.replace("//", "//app:pw@")


NATS_USERS = """
authorization {
  admin = { publish: ">", subscribe: ">" }
  no_publish = { publish: { deny: [%(subjects)s] } }
  no_subscribe = { subscribe: { deny: [%(subjects)s] } }
  users = [
    { user: admin, password: pw, permissions: $admin }
    { user: no_publish, password: pw, permissions: $no_publish }
    { user: no_subscribe, password: pw, permissions: $no_subscribe }
  ]
}
"""


def limited(start: Start, kind: str, denied: str, room: str) -> tuple[str, str]:
    """URLs of a broker: for an unrestricted user, and for one that must not `publish` to a room or
    `subscribe` to it."""
    channel = room_channel(room)
    if kind == "nats":
        subjects = [f'"websocket-handler{middle}.{channel}"' for middle in ("", ":kept")]
        broker = start(configuration=NATS_USERS % {"subjects": ", ".join(subjects)})
        user = f"no_{denied}:pw@"
        return broker.url.replace("//", "//admin:pw@"), broker.url.replace("//", f"//{user}")
    broker = start()
    allowed = ["&websocket-handler:node*", "&websocket-handler:room.public*"]
    return broker.url, redis_user(broker, "resetchannels", *allowed)


def test_refused_messages_do_not_stop_the_others(
    start: Start,
    kind: str,
    connect: Connect,
    history: History | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    everything, few = limited(start, kind, "publish", "private")
    _, receiver = connect(everything, "public", "Private", history=history)
    bus, recorder = connect(few, history=history)
    for number in range(10):
        send(bus, "private", "refused")
        send(bus, "public", str(number))
    assert bus.flush(10)
    assert receiver.wait_for_messages(10) == [str(number) for number in range(10)]
    stats = bus.stats()
    assert (stats.refused, stats.published, stats.queued, stats.attempts) == (10, 10, 0, 1)
    assert [(room, action) for room, action, _ in recorder.refusals] == [
        ("private", "send to")
    ] * 10
    assert caplog.text.count("refuses to send to 'private'") == 1
    assert receiver.losses == []


def test_nats_distinguishes_rooms_that_differ_in_case(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect, history: History | None
) -> None:
    """The nats client converts the text of errors to lower case."""
    folder = tmp_path_factory.mktemp("nats")
    brokers: list[BrokerProcess] = []

    def start_one(**settings: str) -> BrokerProcess:
        brokers.append(nats_server(folder, **settings))  # type: ignore[arg-type]
        return brokers[-1]

    try:
        everything, few = limited(start_one, "nats", "publish", "private")
        _, receiver = connect(everything, "Private", "private", history=history)
        bus, _ = connect(few, history=history)
        for _ in range(3):
            send(bus, "private", "refused", "refused")
            send(bus, "Private", "taken")
        assert bus.flush(10)
        assert receiver.wait_for_messages(3) == ["taken"] * 3
        assert (bus.stats().refused, bus.stats().attempts) == (6, 1)
        user = few.replace("no_publish", "no_subscribe")
        _, ears = connect(user, "Private", "private", history=history, wait=False)
        ears.wait_for_state(BusState.UP)
        wait_for(lambda: ears.refusals, "the refusal")
        assert [room for room, _, _ in ears.refusals] == ["private"]
        send(connect(everything, history=history)[0], "Private", "received")
        wait_for(lambda: "received" in ears.messages(), "the message")
    finally:
        for broker in brokers:
            broker.close()


def test_room_that_may_not_be_received_does_not_stop_the_others(
    start: Start,
    kind: str,
    connect: Connect,
    history: History | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    everything, few = limited(start, kind, "subscribe", "private")
    sender, _ = connect(everything, history=history)
    bus, recorder = connect(few, "public", "private", "public2", history=history, wait=False)
    recorder.wait_for_state(BusState.UP)
    wait_for(lambda: bus.stats().rooms == 2, "the two others to be subscribed")
    send(sender, "private", "not received")
    send(sender, "public", "1")
    send(sender, "public2", "2")
    assert sorted(map(str, recorder.wait_for_messages(2))) == ["1", "2"]
    assert [(room, action) for room, action, _ in recorder.refusals] == [
        ("private", "receive from")
    ]
    assert caplog.text.count("refuses to receive from 'private'") == 1
    assert bus.stats().attempts == 1
    if history is not None:
        replay = Replay(bus, recorder, "private", "0-1" if kind == "redis" else "1").wait()
        assert replay.error is not None
    if kind == "nats":  # messages it may send reach other processes and its own members
        send(bus, "private", "sent")
        assert bus.flush(10)
        if history is not None:
            wait_for(lambda: "sent" in recorder.messages("private"), "its own message")
    assert bus.stats().attempts == 1


def test_process_restricted_to_its_rooms_stays_connected(
    start: Start, kind: str, connect: Connect, history: History | None
) -> None:
    """Its heartbeat is refused, which is not silence."""
    if kind == "redis":
        broker = start()
        url = redis_user(broker, "resetchannels", "&websocket-handler:room.*", "-role")
    else:
        allowed = ["websocket-handler.room.>", "websocket-handler:kept.room.>", "$JS.>", "_INBOX.>"]
        rule = f"{{ allow: {allowed} }}".replace("'", '"')
        user = (
            f"{{ user: app, password: pw, permissions: {{ publish: {rule}, subscribe: {rule} }} }}"
        )
        broker = start(configuration=f"authorization {{ users: [{user}] }}")
        url = broker.url.replace("//", "//app:pw@")
    settings = {"heartbeat_interval": 0.2, "silence_timeout": 1.0, "connect_timeout": 5.0}
    bus, recorder = connect(url, "room", history=history, **settings)
    sender, _ = connect(url, history=history)
    began = bus._worker._loop.time()
    wait_for(lambda: bus._worker._loop.time() - began > 2.5, "more than the silence")
    send(sender, "room", "x")
    assert recorder.wait_for_messages(1) == ["x"]
    assert [state for state, _ in recorder.states] == [BusState.UP]


def test_refused_redis_keys_are_reported(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        few = redis_user(broker, "resetkeys", "~*websocket-handler:room.public*")
        bus, recorder = connect(few, "public", "private", history=HISTORIES[1], wait=False)
        recorder.wait_for_state(BusState.UP)
        wait_for(lambda: bus.stats().rooms == 1, "the public room")
        send(bus, "private", "1", "2")
        send(bus, "public", "3")
        assert bus.flush(10)
        wait_for(lambda: "3" in recorder.messages(), "the public message")
        assert recorder.messages("private") == ["1", "2"]  # to the members here
        assert (bus.stats().refused, bus.stats().attempts) == (2, 1)
        redis_user(broker)
        wait_for(lambda: bus.stats().rooms == 2, "the heartbeat to try again", 20)
        send(bus, "private", "4")
        wait_for(lambda: "4" in recorder.messages("private"), "the message")
        assert recorder.delivered[-1].offset
        assert bus.stats().attempts == 1
    finally:
        broker.close()


def test_message_delivered_while_its_room_is_refused_does_not_come_twice(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        url = redis_user(broker)
        bus, recorder = connect(url, "room", history=HISTORIES[1], heartbeat_interval=0.5)
        other, _ = connect(broker, history=HISTORIES[1])
        send(other, "room", "1")
        recorder.wait_for_messages(1)
        redis_user(broker, "-subscribe")
        with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
            connection.sendall(b"CLIENT KILL TYPE pubsub USER app\r\n")
            assert connection.recv(100) == b":1\r\n"
        wait_for(lambda: recorder.refusals, "the refusal")
        assert not bus.wait_until_subscribed("room", 20)
        send(bus, "room", "2")
        assert recorder.wait_for_messages(2) == ["1", "2"]
        assert bus.flush(10)
        send(other, "room", "3")
        assert other.flush(10)
        redis_user(broker)
        assert bus.wait_until_subscribed("room", 20)
        wait_for(lambda: "3" in recorder.messages(), "the message that was kept")
        assert recorder.messages() == ["1", "2", "3"]
        assert recorder.losses == []
        assert bus.stats().rooms == 1
    finally:
        broker.close()


def test_room_that_is_refused_after_it_was_left_is_not_counted_twice(
    shared: BrokerProcess, connect: Connect
) -> None:
    bus, _ = connect(shared, "left", "stays")
    worker = bus._worker
    counts: list[int] = []

    def leave_and_refuse() -> None:
        worker.leave("left")
        worker.refuse_room(worker.joined["left"], "no permission")
        counts.append(worker.ready_rooms)

    assert bus._post(leave_and_refuse)
    wait_for(lambda: counts, "the bus's thread")
    assert counts == [1]


def test_refused_replay_ends_no_session(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        bus, recorder = connect(redis_user(broker, "-xrange"), "room", history=HISTORIES[1])
        send(bus, "room", "1", "2")
        recorder.wait_for_messages(2)
        replay = Replay(bus, recorder, "room", str(recorder.delivered[0].offset)).wait()
        assert isinstance(replay.error, BusUnavailable)
        send(bus, "room", "3")
        assert recorder.wait_for_messages(3) == ["1", "2", "3"]
        assert bus.stats().attempts == 1
    finally:
        broker.close()


def test_user_that_may_only_read_a_room_receives_it(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    """It cannot create the history of a room that has none."""
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        url = redis_user(broker, "resetkeys", "%R~*")
        bus, recorder = connect(url, "room", history=HISTORIES[1])
        sender, _ = connect(broker, history=HISTORIES[1])
        send(sender, "room", "1", "2")
        assert recorder.wait_for_messages(2) == ["1", "2"]
        assert recorder.losses == []
        assert recorder.refusals == []
        assert bus.stats().attempts == 1
    finally:
        broker.close()


@pytest.mark.parametrize("name", ["PUBLISH", "SUBSCRIBE"])
def test_redis_without_a_needed_command_is_reported(
    tmp_path_factory: pytest.TempPathFactory,
    connect: Connect,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"), "--rename-command", name, "")
    try:
        bus, recorder = connect(
            broker,
            "room",
            wait=False,
            heartbeat_interval=0.2,
            silence_timeout=0.6,
            connect_timeout=5,
        )
        recorder.wait_for_state(BusState.UP)
        send(bus, "room", "a secret message")
        assert bus.flush(10)
        wait_for(lambda: recorder.refusals, "the refusal")
        (room, action, reason), *_ = recorder.refusals
        assert (room, action) == ("room", "send to" if name == "PUBLISH" else "receive from")
        assert "unknown command" in reason
        assert "a secret message" not in caplog.text
    finally:
        broker.close()


def test_message_over_an_unknown_redis_limit_is_reported(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect, history: History | None
) -> None:
    broker = redis_server(
        tmp_path_factory.mktemp("redis"),
        *("--proto-max-bulk-len", "1mb", "--rename-command", "CONFIG", ""),
    )
    try:
        bus, recorder = connect(broker, "room", history=history)
        _, receiver = connect(broker, "room", history=history)
        send(bus, "room", "before", "x" * LARGE, "after")
        wait_for(lambda: "after" in receiver.messages(), "the message after it", 30)
        assert bus.flush(10)
        assert bus.stats().refused == 1
        assert recorder.refusals[0][:2] == ("room", "send to")
        reason = recorder.refusals[0][2]
        assert "bulk length" in reason or "ended the connection" in reason
    finally:
        broker.close()


def test_largest_message_with_the_longest_name_is_accepted(
    start: Start, connect: Connect, history: History | None
) -> None:
    """The headers of a stored message count in NATS."""
    bus, _ = connect(start(), "x" * 1000, history=history)
    size = (bus._worker.limit or 0) - len("x") - 20
    send(bus, "x" * 1000, b"x" * size)
    assert bus.flush(20)
    assert (bus.stats().attempts, bus.stats().refused) == (1, 0)


def test_message_over_a_stream_limit_is_reported(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = nats_server(tmp_path_factory.mktemp("nats"))
    try:
        bus, recorder = connect(broker, "room", "other", history=HISTORIES[1])
        bus_loop = bus._thread
        assert bus_loop is not None
        client = bus._worker.broker.client  # type: ignore[union-attr]

        async def limit() -> None:
            config = (await client.jsm().stream_info("websocket-handler-rooms")).config
            config.max_msg_size = 1000
            await client.jsm().update_stream(config)

        asyncio.run_coroutine_threadsafe(limit(), bus_loop.loop).result(10)
        send(bus, "room", "x" * 5000)
        send(bus, "other", "after")
        wait_for(lambda: "after" in recorder.messages("other"), "the message after it")
        assert recorder.refusals[0][:2] == ("room", "send to")
        assert "size" in recorder.refusals[0][2]
        assert bus.stats().attempts == 1
    finally:
        broker.close()


def test_message_from_before_the_join_ends_no_session(
    shared: BrokerProcess, server_kind: str, connect: Connect
) -> None:
    """One that arrives after the last offset of the room was read."""
    kept = HISTORIES[1]
    sender, _ = connect(shared, history=kept)
    send(sender, "late", "1", "2", "3")
    assert sender.flush(10)
    bus, recorder = connect(shared, "late", "quiet", history=kept)
    (tip,) = [room.cursor for room in bus._worker.joined.values() if room.name == "late"]
    data = b"\x01\x00\x01another!" + bytes(7) + b"\x01\x00\x00late"
    if server_kind == "redis":
        head = f"@{tip[0]}-{tip[1] - 1},{tip[0]}-{tip[1]};".encode()
        publish_raw(shared, server_kind, "websocket-handler:room.late", [head + data])
    else:
        publish_stored(shared, "websocket-handler.room.late", tip[-1], data)
    send(sender, "late", "4")
    send(sender, "quiet", "5")
    wait_for(lambda: sorted(map(str, recorder.messages())) == ["4", "5"], "the two messages")
    assert bus.stats().attempts == 1
    assert recorder.losses == []


def publish_stored(broker: BrokerProcess, subject: str, sequence: int, data: bytes) -> None:
    """Publish as JetStream republishes a message."""
    headers = f"NATS/1.0\r\nNats-Sequence: {sequence}\r\nNats-Last-Sequence: {sequence - 1}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
        command = f"HPUB {subject} {len(headers)} {len(headers) + len(data)}\r\n{headers}"
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        connection.sendall(command.encode() + data + b"\r\nPING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer += connection.recv(10_000)


def test_message_of_a_newer_version_is_reported(
    shared: BrokerProcess,
    connect: Connect,
    history: History | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = f"versions {history}"
    sender, _ = connect(shared, history=history)
    _, recorder = connect(shared, room, history=history)
    send(sender, room, "1")
    recorder.wait_for_messages(1)
    monkeypatch.setattr(outbox, "seal", lambda *args: b"\x02" + seal(*args)[1:21] + b"other")
    send(sender, room, "2", "3")
    monkeypatch.undo()
    send(sender, room, "4")
    assert recorder.wait_for_messages(2) == ["1", "4"]
    assert recorder.losses == [(room, 1)] * 2
    assert caplog.text.count("newer version") == 1


def test_message_of_a_newer_version_is_reported_to_a_returning_member(
    shared: BrokerProcess, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = connect(shared, history=HISTORIES[1])
    bus, recorder = connect(shared, "newer", history=HISTORIES[1])
    send(sender, "newer", "1")
    recorder.wait_for_messages(1)
    monkeypatch.setattr(outbox, "seal", lambda *args: b"\x02" + seal(*args)[1:21] + b"other")
    send(sender, "newer", "2")
    monkeypatch.undo()
    send(sender, "newer", "3")
    recorder.wait_for_messages(2)
    replay = Replay(bus, recorder, "newer", str(recorder.delivered[0].offset)).wait()
    assert (replay.messages(), replay.losses) == (["3"], [1])


def test_prefixes_do_not_collide(shared: BrokerProcess, connect: Connect) -> None:
    for prefix, other in (("shop", "shop-kept"), ("shop", "shop-rooms"), ("a", "a-b")):
        _, one = connect(shared, "room", history=HISTORIES[1], prefix=prefix)
        bus, recorder = connect(shared, "room", history=HISTORIES[1], prefix=other)
        send(bus, "room", "only here")
        wait_for(lambda: recorder.messages(), "the message")  # noqa: B023
        plain, _ = connect(shared, prefix=other)
        send(plain, "room", "again")
        wait_for(lambda: "again" in recorder.messages(), "the message")  # noqa: B023
        assert one.delivered == []


def test_redis_databases_do_not_share_rooms(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect, history: History | None
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        ends = [connect(f"{broker.url}/{number}", "room", history=history) for number in (0, 1, 2)]
        sender, _ = connect(f"{broker.url}?db=1", history=history)
        send(sender, "room", "only in 1")
        assert ends[1][1].wait_for_messages(1) == ["only in 1"]
        for (bus, _), text in zip(ends, ("in 0", "in 1", "in 2"), strict=True):
            send(bus, "room", text)
        for bus, _ in ends:
            assert bus.flush(10)
            wait_for(lambda bus=bus: bus.stats().echoed == 1, "its own message")  # type: ignore[misc]
        assert [bus.stats().received for bus, _ in ends] == [0, 1, 0]
    finally:
        broker.close()


def test_history_without_an_age_has_an_end(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    try:
        bus, recorder = connect(broker, "room", history=History())
        send(bus, "room", "x")
        recorder.wait_for_messages(1)
        assert bus.flush(10)
        with socket.create_connection(("127.0.0.1", broker.port), 5) as connection:
            for name in ("stream", "tip"):
                key = f"{{websocket-handler:room.room}}:{name}"
                connection.sendall(f"TTL {key}\r\n".encode())
                assert int(connection.recv(100)[1:]) > 29 * 24 * 3600
    finally:
        broker.close()


def test_options_of_redis_py_do_not_break_the_bus(
    tmp_path_factory: pytest.TempPathFactory, connect: Connect
) -> None:
    broker = redis_server(tmp_path_factory.mktemp("redis"))
    options = "socket_timeout=0.2&protocol=3&decode_responses=true&health_check_interval=1"
    try:
        url = f"{broker.url}/0?{options}"
        assert parse_broker_url(url).options == {}
        bus, recorder = connect(url, "room", heartbeat_interval=2.0, silence_timeout=5.0)
        sender, _ = connect(url)
        wait_for(
            lambda: bus._worker._loop.time() - bus._worker._received_at > 0.5, "silence_timeout"
        )
        send(sender, "room", "x")
        assert recorder.wait_for_messages(1) == ["x"]
        assert bus.stats().attempts == 1
    finally:
        broker.close()
