"""Floods: control frames, fragments, single bytes.

Each flood ends its own connection or is paused, and takes no memory.
"""

from __future__ import annotations

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.versions import by_name

from ..support.programs import Program
from ..support.raw_client import KEY, masked, more, raw, text
from .rig import BROWSER_VERSIONS, KIB, MIB, Attacker, ResourceUse, at_scale, note

PINGS = write_frame(Opcode.PING, b"p" * 125, key=KEY) * 500
PONGS = write_frame(Opcode.PONG, b"p" * 125, key=KEY) * 500
WITH_FRAGMENTS = [by_name(name) for name in ("RFC 6455", "hybi-07", "hybi-06", "hybi-03")]


def test_pings_from_peer_that_does_not_read_close_with_1008(program: Program) -> None:
    """The flood ends with close code 1008; later bytes of the peer are discarded."""
    with Attacker(program.address, receive_buffer=4 * KIB) as attacker:
        attacker.open()
        costs = ResourceUse(program)
        flooded = attacker.flood(PINGS, at_scale(6, 192) * MIB)
        grown = costs.memory()
        assert flooded.sent > len(PINGS)
        assert grown < MIB
        note(
            "ping floods", "pings of a peer that does not read: memory", grown / KIB, "KiB", "≤ 102"
        )


def test_pings_from_reading_peer_close_with_1008(program: Program) -> None:
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = ResourceUse(program)
        attacker.sock.sendall(PINGS * 3)
        for _ in range(1000):
            assert attacker.read_frame().opcode == Opcode.PONG
        attacker.expect_close(1008, "too many control frames")
        attacker.flood(PINGS, at_scale(2, 120) * MIB, reading=True)
        assert costs.memory() < MIB


def test_unsolicited_pongs_close_with_1008(program: Program) -> None:
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = ResourceUse(program)
        attacker.sock.sendall(PONGS * 3)
        attacker.expect_close(1008, "too many control frames")
        attacker.flood(PONGS, at_scale(2, 120) * MIB)
        assert costs.memory() < MIB


@pytest.mark.parametrize("version", [*BROWSER_VERSIONS, by_name("hybi-06")], ids=str)
def test_data_after_close_frame_is_discarded(program: Program, version: Version) -> None:
    """The data is discarded, and only until the close timeout."""
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        costs = ResourceUse(program)
        if version._has_close:
            attacker.sock.sendall(attacker.encoder.close(1000))
            assert isinstance(attacker.next_event(), Close)
        else:  # hixie-75 has no close frame; an invalid frame serves as well
            attacker.sock.sendall(b"\x80")
        more = attacker.encoder.message("x" * 100) * 100
        attacker.flood(more, at_scale(2, 120) * MIB)
        assert costs.memory() < MIB


@pytest.mark.parametrize("version", WITH_FRAGMENTS, ids=str)
@pytest.mark.parametrize("payload", [b"x", b""], ids=["one byte", "empty"])
def test_endless_fragments_close_with_1008(
    program: Program, version: Version, payload: bytes
) -> None:
    """An endless sequence of fragments is counted; beyond the limit the close code is 1008."""
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        first = attacker.encoder.frame(Opcode.TEXT, b"", False)
        each = attacker.encoder.frame(Opcode.CONTINUATION, payload, False)
        costs = ResourceUse(program)
        attacker.sock.sendall(first)
        # In plain Python a fragment costs microseconds; the limit is the same.
        count = at_scale(140_000 if version._is_native else 20_000, 300_000)
        attacker.flood(each * 1000, count * len(each), reading=True)
        grown = costs.memory()
        if version._is_native and not payload:
            assert attacker.next_event() == Close(1008, "message has too many empty fragments")
        elif version._is_native:
            assert attacker.next_event() == Close(1008, "message has too many fragments")
        assert grown < 2 * MIB
        kind = "empty" if not payload else "1-byte"
        note(
            "endless fragments",
            f"{kind} fragments, {version}: memory",
            grown / KIB,
            "KiB",
            "≤ 1024",
        )


def test_pings_between_fragments_are_answered(program: Program) -> None:
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


@pytest.mark.parametrize("version", BROWSER_VERSIONS, ids=str)
def test_message_in_one_byte_segments_is_echoed(program: Program, version: Version) -> None:
    """Every byte of the message arrives in a separate segment."""
    size = at_scale(6_000, 900_000)
    with Attacker(program.address) as attacker:
        attacker.open_as(version)
        message = "d" * size
        frame = attacker.encoder.message(message)
        costs = ResourceUse(program)
        attacker.drip(frame)
        assert attacker.next_event() == Message(message)
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


def test_fragments_beyond_max_message_size_are_rejected_at_the_header(program: Program) -> None:
    """The fragment over the limit is rejected at its header, before its payload."""
    with Attacker(program.address) as attacker:
        attacker.open()
        costs = ResourceUse(program)
        part = write_frame(Opcode.CONTINUATION, b"x" * (64 * KIB), False, KEY)
        attacker.sock.sendall(write_frame(Opcode.BINARY, b"x" * (64 * KIB), False, KEY))
        attacker.sock.sendall(part * 15 + raw(b"\x00\x81"))  # without a payload
        attacker.expect_close(1009)
        assert costs.memory() < 2 * MIB + MIB
