"""Hostile frame lengths: too large, negative, endless, or announced without data."""

from __future__ import annotations

import contextlib
import time

import pytest

from websocket_handler import Version
from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import by_name

from ..support.programs import Program, wait_for
from ..support.raw_client import masked, raw, text
from .rig import KIB, MIB, Attacker, ResourceUse, at_scale, note, settled_memory

LENGTHS = {
    2**20 + 1: 1009,
    2**31 - 1: 1009,
    2**31: 1009,
    2**32 - 1: 1009,
    2**53: 1009,
    2**62: 1009,
    2**63 - 8: 1009,
    2**63 - 1: 1009,
    2**63: 1002,
    2**64 - 1: 1002,
}


@pytest.mark.parametrize("behind", [b"", masked(text("sixteen bytes ..", fin=False))], ids=len)
@pytest.mark.parametrize("name", ["RFC 6455", "hybi-12", "hybi-07"])
def test_bad_64_bit_length_closes_the_connection(
    program: Program, name: str, behind: bytes
) -> None:
    """Also in a continuation frame, where the length is added to earlier fragments."""
    costs, slowest, version = ResourceUse(program), 0.0, by_name(name)
    for length, code in LENGTHS.items():
        with Attacker(program.address) as attacker:
            attacker.open_as(version)
            opcode = b"\x80" if behind else b"\x82"
            begun = time.monotonic()
            attacker.sock.sendall(behind + raw(opcode + b"\xff" + length.to_bytes(8, "big")))
            close = attacker.next_event()
            slowest = max(slowest, time.monotonic() - begun)
            assert isinstance(close, Close)
            assert close.code == dict(version._close_codes).get(code, code), length
    assert costs.memory() < MIB
    note(
        "hostile lengths",
        f"lengths of 64 bits, {name}: refused within",
        slowest * 1000,
        "ms",
        "< 100",
    )


@pytest.mark.parametrize("name", ["hybi-03", "hybi-04", "hybi-05", "hybi-06"])
def test_bad_64_bit_length_in_older_versions_closes_the_connection(
    program: Program, name: str
) -> None:
    version = by_name(name)
    for length in LENGTHS:
        with Attacker(program.address) as attacker:
            attacker.open_as(version)
            header = attacker.encoder.frame(Opcode.TEXT, b"x" * 70_000)[: 4 + 10]
            honest = (70_000).to_bytes(8, "big")
            keyed = version.number is not None  # masked with the bytes before the frame
            at = 6 if keyed else 2
            wrong = bytes(
                byte ^ true ^ false
                for byte, true, false in zip(
                    header[at : at + 8], honest, length.to_bytes(8, "big"), strict=True
                )
            )
            attacker.sock.sendall(header[:at] + wrong)
            assert isinstance(attacker.next_event(), Close), length


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_endless_length_in_hixie_is_never_summed(program: Program, name: str) -> None:
    """These versions send no frames with a length; an endless length is rejected without adding it
    up."""
    with Attacker(program.address) as attacker:
        attacker.open_as(by_name(name))
        costs = ResourceUse(program)
        attacker.sock.sendall(b"\xff" + b"\x80" * 10)
        wait_for(lambda: _is_closing(attacker), "the end of a length without end")
        attacker.flood(b"\x80" * 1000, at_scale(1, 8) * MIB)
        assert costs.memory() < MIB


@pytest.mark.parametrize("name", ["hixie-75", "hixie-76"])
def test_endless_text_in_hixie_is_bounded(program: Program, name: str) -> None:
    """At most the bytes of one message are kept."""
    with Attacker(program.address) as attacker:
        attacker.open_as(by_name(name))
        costs = ResourceUse(program)
        attacker.sock.sendall(b"\x00")
        flooded = attacker.flood(b"x" * 1000, 10 * MIB, reading=True)
        assert flooded.sent > MIB
        wait_for(lambda: _is_closing(attacker), "the end of a text without end")
        assert costs.memory() < 3 * MIB


def _is_closing(attacker: Attacker) -> bool:
    """Returns whether the server has sent the closing handshake of the version."""
    attacker.sock.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        data = attacker._unread or attacker.sock.recv(100)
        return not data or bytes(data).startswith(b"\xff\x00")
    return False


@pytest.mark.parametrize("version", [by_name("RFC 6455"), by_name("hixie-76")], ids=str)
def test_announced_length_takes_no_memory(program: Program, version: Version) -> None:
    """Many unfinished messages of one megabyte each."""
    count = at_scale(200, 10_000)
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Attacker(program.address)) for _ in range(count)]
        for attacker in attackers:
            attacker.open_as(version).send_message("x")
            assert attacker.next_event() == Message("x")
        before = settled_memory(program)
        for attacker in attackers:
            begun = attacker.encoder.message("x" * MIB)
            attacker.sock.sendall(begun[:17])
        attackers[-1].sock.sendall(b"xxx")
        each = (settled_memory(program) - before) / count
        assert each < 4 * KIB
        note(
            "hostile lengths",
            f"a message announced, {version}: memory",
            each / KIB,
            "KiB each",
            "≤ 1",
        )
