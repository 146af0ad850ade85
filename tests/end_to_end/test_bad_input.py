"""Broken, hostile or vanished peers: each harms only its own connection, and nothing leaks.

A canary, a well-behaved connection, keeps echoing during every test.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from websocket_handler.protocol.frame import Opcode, write_frame

from ..support.canary import healthy_connection
from ..support.programs import Journal, Program, wait_for
from ..support.raw_client import (
    KEY,
    Frame,
    RawClient,
    binary,
    close,
    masked,
    more,
    raw,
    request,
    text,
)
from .stages import HELLO, MIB, OPENED, STAGES, go_to


@pytest.fixture(autouse=True)
def canary(program: Program) -> Iterator[None]:
    with healthy_connection(program):
        yield


# Frames that break the protocol

VIOLATIONS = {
    "RSV1": (raw(b"\xc1\x80"), 1002, "reserved bit"),
    "RSV3": (raw(b"\x91\x81", b"x"), 1002, "reserved bit"),
    "opcode 3": (raw(b"\x83\x80"), 1002, "reserved opcode"),
    "opcode 15": (raw(b"\x8f\x80"), 1002, "reserved opcode"),
    "not masked": (write_frame(Opcode.TEXT, b"x"), 1002, "not masked"),
    "large and not masked": (write_frame(Opcode.BINARY, b"x" * 70_000), 1002, "not masked"),
    "ping of 126 bytes": (raw(b"\x89\xfe\x00\x7e", b"x" * 126), 1002, "longer than 125"),
    "close of 126 bytes": (raw(b"\x88\xfe\x00\x7e", b"x" * 126), 1002, "longer than 125"),
    "fragmented ping": (raw(b"\x09\x80"), 1002, "control frame is fragmented"),
    "fragmented close": (raw(b"\x08\x82", b"\x03\xe8"), 1002, "control frame is fragmented"),
    "stray continuation": (masked(more(b"x")), 1002, "continuation frame without"),
    "interleaved": (masked(text("a", fin=False), HELLO), 1002, "inside a fragmented one"),
    "negative length": (raw(b"\x82\xff" + b"\xff" * 8), 1002, "most significant bit"),
    "length of 4 in 2 bytes": (raw(b"\x82\xfe\x00\x04", b"abcd"), 1002, "shortest form"),
    "length of 4 in 8 bytes": (
        raw(b"\x82\xff" + b"\0" * 7 + b"\4", b"abcd"),
        1002,
        "shortest form",
    ),
    "2^62 bytes": (raw(b"\x82\xff\x40" + b"\0" * 7), 1009, "too big"),
    "64 MiB and a byte": (raw(b"\x82\xff\0\0\0\0\x04\0\0\1"), 1009, "too big"),
    "too big in fragments": (
        masked(binary(b"x" * 900, fin=False), more(b"x" * 101)),
        1009,
        "too big?max_message_size=1000",
    ),
    "bad UTF-8": (masked(Frame(Opcode.TEXT, b"ok \xff")), 1007, "not valid UTF-8"),
    "half a character": (masked(Frame(Opcode.TEXT, b"ok \xe2\x82")), 1007, "not valid UTF-8"),
    "bad UTF-8 over fragments": (
        masked(Frame(Opcode.TEXT, b"\xe2", False), more(b"\x82", False), more(b"\x28", False)),
        1007,
        "not valid UTF-8",
    ),
    "surrogate over fragments": (
        masked(Frame(Opcode.TEXT, b"\xed", False), more(b"\xa0\x80", False)),
        1007,
        "not valid UTF-8",
    ),
    "close of one byte": (masked(Frame(Opcode.CLOSE, b"x")), 1002, "body of one byte"),
    "close 1005": (masked(close(1005)), 1002, "invalid code"),
    "close 5000": (masked(close(5000)), 1002, "invalid code"),
    "close with a bad reason": (
        masked(Frame(Opcode.CLOSE, b"\x03\xe8\xff")),
        1007,
        "reason is not valid UTF-8",
    ),
    "too many fragments": (
        masked(text("", fin=False), *[more(b"x", fin=False)] * 4),
        1008,
        "too many fragments?max_fragments=4",
    ),
    "too many empty fragments": (
        masked(text("", fin=False), *[more(b"", fin=False)] * 4),
        1008,
        "too many empty fragments?max_empty_fragments=4",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_protocol_violation_closes_with_its_code(
    program: Program, journal: Journal, name: str
) -> None:
    sent, code, expected = VIOLATIONS[name]
    reason, _, setting = expected.partition("?")
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open(f"/echo?id={journal.name}&{setting}").echo(HELLO)
        client.sock.sendall(masked(HELLO) + sent + b"\xff" * 300_000 + masked(HELLO))
        client.expect(HELLO)
        client.expect_close(code)
        client.expect_end()
    events = journal.wait_for("close")
    assert events[-1][:2] == ["close", code]
    assert [event[0] for event in events] == ["open", "message", "message", "error", "close"]
    log = program.wait_for_log(reason, seen)
    assert f"/echo closed>: {code}" in log or f"closing with {code}" in log
    assert "Traceback" not in log


def test_announced_bytes_take_no_memory_before_arrival(program: Program) -> None:
    before = program.memory()
    with contextlib.ExitStack() as stack:
        for length in [1 << 62, 60 * MIB] * 20:
            client = stack.enter_context(RawClient(program.address)).open()
            client.sock.sendall(b"\x82\xff" + length.to_bytes(8, "big") + KEY + b"x" * 1000)
            if length > 64 * MIB:
                client.expect_close(1009)
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
        assert program.memory() - before < 24 * MIB


def test_peer_that_stays_after_a_violation_is_dropped(program: Program) -> None:
    before = program.descriptors()
    with RawClient(program.address) as client:
        client.open("/echo?close_timeout=0.3")
        client.sock.sendall(b"\xff\xff")
        client.expect_close(1002)
        wait_for(lambda: program.descriptors() <= before, "the server to give the socket up")


# Data that is not HTTP


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"garbage\r\n\r\n", b"400"),
        (b"GET /echo HTTP/9.9.9\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"414"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nlong: " + b"x" * 70_000 + b"\r\n\r\n", b"431"),
        (request("/echo", {"Upgrade": "websocket"}, method="POST"), b"501"),
    ],
    ids=["words", "version", "TLS", "long target", "many headers", "long header", "POST"],
)
def test_garbage_instead_of_a_request_ends_the_connection(
    program: Program, sent: bytes, answer: bytes
) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.sock.sendall(sent)
        client.sock.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.sock.recv(65536):
                received += data
        assert answer in received
    program.wait_for_log(f"code {answer.decode()}", seen)


# Peers that disconnect at every stage of a connection


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("way", ["closes", "resets", "half-closes"])
def test_peer_leaving_at_any_stage_ends_its_connection(
    program: Program, journal: Journal, stage: str, way: str
) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        go_to(client, stage, f"/echo?id={journal.name}")
        if way == "half-closes":
            client.sock.shutdown(socket.SHUT_WR)
            client.read_to_end()  # ends in time, with FIN
        elif way == "resets":
            client.reset()
    if stage in OPENED:
        code = {"after a close frame": 1000, "after a violation": 1002}.get(stage, 1006)
        event = journal.wait_for("close")[-1]
        assert event[1] == code or (way == "resets" and event[1] == 1006)
    log = program.log()[seen:]
    assert "ERROR" not in log
    # http.server itself prints a traceback if a connection is reset while it reads the request
    assert "Traceback" not in log or (way == "resets" and stage not in OPENED)


@pytest.mark.parametrize("count", [1, 100])
def test_echo_reaches_a_peer_that_half_closes(program: Program, count: int) -> None:
    messages = [binary(os.urandom(3000)) for _ in range(count)]
    with RawClient(program.address) as client:
        client.open().send(*messages)
        client.sock.shutdown(socket.SHUT_WR)
        client.expect(*messages)
        client.expect_end()


def other_threads(program: Program) -> int:
    """The number of threads, apart from the engine's: it keeps one more after each stall."""
    names: list[str] = program.get("/threads")
    return sum(not name.startswith("websocket-engine") for name in names)


def test_many_broken_peers_leave_nothing(program: Program) -> None:
    """After many peers: no descriptor and no thread is left in use."""
    descriptors, threads = program.descriptors(), other_threads(program)
    for way in ("closes", "resets") * 3:
        with contextlib.ExitStack() as stack:
            for stage in list(STAGES) * 3:
                client = stack.enter_context(RawClient(program.address))
                go_to(client, stage)
                if way == "resets":
                    client.reset()
    wait_for(lambda: program.descriptors() <= descriptors, "descriptors to be given back")
    wait_for(lambda: other_threads(program) <= threads, "threads to end")
