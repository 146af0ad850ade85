"""More and more of something: control frames, fragments, bytes one at a time.

Each ends the flooder's connection or is held back, and takes no memory.
"""

from __future__ import annotations

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import by_name

from ..support.programs import Program
from ..support.raw_client import masked, more, text
from .rig import KEY, KIB, MIB, SPOKEN, Attacker, Costs, at_scale, note, raw

PINGS = write_frame(Opcode.PING, b"p" * 125, key=KEY) * 500
PONGS = write_frame(Opcode.PONG, b"p" * 125, key=KEY) * 500
WITH_FRAGMENTS = [by_name(name) for name in ("RFC 6455", "hybi-07", "hybi-06", "hybi-03")]


def test_pings_of_a_peer_that_does_not_read(program: Program) -> None:
    """The flood ends with 1008; what the peer goes on to send is thrown away."""
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open()
        costs = Costs(program)
        flooded = attacker.flood(PINGS, at_scale(6, 192) * MIB)
        grown = costs.memory()
        assert flooded.sent > len(PINGS)
        assert grown < MIB
        note(
            "ping floods", "pings of a peer that does not read: memory", grown / KIB, "KiB", "≤ 102"
        )


def test_pings_of_a_peer_that_reads(program: Program) -> None:
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = Costs(program)
        attacker.sock.sendall(PINGS * 3)
        for _ in range(1000):
            assert attacker.read_frame().opcode == Opcode.PONG
        attacker.expect_close(1008, "too many control frames")
        attacker.flood(PINGS, at_scale(2, 120) * MIB, reading=True)
        assert costs.memory() < MIB


def test_pongs_nobody_asked_for(program: Program) -> None:
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = Costs(program)
        attacker.sock.sendall(PONGS * 3)
        attacker.expect_close(1008, "too many control frames")
        attacker.flood(PONGS, at_scale(2, 120) * MIB)
        assert costs.memory() < MIB


@pytest.mark.parametrize("version", [*SPOKEN, by_name("hybi-06")], ids=str)
def test_data_after_the_close(program: Program, version: Version) -> None:
    """It is thrown away, and no longer than the close time-out."""
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        costs = Costs(program)
        if version._has_close:
            attacker.sock.sendall(attacker.encoder.close(1000))
            assert isinstance(attacker.hear(), Close)
        else:  # hixie-75 has none; what it must not send does as well
            attacker.sock.sendall(b"\x80")
        more = attacker.encoder.message("x" * 100) * 100
        attacker.flood(more, at_scale(2, 120) * MIB)
        assert costs.memory() < MIB


@pytest.mark.parametrize("version", WITH_FRAGMENTS, ids=str)
@pytest.mark.parametrize("payload", [b"x", b""], ids=["one byte", "empty"])
def test_fragments(program: Program, version: Version, payload: bytes) -> None:
    """So many fragments and no end: counted, and 1008 beyond."""
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        first = attacker.encoder.frame(Opcode.TEXT, b"", False)
        each = attacker.encoder.frame(Opcode.CONTINUATION, payload, False)
        costs = Costs(program)
        attacker.sock.sendall(first)
        # In plain Python a fragment costs microseconds; the bound is the same.
        count = at_scale(140_000 if version._is_native else 20_000, 300_000)
        attacker.flood(each * 1000, count * len(each), reading=True)
        grown = costs.memory()
        if version._is_native and not payload:
            assert attacker.hear() == Close(1008, "message has too many empty fragments")
        elif version._is_native:
            assert attacker.hear() == Close(1008, "message has too many fragments")
        assert grown < 2 * MIB
        kind = "empty" if not payload else "1-byte"
        note(
            "endless fragments",
            f"{kind} fragments, {version}: memory",
            grown / KIB,
            "KiB",
            "≤ 1024",
        )


def test_pings_between_fragments(program: Program) -> None:
    with Attacker(program.address) as attacker:
        attacker.open()
        frames = [text("0", fin=False)]
        for number in range(1, 100):
            frames += [more(str(number % 10).encode(), fin=False)]
        pinged = b"".join(masked(frame) + PINGS[: len(PINGS) // 500] for frame in frames)
        attacker.sock.sendall(pinged + masked(more(b"!")))
        for _ in range(100):
            assert attacker.read_frame().opcode == Opcode.PONG
        attacker.expect(text("0123456789" * 10 + "!"))


@pytest.mark.parametrize("version", SPOKEN, ids=str)
def test_bytes_one_at_a_time(program: Program, version: Version) -> None:
    """A message of which every byte comes in a segment of its own."""
    size = at_scale(6_000, 900_000)
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        message = "d" * size
        frame = attacker.encoder.message(message)
        costs = Costs(program)
        attacker.drip(frame)
        assert attacker.hear() == Message(message)
        grown = costs.memory()
        assert grown < 2 * size + MIB
        note(
            "one byte per segment",
            f"bytes one at a time, {version}: memory",
            grown / KIB,
            "KiB",
            "≤ 1024",
        )
        each = costs.cpu() / len(frame) * 1e6
        note(
            "one byte per segment",
            f"bytes one at a time, {version}: processor",
            each,
            "µs a byte",
            "",
        )


def test_more_than_a_message_may_have_in_fragments(program: Program) -> None:
    """Refused at the header of the fragment that is too much, not at its end."""
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = Costs(program)
        part = write_frame(Opcode.CONTINUATION, b"x" * (64 * KIB), False, KEY)
        attacker.sock.sendall(write_frame(Opcode.BINARY, b"x" * (64 * KIB), False, KEY))
        attacker.sock.sendall(part * 15 + raw(b"\x00\x81"))  # and no payload
        attacker.expect_close(1009)
        assert costs.memory() < 2 * MIB + MIB
