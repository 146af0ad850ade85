"""Slow peers: slow to send a request, to read, to answer, to disconnect."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Close, Message, Ping
from websocket_handler.protocol.versions import by_name

from ..support.programs import ENGINES, Journal, Program, echo_program, wait_for
from ..support.raw_client import RawClient, binary, close, text
from .rig import (
    BROWSER_VERSIONS,
    FULL,
    KIB,
    MIB,
    Attacker,
    ResourceUse,
    at_scale,
    note,
    settled_memory,
)

HELLO = text("hello")


@pytest.mark.parametrize("application", ["routes", "wsgi"])
def test_slow_request_head_ends_at_one_deadline(application: str) -> None:
    """A silent peer, a partial head, or single bytes: one deadline applies to the whole head."""
    timeout = "10" if FULL else "0.5"
    engine_setup = next(setup for setup in ENGINES if setup.runs_in == "thread")
    options = ("--open-timeout", timeout, "--application", application)
    with echo_program(engine_setup, *options) as program, contextlib.ExitStack() as stack:
        count = at_scale(10, 300) if application == "routes" else 1
        begun = time.monotonic()
        slow = {
            way: [stack.enter_context(RawClient(program.address)) for _ in range(count)]
            for way in ("silent", "broken off", "a byte now and then")
        }
        for client in slow["broken off"]:
            client.sock.sendall(b"GET /echo HTTP/1.1\r\nHost: ")
        trickling = set(slow["a byte now and then"])
        while trickling and time.monotonic() - begun < 30:
            for client in list(trickling):
                try:
                    client.sock.sendall(b"G")
                except OSError:
                    trickling.discard(client)
            time.sleep(0.05)
        for way, clients in slow.items():
            for client in clients:
                with contextlib.suppress(ConnectionResetError):
                    assert client.sock.recv(100) == b""
            seconds = time.monotonic() - begun
            note(
                "slow handshakes", f"heads that are {way}: all dropped within", seconds, "s", "≤ 11"
            )
        with RawClient(program.address) as client:
            client.open("/echo" if application == "routes" else "/").echo(HELLO)
        assert "Traceback" not in program.log()


def test_connection_may_idle_between_requests() -> None:
    engine_setup = next(setup for setup in ENGINES if setup.runs_in == "thread")
    with (
        echo_program(engine_setup, "--open-timeout", "0.2") as program,
        RawClient(program.address) as client,
    ):
        client.read_body(client.get("/ordinary"))
        time.sleep(0.5)
        client.read_body(client.get("/ordinary"))
        client.open().echo(HELLO)


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
def test_unread_echo_pauses_reading_from_the_peer(program: Program, version: Version) -> None:
    """Once `high_water` bytes are unsent, the engine stops reading from the peer."""
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open_as(version)
        message = attacker.encoder.message("x" * (64 * KIB))
        costs = ResourceUse(program)
        flooded = attacker.flood(message, 192 * MIB, timeout_s=0.3)
        grown = costs.memory()
        assert not flooded.ended
        assert flooded.sent < 64 * MIB  # the system's buffers fill up, and no more
        assert grown < 2 * MIB
        note(
            "slow readers",
            f"an echo that nobody reads, {version}: memory",
            grown / KIB,
            "KiB",
            "≤ 307",
        )


def test_many_peers_that_never_read_take_bounded_memory(program: Program) -> None:
    """The memory of many such peers is the sum of their send buffers."""
    count = at_scale(20, 1000)
    with contextlib.ExitStack() as stack:
        costs = ResourceUse(program)
        for _ in range(count):
            client = stack.enter_context(Attacker(program.address, receive_buffer=4 * KIB))
            client.open("/floods?size=65536&count=3")
            client.send(HELLO)
        each = costs.memory() / count
        assert each < 400 * KIB
        note("slow readers", "one of many that never read: memory", each / KIB, "KiB", "")
        with RawClient(program.address) as other:
            other.open().echo(HELLO)


def test_slow_consumer_is_closed_at_the_hard_limit(program: Program, journal: Journal) -> None:
    """The application keeps sending: close code 1008 at the hard limit."""
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open(f"/floods?size=65536&count=1000&id={journal.name}").send(HELLO)
        events = journal.wait_for("ConnectionClosed", 1008, "slow consumer")
        assert events[-1][0] in ("ConnectionClosed", "close")


@pytest.mark.parametrize("name", ["RFC 6455", "hybi-06"])
def test_dead_peer_is_dropped(program: Program, journal: Journal, name: str) -> None:
    """A peer that answers nothing; at full scale with the default settings."""
    settings = "" if FULL else "&ping_interval=0.2&ping_timeout=0.2"
    with Attacker(program.address) as attacker:
        attacker.open_as(by_name(name), f"/silent?id={journal.name}{settings}")
        begun = time.monotonic()
        attacker.sock.settimeout(60)
        assert isinstance(attacker.next_event(), Ping)
        attacker.read_to_end()
        seconds = time.monotonic() - begun
        if FULL:
            assert seconds < 45
            note("dead peers", f"a dead peer found, {name}, default settings", seconds, "s", "≤ 45")
        event = wait_for(lambda: [e for e in journal.read() if e[0] == "close"], "its close")[0]
        assert event[1:] == [1006, "no answer to a ping"]


def test_dead_peer_that_does_not_read_is_dropped(program: Program, journal: Journal) -> None:
    """The engine cannot even send a ping to this peer."""
    settings = "&ping_interval=0.2&ping_timeout=0.2"
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open(f"/floods?size=65536&count=100&id={journal.name}{settings}").send(HELLO)
        journal.wait_for("close", 1006)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel cannot be asked to")
@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_dead_peer_that_does_not_read_is_dropped_without_pings(
    program: Program, journal: Journal, name: str
) -> None:
    """TCP keep-alive does not detect a peer that has unsent data waiting for it."""
    settings = "ping_interval=1&ping_timeout=1" if not FULL else ""
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open_as(by_name(name), f"/echo?id={journal.name}&{settings}")
        begun = time.monotonic()
        attacker.flood(attacker.encoder.message("x" * 60_000), 64 * MIB, timeout_s=0.3)
        wait_for(lambda: ["close", 1006] in [e[:2] for e in journal.read()], "its close", 60)
        if FULL:
            seconds = time.monotonic() - begun
            note("dead peers", f"a dead peer found, {name}, default settings", seconds, "s", "≤ 45")


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
def test_timeout_beyond_the_tcp_maximum_is_accepted(program: Program, version: Version) -> None:
    with Attacker(program.address) as attacker:
        attacker.open_as(
            version, "/echo?ping_interval=1000000&ping_timeout=900000000"
        ).send_message("x")
        assert attacker.next_event() == Message("x")


def test_third_key_in_one_byte_segments_ends_at_one_deadline(program: Program) -> None:
    """One deadline applies to the whole key, not to each byte."""
    target = "/echo?open_timeout=0.4"
    with Attacker(program.address) as attacker:
        offer = {"Upgrade": "WebSocket", "Sec-WebSocket-Version": None, "Sec-WebSocket-Key": None}
        keys = {"Sec-WebSocket-Key1": "1 2", "Sec-WebSocket-Key2": "3 3"}
        attacker.sock.sendall(attacker.handshake(target, {**offer, **keys}))
        assert attacker.read_response().status == 101
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for _ in range(7):
                attacker.sock.sendall(b"k")
                time.sleep(0.1)
        attacker.read_to_end()
        assert 0.3 < time.monotonic() - begun < 9


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
def test_unanswered_close_is_dropped_after_close_timeout(
    program: Program, journal: Journal, version: Version
) -> None:
    """After the close timeout the socket is closed, even if the peer keeps sending."""
    with Attacker(program.address) as attacker:
        attacker.open_as(version, f"/closes?id={journal.name}&close_timeout=0.3")
        attacker.send_message("4001 enough")
        assert attacker.next_event() == Message("before")
        if version._has_close:
            assert isinstance(attacker.next_event(), Close)
        begun = time.monotonic()
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - begun < 9:  # the default is 10 s
                attacker.send_message("and another thing")
                time.sleep(0.02)
        assert time.monotonic() - begun < 9
        journal.wait_for("close")


def test_unfinished_messages_take_no_more_than_arrived(program: Program) -> None:
    """Unfinished messages live as long as the connection, and take only the bytes received."""
    count = at_scale(100, 2000)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)).open() for _ in range(count)]
        before = settled_memory(program)
        for client in clients:
            client.send(binary(bytes(20_000), fin=False))
        each = (settled_memory(program) - before) / count
        assert each < 64 * KIB
        for client in clients:
            client.send(close(1000))
            client.expect_closed(1000)


def test_idle_connections_take_little_memory_or_cpu(program: Program) -> None:
    """Idle memory and processor time per connection; the scorecard uses full scale."""
    count = at_scale(200, 5000)
    with contextlib.ExitStack() as stack:
        warm = [stack.enter_context(RawClient(program.address)).open() for _ in range(50)]
        before = settled_memory(program)
        clients = [stack.enter_context(RawClient(program.address)).open() for _ in range(count)]
        for client in clients:
            client.echo(HELLO)
        each = (settled_memory(program) - before) / count
        assert each < 16 * KIB
        note(
            "idle connections",
            "an idle connection, no compression: memory",
            each / KIB,
            "KiB",
            "≤ 4",
        )
        costs = ResourceUse(program)
        time.sleep(0.3)
        assert costs.cpu() < 0.15
        del warm
