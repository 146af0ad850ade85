"""Events, their order, and the lifetime of a connection, as the application sees them."""

from __future__ import annotations

import contextlib
import time

import pytest

from websocket_handler.protocol.frame import Opcode

from ..support.programs import ENGINES, Journal, Program, wait_for
from ..support.raw_client import Frame, RawClient, binary, close, masked, text

HELLO = text("hello")
KEEPALIVE = b"keepalive"


def ping(payload: bytes = b"") -> Frame:
    return Frame(Opcode.PING, payload)


def pong(payload: bytes = b"") -> Frame:
    return Frame(Opcode.PONG, payload)


def test_events_are_emitted_in_order(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/pings?id={journal.name}")
        client.send(ping(b"one"), HELLO)
        client.expect(pong(b"one"), ping(b"hello"))
        client.send(pong(b"hello"), pong(b"unasked"), close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()
    assert journal.wait_for("close") == [
        ["open"],
        ["ping", "b'one'"],
        ["message", "hello"],
        ["pong", "b'hello'"],
        ["pong", "b'unasked'"],
        ["close", 1000, "bye"],
    ]


@pytest.mark.parametrize(
    ("code", "reason"),
    [(1000, ""), (1001, "leaving"), (3000, "r" * 123), (4999, "\u20ac"), (None, "")],
)
def test_close_by_peer_is_reported_with_code_and_reason(
    program: Program, journal: Journal, code: int | None, reason: str
) -> None:
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}")
        client.send(HELLO, close(code, reason), HELLO)
        client.expect(HELLO)
        client.expect_close(code)
        client.expect_end()
    assert journal.wait_for("close") == [
        ["open"],
        ["message", "hello"],
        ["close", code or 1005, reason],
    ]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (4000, "bye"), (3999, "\u20ac" * 41)])
def test_close_by_application_is_reported_with_code_and_reason(
    program: Program, journal: Journal, code: int, reason: str
) -> None:
    with RawClient(program.address) as client:
        client.open(f"/closes?id={journal.name}")
        client.send(text(f"{code} {reason}"))
        client.expect(text("before"))
        client.expect_close(code, reason)
        client.send(text("too late"), ping(b"too late"), close(code, "seen"))
        client.expect_end()
    events = journal.wait_for("close")
    assert [event for event in events if event[0] != "ping"] == [
        ["open"],
        ["message", f"{code} {reason}"],
        *[["ConnectionClosed", code, reason]] * 3,
        ["close", code, "seen"],
    ]


def test_close_before_the_handover_is_sent_after_the_101(
    program: Program, journal: Journal
) -> None:
    with RawClient(program.address) as client:
        client.open(f"/closes-at-once?id={journal.name}", early=masked(HELLO))
        client.expect(text("last words"))
        client.expect_closed(4002, "at once")
    assert journal.wait_for("close") == [["close", 4002, ""]]


def test_unanswered_close_frame_drops_the_peer(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/closes?id={journal.name}&close_timeout=0.3")
        begun = time.monotonic()
        client.send(text("4000 bye"))
        client.expect(text("before"))
        client.expect_close(4000, "bye")
        with contextlib.suppress(ConnectionResetError):
            client.expect_end()
        assert 0.2 < time.monotonic() - begun < 9  # the default is 10 s
    assert journal.wait_for("close")[-1][:2] == ["close", 1006]


def test_closed_peer_that_keeps_its_side_open_is_dropped(
    program: Program, journal: Journal
) -> None:
    """The closing handshake is complete, but the peer keeps its side of the TCP connection open."""
    before = program.descriptors()
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}&close_timeout=0.3")
        client.send(close(1000))
        client.expect_close(1000)
        client.expect_end()
        journal.wait_for("close", 1000)
        wait_for(lambda: program.descriptors() <= before, "the server to give the socket up")


@pytest.mark.parametrize("when", ["later", "early"])
def test_abort_ends_the_connection_without_close_frame(
    program: Program, journal: Journal, when: str
) -> None:
    with RawClient(program.address) as client:
        if when == "early":
            client.sock.sendall(client.handshake(f"/aborts?id={journal.name}&early=1"))
        else:
            client.open(f"/aborts?id={journal.name}").send(HELLO)
        with contextlib.suppress(ConnectionResetError):
            assert client.read_to_end() == b""
    assert journal.wait_for("close")[-1] == ["close", 1006, "aborted"]


def test_once_and_off_affect_only_their_listener(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/listeners?id={journal.name}")
        client.send(text("1"), text("2"), text("off"), text("3"))
        answers = ["first 1", "once 1", "last 1", "first 2", "last 2", "first off", "last off"]
        client.expect(*map(text, answers), text("last 3"))
        client.send(close(1000))
        client.expect_closed(1000)
    (wrong,) = [event for event in journal.read() if event[0] == "ValueError"]
    assert "'massage'" in str(wrong[1])


# Listeners that raise


@pytest.mark.parametrize(
    ("event", "sent"),
    [
        ("open", []),
        ("message", [HELLO, HELLO, binary(b"more")]),
        ("ping", [ping(b"x"), ping(b"y")]),
        ("pong", [pong(b"x"), pong(b"y")]),
    ],
)
def test_raising_listener_ends_only_its_connection(
    program: Program, journal: Journal, event: str, sent: list[Frame]
) -> None:
    seen = len(program.log())
    with RawClient(program.address) as other, RawClient(program.address) as client:
        other.open().echo(HELLO)
        client.open(f"/raises?event={event}&id={journal.name}", early=masked(*sent))
        while (frame := client.read_frame()).opcode == Opcode.PONG:
            pass
        assert frame == close(1011, "internal error")
        other.echo(HELLO)
        client.send(close(1011))
        client.expect_end()
        other.echo(HELLO)
    events = journal.wait_for("close")
    assert events.count(["error", repr(ValueError(f"on purpose: {event}"))]) == 1
    assert events[-1] == ["close", 1011, ""]
    log = program.wait_for_log(f"ValueError: on purpose: {event}", seen)
    assert log.count("Traceback") == log.count("a listener raised") == 1


def test_raising_close_listener_is_logged(program: Program, journal: Journal) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open(f"/raises?event=close&id={journal.name}").send(close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()
    assert journal.wait_for("close") == [["open"], ["close", 1000, "bye"]]
    log = program.wait_for_log("ValueError: on purpose: close", seen)
    assert log.count("Traceback") == 1


def test_raising_error_listener_is_logged(program: Program, journal: Journal) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open(f"/raises?event=error&id={journal.name}")
        client.sock.sendall(b"\xff" * 10)
        client.expect_closed(1002)
    assert journal.wait_for("close")[-1][:2] == ["close", 1002]
    program.wait_for_log("ValueError: on purpose: error", seen)
    with RawClient(program.address) as client:
        client.open().echo(HELLO)


@pytest.mark.parametrize(
    "engine_setup",
    [setup for setup in ENGINES if setup.runs_in == "thread"],
    indirect=True,
    ids=lambda setup: setup.name,
)
def test_listener_cannot_end_the_engines_thread(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client, RawClient(program.address) as other:
        other.open()
        client.open(f"/raises?event=message&kind=SystemExit&id={journal.name}").send(HELLO)
        client.expect_closed(1011)
        other.echo(HELLO)


# Pings


def test_silent_peer_is_dropped(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}&ping_interval=0.2&ping_timeout=0.3")
        begun = time.monotonic()
        client.expect(ping(KEEPALIVE))
        assert time.monotonic() - begun > 0.1
        client.expect(close(1011, "keepalive ping timeout"))
        client.expect_end()
        assert time.monotonic() - begun > 0.4
    assert journal.wait_for("close") == [["open"], ["close", 1006, "no answer to a ping"]]


def test_peer_that_answers_pings_is_kept(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}&ping_interval=0.1&ping_timeout=0.25")
        for _ in range(6):
            client.expect(ping(KEEPALIVE))
            client.send(pong(KEEPALIVE))
        client.send(HELLO)
        while (frame := client.read_frame()).opcode == Opcode.PING:
            client.send(pong(frame.payload))
        assert frame == HELLO
    assert journal.wait_for("close")[:2] == [["open"], ["message", "hello"]]


def test_any_traffic_keeps_the_connection_alive(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}&ping_interval=0.2&ping_timeout=0.2")
        end = time.monotonic() + 1
        while time.monotonic() < end:
            client.send(HELLO)
            while (frame := client.read_frame()).opcode == Opcode.PING:
                pass  # never answered
            assert frame == HELLO
            time.sleep(0.02)


def test_ping_interval_none_sends_no_pings(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/echo?ping_interval=null")
        client.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.read_frame()


def test_handler_may_receive_in_its_own_thread(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/receive", early=masked(text("early")))
        client.expect(text("early"))
        client.echo(HELLO, binary(b"\x00"), text("x" * 100_000))
        client.send(close(1000))
        client.expect_close(1000)
        client.expect_end()


@pytest.mark.parametrize(("word", "code"), [("return", 1000), ("raise", 1011)])
def test_receiving_handler_that_ends_closes_the_connection(
    program: Program, word: str, code: int
) -> None:
    with RawClient(program.address) as client:
        client.open("/receive")
        client.echo(HELLO)
        client.send(text(word))
        client.expect_close(code)
