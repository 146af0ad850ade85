"""Hypothesis: compressed messages survive any cut, and both codecs return the same events for the
same bytes, valid or not."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_handler.protocol.assembly import Close, Event, Message, Ping
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.deflate import TAIL
from websocket_handler.protocol.frame import RSV1, Opcode, write_frame

from .cuts import CUTS, KEYS, cut, garbage
from .frames import INFLATING, Codec, Limits

NewDecoder = Callable[[Any, bool, int, bool], Codec]
FLUSHES = [zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH]
STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]
WORDS = st.sampled_from([b"a", b"hello ", b"\xff\x00", b"0123456789" * 30, bytes(5000)])


def new_stream(draw: Any) -> Any:
    level, strategy = draw(st.integers(0, 9)), draw(st.sampled_from(STRATEGIES))
    return zlib.compressobj(level, zlib.DEFLATED, -15, draw(st.integers(1, 9)), strategy)


@st.composite
def streams(draw: Any) -> tuple[list[Event], bytes, bool]:
    """Messages as another implementation might compress them, and their bytes in fragments; the
    last element is whether the context was kept."""
    takeover = draw(st.booleans())
    events: list[Event] = []
    wire = bytearray()
    stream = new_stream(draw)
    for _ in range(draw(st.integers(1, 5))):
        pieces = draw(st.lists(WORDS | st.binary(max_size=40), max_size=4))
        data = b"".join(pieces)
        if not takeover:
            stream = new_stream(draw)
        payload = b""
        for piece in pieces:
            payload += stream.compress(piece)
            if draw(st.booleans()):
                payload += stream.flush(draw(st.sampled_from(FLUSHES)))
        if draw(st.integers(0, 4)) == 0:  # a final block, after which the context is lost
            payload += stream.flush(zlib.Z_FINISH) + draw(st.sampled_from([b"", b"\x00"]))
            stream = new_stream(draw)
        else:
            payload += stream.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(TAIL)
        events += send(draw, wire, data, payload)
    return events, bytes(wire), takeover


def send(draw: Any, wire: bytearray, data: bytes, payload: bytes) -> list[Event]:
    """Append a message in fragments, compressed or plain, with pings between them."""
    opcode, events = Opcode.BINARY | RSV1, []
    try:
        message = Message(data.decode())
        opcode = Opcode.TEXT | RSV1
    except UnicodeDecodeError:
        message = Message(data)
    edges = [0, *sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3))), len(payload)]
    for number, (begin, end) in enumerate(pairwise(edges)):
        last = number == len(edges) - 2
        first = opcode if number == 0 else Opcode.CONTINUATION
        wire += write_frame(first, payload[begin:end], last, draw(KEYS))
        if not last and draw(st.booleans()):
            wire += write_frame(Opcode.PING, b"ping", key=draw(KEYS))
            events.append(Ping(b"ping"))
    if draw(st.integers(0, 3)) == 0:
        wire += write_frame(opcode & ~RSV1, data, key=draw(KEYS))
        return [*events, message, message]
    return [*events, message]


@pytest.mark.parametrize("new", INFLATING.values(), ids=INFLATING)
@settings(max_examples=100, deadline=None)
@given(stream=streams(), cuts=CUTS)
def test_compressed_messages_survive_any_cut(
    new: NewDecoder, stream: tuple[list[Event], bytes, bool], cuts: list[int]
) -> None:
    events, wire, takeover = stream
    decoder = new(Limits(), True, 15, takeover)
    assert [event for part in cut(wire, cuts) for event in decoder.feed(part)] == events


@st.composite
def damaged(draw: Any) -> bytes:
    wire = bytearray(draw(streams())[1])
    for _ in range(draw(st.integers(0, 3))):
        wire[draw(st.integers(0, len(wire) - 1))] ^= draw(st.integers(1, 255))
    return bytes(wire[: len(wire) - draw(st.integers(0, 3))])


@st.composite
def garbage_deflated(draw: Any) -> bytes:
    """Valid frames around any payload."""
    wire = b""
    for _ in range(draw(st.integers(1, 5))):
        payload = draw(st.binary(max_size=30)) + draw(st.sampled_from([b"", b"\x00", TAIL]))
        wire += write_frame(draw(st.sampled_from([0x41, 0x42])), payload, key=b"abcd")
    return wire


@pytest.mark.skipif("native" not in INFLATING, reason="there is one codec only")
@settings(max_examples=200, deadline=None)
@given(
    data=damaged() | garbage_deflated() | garbage(),
    cuts=CUTS,
    limits=st.builds(
        Limits,
        max_message_size=st.sampled_from([0, 5, 130, 511, 5000, 1 << 20]),
        max_fragments=st.sampled_from([1, 2, 1000]),
        max_empty_fragments=st.sampled_from([0, 100]),
    ),
    takeover=st.booleans(),
)
def test_both_codecs_return_the_same_events_for_compressed_bytes(
    data: bytes, cuts: list[int], limits: Limits, takeover: bool
) -> None:
    python, native = (INFLATING[name](limits, True, 15, takeover) for name in ("python", "native"))
    for part in cut(data, cuts):
        expected = python.feed(part)
        assert native.feed(part) == expected


@pytest.mark.parametrize("new", INFLATING.values(), ids=INFLATING)
@settings(max_examples=100, deadline=None)
@given(data=damaged() | garbage_deflated(), window_bits=st.integers(8, 15))
def test_arbitrary_compressed_bytes_never_crash_or_hang_a_codec(
    new: NewDecoder, data: bytes, window_bits: int
) -> None:
    decoder = new(Limits(), True, window_bits, True)
    events = [*decoder.feed(data), *decoder.feed(b"")]
    endings = [i for i, event in enumerate(events) if isinstance(event, Violation | Close)]
    assert endings in ([], [len(events) - 1])
