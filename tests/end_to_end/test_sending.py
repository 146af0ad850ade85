"""Sent messages arrive once, whole, in order, from any thread, and at slow readers too."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os

import pytest

from websocket_handler import connect
from websocket_handler.protocol.frame import Opcode

from ..support.programs import Journal, Program
from ..support.raw_client import Frame, RawClient, binary, close, masked, more, text

MIB = 1 << 20
GO = text("go")


@pytest.mark.parametrize(
    "size", [0, 1, 125, 126, 16_383, 16_384, 65_535, 65_536, 131_072, 1_000_003, 20 * MIB]
)
def test_messages_of_every_size_are_echoed(program: Program, size: int) -> None:
    data = os.urandom(1024) * (size // 1024 + 1)
    with RawClient(program.address) as client:
        client.open()
        client.echo(binary(data[:size]))
        client.echo(text("\u20ac" * (size // 3) + "x" * (size % 3)), text("after"))


@pytest.mark.parametrize("size", [10, 50_000, 200_000, 3 * MIB])
def test_kept_messages_keep_their_content(program: Program, size: int) -> None:
    """The memory of one message is not reused while the application holds it."""
    messages = [os.urandom(100) + bytes([n]) * size for n in range(20)]
    with RawClient(program.address) as client:
        client.open("/keeps").send(*map(binary, messages), GO)
        client.expect(text(json.dumps([hashlib.sha256(each).hexdigest() for each in messages])))


def test_messages_before_the_handover_are_sent_after_it(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/sends-early?id={journal.name}")
        client.expect(text("first"), binary(b"second"), text("third"))
        client.expect(text("fou", fin=False), more(b"rth"))
    assert journal.read()[0] == ["not connected"]


def test_every_supported_type_is_sent_and_others_raise(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        client.open(f"/types?id={journal.name}").send(GO)
        client.expect(binary(b"bytearray"), binary(b"memory"), text("text"), binary(b"binary"))
        client.expect(binary(b"one", fin=False), more(b"two", fin=False), more(b"three"))
        client.expect(text("end"))
    assert journal.read().count(["TypeError"]) == 5


@pytest.mark.parametrize("members", [1, 6])
def test_many_threads_sending_at_once_lose_nothing(program: Program, members: int) -> None:
    threads, count = 8, 40
    clients = [RawClient(program.address).open("/members") for _ in range(members)]
    assert program.get(f"/broadcast?threads={threads}&count={count}") is True
    for client in clients:
        numbers: dict[int, list[int]] = {thread: [] for thread in range(threads)}
        for _ in range(threads * count):
            opcode, payload, fin = client.read_frame()
            thread, number = map(int, payload.split()[:2])
            numbers[thread].append(number)
            size = (number * 37 + thread) % 2000 if number % 10 else 30_000
            expected = f"{thread} {number} ".ljust(size, ".").encode()
            assert (opcode, payload, fin) == (Opcode.TEXT, expected, True)
        assert set(map(tuple, numbers.values())) == {tuple(range(count))}
        client.send(close(1000))
        client.expect_closed(1000)
        client.sock.close()


def test_fragmented_message_delays_other_messages(program: Program) -> None:
    with RawClient(program.address) as client:
        client.open("/fragments")
        for _ in range(2):
            client.send(GO)
            client.expect(
                text("one ", fin=False), more(b"two ", fin=False), more("thr\u00e9e".encode())
            )
            client.expect(text("meanwhile"), binary(b"from a thread"))


def test_raising_iterable_ends_the_connection(program: Program) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open("/broken-fragments").send(GO)
        client.expect(binary(b"one", fin=False))
        client.expect_closed(1011)
    log = program.wait_for_log("LookupError: nothing more to be found", seen)
    assert log.count("Traceback") == 1


def test_slow_reader_receives_everything(program: Program, journal: Journal) -> None:
    size, count = 65_536, 200
    with RawClient(program.address, receive_buffer=4096) as client:
        client.open(f"/floods?id={journal.name}&size={size}&count={count}").send(GO)
        (_, buffered), *_ = journal.wait_for("buffered")[-1:]
        assert isinstance(buffered, int)
        assert 65_536 < buffered <= (size + 10) * count
        with RawClient(program.address) as other:  # once this echoes, the kernel's buffers are full
            other.open().echo(GO)
        client.expect(*[binary(b"x" * size)] * count)
        (left,) = [entry for entry in journal.wait_for("left") if entry[0] == "left"]
        assert isinstance(left[1], int)
        assert left[1] <= 65_536 // 4
        client.send(close(1000))
        client.expect_closed(1000)


def test_reader_beyond_the_hard_limit_is_closed(program: Program, journal: Journal) -> None:
    limits = "max_buffered=262144&high_water=65536"
    size, count = 65_536, 1000
    with RawClient(program.address, receive_buffer=4096) as client:
        client.open(f"/floods?id={journal.name}&size={size}&count={count}&{limits}").send(GO)
        refused = journal.wait_for("ConnectionClosed")[-1]
        assert refused[:3] == ["ConnectionClosed", 1008, "slow consumer"]
        sent = refused[3]
        assert isinstance(sent, int)
        assert 4 <= sent < count
        client.expect(*[binary(b"x" * size)] * sent)
        client.expect_closed(1008, "slow consumer")
    assert journal.wait_for("close")[-1] == ["close", 1008, ""]


def test_only_newest_ping_is_answered_while_peer_does_not_read(
    program: Program, journal: Journal
) -> None:
    size, count, pings = 65_536, 200, 1000
    with RawClient(program.address, receive_buffer=4096) as client:
        target = f"/floods?id={journal.name}&size={size}&count={count}&high_water=64000000"
        client.open(target).send(GO)
        journal.wait_for("buffered")
        client.send(*[Frame(Opcode.PING, str(number).encode()) for number in range(pings)])
        journal.wait_for("ping", repr(str(pings - 1).encode()))
        client.expect(*[binary(b"x" * size)] * count)
        client.expect(Frame(Opcode.PONG, str(pings - 1).encode()))
        client.send(close(1000))
        client.expect_closed(1000)


def test_peer_that_does_not_read_is_not_read(program: Program) -> None:
    """Backpressure: an echo server's memory does not grow with the messages that a peer sends
    unread."""
    size = 65_536
    frame = masked(binary(b"x" * size))
    with RawClient(program.address, receive_buffer=4096) as client:
        client.open()
        before = program.memory()
        client.sock.settimeout(0.5)
        sent = part = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 * MIB:
                part += client.sock.send(frame[part:])
                if part == len(frame):
                    sent, part = sent + size, 0
        assert sent < 64 * MIB
        assert program.memory() - before < 8 * MIB
        client.sock.settimeout(10)
        client.expect(*[binary(b"x" * size)] * (sent // size))
        client.sock.sendall(frame[part:])
        client.expect(binary(b"x" * size))
        client.echo(GO)


def test_client_that_sends_everything_first_does_not_deadlock(program: Program) -> None:
    """More data in both directions than both kernels buffer: one side must keep reading."""
    messages = [bytes([number]) * 200_000 for number in range(100)]
    with connect(program.url("/echo"), max_buffered=1 << 26) as websocket:
        for message in messages:
            websocket.send(message)
        for message in messages:
            assert websocket.receive(timeout=10) == message
