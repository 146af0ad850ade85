"""Peers that disconnect: at any byte, in any way, in large numbers, and repeatedly."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import by_name
from websocket_handler.protocol.versions.version import Offer

from ..support.programs import Journal, Program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, more, text
from .rig import BROWSER_VERSIONS, KIB, MIB, Attacker, ResourceUse, at_scale, note, settled_memory

HELLO = text("hello")


def idle_share(program: Program, seconds: float = 0.3) -> float:
    """Returns the share of one core that the server uses while only the canary is active."""
    costs = ResourceUse(program)
    time.sleep(seconds)
    return costs.cpu() / seconds


def session(version: Version, attacker: Attacker) -> bytes:
    """All bytes that a valid client sends, where they do not depend on the response."""
    host = "{}:{}".format(*attacker.sock.getpeername())
    encoder = version._make_encoder(True, b"")
    sent = [version._client_request(Offer(host, "/echo")).request, encoder.message("hello" * 30)]
    if version._has_pings:
        sent += [encoder.frame(Opcode.TEXT, b"frag", False), encoder.frame(Opcode.PING, b"p")]
        sent += [encoder.frame(Opcode.CONTINUATION, b"ment")]
    return b"".join([*sent, encoder.close(1000)])


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
@pytest.mark.parametrize("way", ["reset", "half-close", "half-close and reset"])
def test_peer_leaving_at_any_byte_leaves_nothing(
    program: Program, version: Version, way: str
) -> None:
    """The bytes of a whole session are cut after every length."""
    with Attacker(program.address) as probe:
        length = len(session(version, probe))
    for cut in range(0, length, at_scale(7, 1)):
        with Attacker(program.address) as attacker:
            attacker.sock.sendall(session(version, attacker)[:cut])
            if way != "reset":
                attacker.sock.shutdown(socket.SHUT_WR)
            if way != "half-close":
                attacker.reset()
            else:
                with contextlib.suppress(ConnectionResetError):
                    attacker.read_to_end()


def test_disconnect_during_request_head_logs_no_traceback(program: Program) -> None:
    seen = len(program.log())
    for _ in range(20):
        with RawClient(program.address) as client:
            client.sock.sendall(client.handshake("/echo")[:70])
    wait_for(lambda: program.log()[seen:].count('HTTP/1.1" 400') == 20, "the refusals in the log")
    with RawClient(program.address) as client:
        client.open().echo(HELLO)
    assert "Traceback" not in program.log()[seen:]


def test_reset_in_every_state_emits_close_once(program: Program) -> None:
    """Nothing leaks, no thread spins, and every WebSocket emits `close` once."""
    rounds = at_scale(25, 12_500)
    names: list[tuple[Journal, int]] = []
    for number in range(rounds):
        for stage, sent in STATES.items():
            journal = Journal(program)
            with RawClient(program.address) as client:
                target = "/floods?count=100&size=65536" if stage == "while blocked" else "/echo?x=y"
                watched = number % 10 == 0
                client.open(target + (f"&id={journal.name}" if watched else ""))
                client.sock.sendall(sent)
                if stage == "after the answer":
                    client.expect(HELLO)
                elif stage == "after the close":
                    client.expect_close(1000)
                elif stage == "while blocked":
                    client.read(1000)
                client.reset()
            if watched:
                names.append((journal, 1000 if stage == "after the close" else 1006))
    lost = 0
    for journal, code in names:
        events = [event for event in journal.wait_for("close") if event[0] == "close"]
        lost += len(events) != 1
        assert events[0][1] in (code, 1006)
    share = idle_share(program)
    note(
        "resets",
        f"{rounds * len(STATES)} resets in {len(STATES)} states: lost closes",
        lost,
        "",
        "0",
    )
    note("resets", "processor afterwards, with the canary", share * 100, "%", "")
    assert lost == 0
    assert share < 0.3


STATES = {
    "at once": b"",
    "in a header": b"\x82\xfe\x01",
    "in a payload": masked(binary(bytes(60_000)))[:30_000],
    "in a large payload": masked(binary(bytes(MIB)))[: MIB // 2],
    "between fragments": masked(text("one", fin=False), more(b"two", fin=False)),
    "after the answer": masked(HELLO),
    "while blocked": masked(HELLO),
    "after the close": masked(close(1000)),
}


def test_half_close_still_gets_the_whole_answer(program: Program) -> None:
    """The connection then ends with a proper close."""
    for size in (1, 100_000, MIB):
        with RawClient(program.address, receive_buffer=4 * KIB) as client:
            client.open().send(binary(bytes(size)))
            client.sock.shutdown(socket.SHUT_WR)
            client.expect(binary(bytes(size)))
            client.read_to_end()


@pytest.mark.parametrize("busy", ["idle", "behind"])
def test_fin_then_reset_frees_the_connection(program: Program, journal: Journal, busy: str) -> None:
    """If epoll first reports "half-closed" and later "error", the connection is freed at once."""
    before = program.descriptors()
    for _ in range(at_scale(20, 1000)):
        with RawClient(program.address, receive_buffer=4 * KIB) as client:
            target = "/floods?count=50&size=65536" if busy == "behind" else "/silent?x=y"
            client.open(f"{target}&id={journal.name}").send(HELLO)
            client.sock.shutdown(socket.SHUT_WR)
            time.sleep(0.002)
            client.reset()
    begun = time.monotonic()
    wait_for(lambda: program.descriptors() <= before, "descriptors to be given back")
    note("resets", f"FIN then RST, {busy}: freed within", time.monotonic() - begun, "s", "≤ 1")
    assert idle_share(program) < 0.3


def test_reset_before_accept_leaves_nothing(program: Program) -> None:
    """The connection is already gone when the server accepts it, as happened with waitress."""
    for _ in range(at_scale(200, 100_000)):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.connect(program.address)
    with RawClient(program.address) as client:
        client.open().echo(HELLO)


@contextlib.contextmanager
def watched_growth(program: Program, what: str, count: int) -> Iterator[None]:
    """Fails if the block leaks memory or descriptors; the caches must be filled before it."""
    descriptors = program.descriptors()
    memory = settled_memory(program)
    yield
    wait_for(lambda: program.descriptors() <= descriptors, "descriptors to be given back")
    grown = settled_memory(program) - memory
    note("connection churn", f"{count} times {what}: memory", grown / MIB, "MiB", "≤ 1")
    assert grown < MIB


@pytest.mark.parametrize("name", ["RFC 6455", "hixie-76", "hixie-75"])
def test_repeated_connect_echo_close_leaks_nothing(program: Program, name: str) -> None:
    """Connect, echo and close repeatedly."""
    version, count = by_name(name), at_scale(300, 1_000_000 if name == "RFC 6455" else 100_000)

    def come_and_go() -> None:
        with Attacker(program.address) as attacker:
            attacker.open_as(version).send_message("hello")
            assert attacker.next_event() == Message("hello")
            if version._has_close:
                attacker.sock.sendall(attacker.encoder.close(1000))
            attacker.sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                attacker.read_to_end()

    for _ in range(count // 5):
        come_and_go()
    with watched_growth(program, f"connect, echo, close in {name}", count):
        for _ in range(count):
            come_and_go()


def test_different_settings_each_time_leak_nothing(program: Program) -> None:
    """An application may give each connection its own ping interval."""
    count = at_scale(400, 100_000)

    def come_and_go(number: int) -> None:
        with RawClient(program.address) as client:
            client.open(f"/echo?ping_interval={20 + number / 1e6}").send(close(1000))
            client.expect_closed(1000)

    for number in range(count // 2):
        come_and_go(number)
    with watched_growth(program, "connect with settings of its own", count):
        for number in range(count):
            come_and_go(count + number)


def test_mass_reconnect_is_served(program: Program) -> None:
    """All peers disconnect at the same time and reconnect at once."""
    size = at_scale(100, 10_000)
    with contextlib.ExitStack() as stack:
        herd = [stack.enter_context(RawClient(program.address)).open() for _ in range(size)]
        memory = settled_memory(program)
        for client in herd:
            client.reset()
        begun = time.monotonic()
        back: list[RawClient] = []
        threads = [
            threading.Thread(
                target=lambda: back.extend(
                    RawClient(program.address).open() for _ in range(size // 10)
                )
            )
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        seconds = time.monotonic() - begun
        for client in back:
            stack.enter_context(client).echo(HELLO)
        assert len(back) == size // 10 * 10
        assert settled_memory(program) - memory < 8 * MIB
    note(
        "simultaneous reconnects",
        f"{size} come back at once: all there within",
        seconds,
        "s",
        "≤ 10",
    )
