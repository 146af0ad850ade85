"""Attacks through permessage-deflate: bombs, retained contexts, malformed messages."""

from __future__ import annotations

import contextlib
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from websocket_handler.protocol.frame import RSV1, Opcode

from ..support.compression import compressed, deflated, open_raw, read_frame
from ..support.programs import Program
from ..support.raw_client import Frame, RawClient, masked
from .rig import KIB, MIB, ResourceUse, at_scale, note, settled_memory


def peak(program: Program) -> int:
    """Returns the peak of resident memory in bytes since `forget_peak`."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) << 10


def forget_peak(program: Program) -> int:
    """Reset the peak; returns the current value."""
    Path(f"/proc/{program.pid}/clear_refs").write_text("5")
    return peak(program)


def stored_blocks(count: int) -> bytes:
    """Empty deflate blocks of five bytes each."""
    return b"\x00\x00\x00\xff\xff" * count


BOMBS: dict[str, Callable[[], list[Frame]]] = {
    "zeros": lambda: [Frame(Opcode.BINARY | RSV1, deflated(bytes(at_scale(32, 512) * MIB)))],
    "in fragments": lambda: in_fragments(deflated(bytes(at_scale(32, 512) * MIB)), 1000),
    "empty blocks": lambda: [Frame(Opcode.BINARY | RSV1, stored_blocks(200_000))],
    "one byte over": lambda: [Frame(Opcode.BINARY | RSV1, deflated(bytes(MIB + 1)))],
}


def in_fragments(payload: bytes, size: int) -> list[Frame]:
    parts = [payload[i : i + size] for i in range(0, len(payload), size)]
    first, *others = parts
    frames = [Frame(Opcode.BINARY | RSV1, first, False)]
    frames += [Frame(Opcode.CONTINUATION, part, False) for part in others]
    return [*frames, Frame(Opcode.CONTINUATION, b"")]


@pytest.mark.parametrize("bomb", BOMBS)
def test_decompression_bomb_memory_is_bounded_by_message_limit(program: Program, bomb: str) -> None:
    """Memory stays within the message limit, however much the data would inflate to."""
    wire = masked(*BOMBS[bomb]())
    before = forget_peak(program)
    with open_raw(program) as client:
        costs = ResourceUse(program)
        with contextlib.suppress(ConnectionError):
            client.sock.sendall(wire)
        if bomb == "empty blocks":
            read_frame(client)  # the data inflates to nothing: an empty message, or the end
        else:
            client.expect_close(1009)
        cpu = costs.cpu()
    over = peak(program) - before
    assert over < 3 * MIB  # the limit of one message, and the copy of the engine in plain Python
    name = f"bomb, {bomb}, {len(wire)} bytes"
    note("bombs", f"{name}: peak memory over the limit", (over - MIB) / MIB, "MiB", "≤ 0.5")
    note("bombs", f"{name}: processor", cpu * 1000, "ms", "≤ 5")


def test_idle_connections_keep_no_compression_context(program: Program) -> None:
    """Each connection has sent one compressed message and is idle now."""
    count = at_scale(100, 5000)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(open_raw(program))
        before = settled_memory(program)
        for _ in range(count):
            client = stack.enter_context(open_raw(program))
            client.send(compressed("x" * 1000))
            read_frame(client)
        each = (settled_memory(program) - before) / count
        assert each < 24 * KIB
        note(
            "compression, idle",
            "compression negotiated, 1 KiB echoed, idle: memory",
            each / KIB,
            "KiB",
            "≤ 16",
        )


def test_closed_compressed_connections_leave_nothing(program: Program) -> None:
    def come_and_go() -> None:
        with open_raw(program) as client:
            client.send(compressed("x" * 5000))
            read_frame(client)

    for _ in range(30):
        come_and_go()
    costs = ResourceUse(program)
    for _ in range(at_scale(100, 100_000)):
        come_and_go()
    assert costs.memory() < MIB


MALFORMED_MESSAGES = {
    "RSV1 on a continuation": (
        [Frame(Opcode.TEXT | RSV1, b"", False), Frame(Opcode.CONTINUATION | RSV1, b"x")],
        1002,
    ),
    "RSV1 on a ping": ([Frame(Opcode.PING | RSV1, b"")], 1002),
    "garbage": ([Frame(Opcode.BINARY | RSV1, b"\xff" * 100)], 1002),
    "a distance too far": ([Frame(Opcode.BINARY | RSV1, b"\x4b\x84\x02\x00\xf0\x30")], 1002),
    "text that is none": ([Frame(Opcode.TEXT | RSV1, deflated(b"\xff\xfe"))], 1007),
}


@pytest.mark.parametrize("name", MALFORMED_MESSAGES)
def test_malformed_compressed_message_closes_with_its_code(program: Program, name: str) -> None:
    frames, code = MALFORMED_MESSAGES[name]
    with open_raw(program) as client:
        client.sock.sendall(masked(*frames))
        opcode, payload, _ = client.read_frame()
        assert opcode == Opcode.CLOSE
        assert int.from_bytes(payload[:2], "big") in (code, 1007)


def test_window_larger_than_negotiated_is_harmless(program: Program) -> None:
    """The peer uses 15 bits after 9 were negotiated: the connection ends or the message is read."""
    with RawClient(program.address) as client:
        offer = "permessage-deflate; client_max_window_bits=9"
        headers: dict[str, str | None] = {"Sec-WebSocket-Extensions": offer}
        client.sock.sendall(client.handshake("/echo?compression=true", headers))
        client.expect_opened()
        stream = zlib.compressobj(9, zlib.DEFLATED, -15)
        text = bytes(range(33, 127)) * 30 + bytes(range(33, 127))
        data = stream.compress(text * 3) + stream.flush(zlib.Z_SYNC_FLUSH)
        client.send(Frame(Opcode.TEXT | RSV1, data[:-4]))
        _, frame = read_frame(client)
        assert frame.opcode in (Opcode.TEXT, Opcode.CLOSE)
