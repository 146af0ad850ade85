"""Presence: the logic with its own clock, and processes with real brokers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT
from tests.support.programs import wait_for
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.presence import (
    Announcement,
    Presence,
    check_identities,
    decode_announcement,
)

from .brokers import BrokerProcess, break_connection
from .conftest import Connect, Start
from .recorder import Recorder, new_room

A, B = b"node a..", b"node b.."


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> Presence:
    return Presence(ttl=30, clock=clock)


def tell(
    recorder: Presence, node: bytes, announcements: list[Announcement]
) -> list[tuple[bool, bool]]:
    return [recorder.apply(node, decode_announcement(one.encode())) for one in announcements]


def test_changes_are_announced_once(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    first = announcer.announce("room", {"ann": 1, "bob": 2})
    assert [(one.base, one.identities) for one in first] == [(None, {"ann": 1, "bob": 2})]
    assert announcer.announce("room", {"ann": 1, "bob": 2}) == []
    second = announcer.announce("room", {"bob": 1, "cid": 1})
    assert [one.identities for one in second] == [{"bob": 1, "cid": 1, "ann": 0}]
    assert tell(presence, A, first + second) == [(True, False), (True, False)]
    assert presence.present("room") == {"bob": 1, "cid": 1}
    assert tell(presence, A, first + second) == [(False, False), (False, False)]
    assert presence.present("room") == {"bob": 1, "cid": 1}


def test_presence_of_processes_is_summed(presence: Presence, clock: Clock) -> None:
    tell(presence, A, Presence(30, clock).announce("room", {"ann": 1, "bob": 2}))
    tell(presence, B, Presence(30, clock).announce("room", {"bob": 3}))
    assert presence.present("room") == {"ann": 1, "bob": 5}
    assert presence.present("another") == {}
    assert presence.remove_process(A) == {"room"}
    assert presence.present("room") == {"bob": 3}
    assert presence.remove_process(A) == set()


def test_process_that_missed_an_announcement_asks(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    announcer.announce("room", {"ann": 1})
    late = announcer.announce("room", {"ann": 1, "bob": 1})
    assert tell(presence, A, late) == [(False, True)]
    assert presence.present("room") == {}
    assert tell(presence, A, announcer.snapshot("room")) == [(True, False)]
    assert presence.present("room") == {"ann": 1, "bob": 1}
    announcer.announce("room", {"ann": 1, "bob": 1, "cid": 1})
    assert tell(presence, A, announcer.announce("room", {"cid": 1})) == [(False, True)]
    assert tell(presence, A, announcer.snapshot("room")) == [(True, False)]
    assert presence.present("room") == {"cid": 1}
    assert tell(presence, A, announcer.announce("room", {"cid": 2})) == [(True, False)]


def test_old_announcement_is_ignored(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    first = announcer.announce("room", {"ann": 1})
    whole = announcer.snapshot("room")
    second = announcer.announce("room", {})
    tell(presence, A, first + second)
    assert tell(presence, A, whole) == [(False, False)]
    assert presence.present("room") == {}


def test_presence_of_a_room_left_and_rejoined_is_current(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    tell(presence, A, announcer.announce("room", {"ann": 1}))
    tell(presence, A, announcer.announce("room", {"ann": 1, "bob": 1}))
    assert tell(presence, A, announcer.leave("room")) == [(True, False)]
    assert presence.present("room") == {}
    assert announcer.leave("room") == []
    assert tell(presence, A, announcer.snapshot("room")) == [(False, False)]
    assert tell(presence, A, announcer.announce("room", {"cid": 1})) == [(True, False)]
    assert presence.present("room") == {"cid": 1}


def test_silent_processes_are_removed(presence: Presence, clock: Clock) -> None:
    tell(presence, A, Presence(30, clock).announce("room", {"ann": 1}))
    tell(presence, B, Presence(30, clock).announce("room", {"bob": 1}))
    clock.now += 20
    presence.mark_alive(A)
    presence.mark_alive(b"stranger")
    assert presence.expire() == set()
    clock.now += 11
    assert presence.expire() == {"room"}
    assert presence.present("room") == {"ann": 1}
    clock.now += 31
    assert presence.expire() == {"room"}
    assert presence.present("room") == {}


def test_thousands_of_identities_are_announced_in_pieces(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    everyone = {f"somebody with a long name {number}": 1 for number in range(10_000)}
    announcements = announcer.announce("room", everyone)
    assert len(announcements) > 10
    assert all(len(one.encode()) < 100_000 for one in announcements)
    tell(presence, A, announcements)
    assert presence.present("room") == everyone
    fewer = dict(list(everyone.items())[:10])
    changes = announcer.announce("room", fewer)
    tell(presence, A, changes)
    assert presence.present("room") == fewer
    late = Presence(30, clock)
    announcer.announce("room", everyone)
    tell(late, A, announcer.snapshot("room"))
    assert late.present("room") == everyone


def crowd(count: int) -> dict[str, int]:
    return {f"somebody with a long name {number}": 1 for number in range(count)}


def test_view_changes_only_when_complete(presence: Presence, clock: Clock) -> None:
    """Also if it is announced again, and if many join or leave at once."""
    announcer = Presence(30, clock)
    everyone = crowd(5000)
    fewer = dict(list(everyone.items())[:10])
    steps: list[tuple[list[Announcement], dict[str, int], bool]] = [
        (announcer.announce("room", everyone), everyone, True),
        (announcer.snapshot("room"), everyone, False),
        (announcer.announce("room", fewer), fewer, True),
        (announcer.announce("room", everyone), everyone, True),
    ]
    before: dict[str, int] = {}
    for announcements, after, is_change in steps:
        assert len(announcements) > 5
        for announcement in announcements[:-1]:
            assert tell(presence, A, [announcement]) == [(False, False)]
            assert presence.present("room") == before
        assert tell(presence, A, announcements[-1:]) == [(is_change, False)]
        assert presence.present("room") == after
        before = after


@pytest.mark.parametrize("size", range(5))
def test_last_piece_is_never_full(presence: Presence, clock: Clock, size: int) -> None:
    """Otherwise nothing would mark it as the last one."""
    everyone = {str(number) * 600: 1 for number in range(10, 10 + 12 * size)}
    tell(presence, A, Presence(30, clock).announce("room", everyone))
    assert presence.present("room") == everyone


def test_change_that_overtakes_pieces_waits_for_them(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    everyone = crowd(5000)
    whole = announcer.announce("room", everyone)
    change = announcer.announce(
        "room", {**everyone, "late": 1, "somebody with a long name 4999": 0}
    )
    first, *others, last = whole
    tell(presence, A, [first, *others])
    assert tell(presence, A, change) == [(False, False)]
    assert tell(presence, A, [last]) == [(True, False)]
    del everyone["somebody with a long name 4999"]
    assert presence.present("room") == {**everyone, "late": 1}


def test_missing_piece_leaves_the_view_unchanged(presence: Presence, clock: Clock) -> None:
    announcer = Presence(30, clock)
    tell(presence, A, announcer.announce("room", {"ann": 1}))
    everyone = {"ann": 1, **crowd(5000)}
    first, second, *_ = announcer.announce("room", everyone)
    del second
    tell(presence, A, [first])
    assert presence.present("room") == {"ann": 1}
    assert tell(presence, A, announcer.announce("room", {"ann": 1, "bob": 1}))[0] == (False, True)
    assert presence.present("room") == {"ann": 1}
    tell(presence, A, announcer.snapshot("room"))
    assert presence.present("room") == {"ann": 1, "bob": 1}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '["room", 1, null]', "[1, 1, null, {}]", '["r", "1", null, {}]'),
        *('["r", 1, "x", {}]', '["r", 1, null, []]', '["r", 1, null, {"a": -1}]'),
        *('["r", 1, null, {"a": "1"}]', '["r", true, null, {}]', "[" * 100_000),
    ],
)
def test_malformed_announcement_is_ignored(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_announcement(text)


def test_identity_must_be_text_of_bounded_size() -> None:
    check_identities({"ann": 1, "": 0})
    for wrong in ({5: 1}, {"x" * 1025: 1}, {"ann": -1}):
        with pytest.raises(ValueError, match=r"identity|connections"):
            check_identities(wrong)  # type: ignore[arg-type]


# With brokers


def present(bus: Bus, room: str, who: dict[str, int], timeout_s: float = 10.0) -> None:
    wait_for(lambda: bus.present(room) == who, f"{who}", timeout_s)


def test_processes_see_each_others_presence(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    first, recorder = connect(shared, room)
    second, _ = connect(shared, room)
    first.announce(room, {"ann": 1})
    second.announce(room, {"ann": 1, "bob": 1})
    present(first, room, {"ann": 1, "bob": 1})
    present(second, room, {"ann": 1})
    third, _ = connect(shared, room)  # it asks for the presence
    present(third, room, {"ann": 2, "bob": 1})
    assert recorder.presence == [room]
    second.announce(room, {"bob": 2})
    present(third, room, {"ann": 1, "bob": 2})
    second.leave(room)
    present(third, room, {"ann": 1})
    first.close(5)
    present(third, room, {})


def test_killed_process_is_absent_after_the_ttl(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    bus, _ = connect(shared, room, presence_ttl=1.5, heartbeat_interval=0.2, silence_timeout=1.0)
    program = f"""
import sys, time
from tests.rooms.recorder import Recorder
from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import BusSettings
settings = BusSettings(presence_ttl=1.5, heartbeat_interval=0.2, silence_timeout=1.0)
bus = Bus({shared.url!r}, Recorder(), settings=settings)
bus.join({room!r})
bus.announce({room!r}, {{"ann": 3}})
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT) as process:
        try:
            present(bus, room, {"ann": 3}, 20)
            process.send_signal(signal.SIGSTOP)
            present(bus, room, {})
            process.send_signal(signal.SIGCONT)
            present(bus, room, {"ann": 3})
        finally:
            process.kill()
        present(bus, room, {})


def test_living_processes_stay_present(shared: BrokerProcess, connect: Connect) -> None:
    room = new_room()
    settings = {"presence_ttl": 1.0, "heartbeat_interval": 0.1, "silence_timeout": 5.0}
    first, recorder = connect(shared, room, **settings)
    second, _ = connect(shared, room, **settings)
    second.announce(room, {"bob": 1})
    present(first, room, {"bob": 1})
    time.sleep(2.5)
    assert first.present(room) == {"bob": 1}
    assert recorder.presence == [room]


def test_presence_survives_a_broker_outage(start: Start, connect: Connect) -> None:
    broker = start()
    first, recorder = connect(broker, "room")
    second, _ = connect(broker, "room")
    first.announce("room", {"ann": 1})
    second.announce("room", {"bob": 1})
    present(first, "room", {"bob": 1})
    broker.kill()
    second.announce("room", {"bob": 1, "cid": 1})
    broker.start()
    present(first, "room", {"bob": 1, "cid": 1})
    present(second, "room", {"ann": 1})
    assert recorder.presence == ["room", "room"]


@pytest.mark.usefixtures("server_kind")  # without a server, members leave with their connection
def test_many_identities_stay_when_their_process_reconnects(
    shared: BrokerProcess, connect: Connect
) -> None:
    room = new_room()
    first, recorder = connect(shared, room)
    second, others = connect(shared, room)
    everyone = crowd(5000)
    second.announce(room, everyone)
    present(first, room, everyone)
    told = len(recorder.presence)
    break_connection(second)
    wait_for(lambda: second.stats().connects == 2, "the next connection")
    second.announce(room, {**everyone, "the last": 1})
    present(first, room, {**everyone, "the last": 1})
    assert len(recorder.presence) == told + 1
    assert others.presence == []


def test_raising_presence_listener_leaves_the_bus_up(
    shared: BrokerProcess, connect: Connect
) -> None:
    room = new_room()
    first, recorder = connect(shared, room)
    second, _ = connect(shared, room)

    class Failing(Recorder):
        def presence_changed(self, room: str) -> None:
            super().presence_changed(room)
            raise RuntimeError("a listener")

    failing = Failing()
    third = Bus(shared.url, failing)
    third.join(room)
    wait_for(lambda: third.stats().rooms == 1, "the room")
    second.announce(room, {"bob": 1})
    present(first, room, {"bob": 1})
    present(third, room, {"bob": 1})
    second.announce(room, {})
    present(third, room, {})
    assert failing.presence == [room, room]
    assert recorder.presence[-1] == room
    third.close(5)


def test_too_long_identity_is_an_error(shared: BrokerProcess, connect: Connect) -> None:
    bus, _ = connect(shared, "room")
    with pytest.raises(ValueError, match="identity"):
        bus.announce("room", {"x" * 2000: 1})
