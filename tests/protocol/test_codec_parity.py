"""Hypothesis: messages survive any fragmentation and any cut, no bytes crash a codec, and the
Python and the native codec return the same events for the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_handler.protocol.assembly import Close, Event, Message, Ping, Pong
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.frame import Opcode, write_frame

from .cuts import CUTS, KEYS, cut, garbage
from .frames import DECODERS, Codec, Limits

SIZES = st.sampled_from([0, 1, 2, 125, 126, 127, 4000, 65535, 65536])
parity = settings(max_examples=150, deadline=None)


@st.composite
def messages(draw: Any) -> tuple[list[Event], bytes, bool]:
    """The events a peer intends, and their bytes in fragments; the last element is whether it
    masks."""
    masked = draw(st.booleans())
    events: list[Event] = []
    wire = b""

    def frame(opcode: int, payload: bytes, fin: bool = True) -> bytes:
        return write_frame(opcode, payload, fin, draw(KEYS) if masked else None)

    for _ in range(draw(st.integers(1, 4))):
        data: str | bytes = draw(st.text(max_size=40) | st.binary(max_size=40))
        if draw(st.booleans()):
            data = data[:1] * draw(SIZES)
        payload = data.encode() if isinstance(data, str) else data
        opcode: int = Opcode.TEXT if isinstance(data, str) else Opcode.BINARY
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        edges = [0, *cuts, len(payload)]
        for number, (begin, end) in enumerate(pairwise(edges)):
            last = number == len(edges) - 2
            wire += frame(opcode if number == 0 else Opcode.CONTINUATION, payload[begin:end], last)
            if draw(st.booleans()) and not last:
                body = draw(st.binary(max_size=125))
                ping = draw(st.booleans())
                events.append(Ping(body) if ping else Pong(body))
                wire += frame(Opcode.PING if ping else Opcode.PONG, body)
        events.append(Message(data))
    if draw(st.booleans()):
        events.append(Close(1000, "bye"))
        wire += frame(Opcode.CLOSE, b"\x03\xe8bye")
    return events, wire, masked


@pytest.mark.parametrize("new", DECODERS.values(), ids=DECODERS)
@parity
@given(stream=messages(), cuts=CUTS)
def test_messages_survive_any_fragmentation_and_any_cut(
    new: Callable[[Any, bool], Codec], stream: tuple[list[Event], bytes, bool], cuts: list[int]
) -> None:
    events, wire, masked = stream
    decoder = new(Limits(), masked)
    assert [event for part in cut(wire, cuts) for event in decoder.feed(part)] == events


@pytest.mark.parametrize("new", DECODERS.values(), ids=DECODERS)
@parity
@given(data=st.binary(max_size=300) | garbage(), masked=st.booleans())
def test_arbitrary_bytes_never_crash_or_hang_a_codec(
    new: Callable[[Any, bool], Codec], data: bytes, masked: bool
) -> None:
    decoder = new(Limits(), masked)
    events = [*decoder.feed(data), *decoder.feed(b"")]
    endings = [i for i, event in enumerate(events) if isinstance(event, Violation | Close)]
    assert endings in ([], [len(events) - 1])


@pytest.mark.skipif("native" not in DECODERS, reason="there is one codec only")
@settings(max_examples=400, deadline=None)
@given(
    data=garbage() | messages().map(lambda stream: stream[1]) | st.binary(max_size=100),
    cuts=CUTS,
    masked=st.sampled_from([True, True, True, False]),
    limits=st.builds(
        Limits,
        max_message_size=st.sampled_from([5, 130, 1 << 20]),
        max_fragments=st.sampled_from([1, 2, 3, 1000]),
        max_empty_fragments=st.sampled_from([0, 1, 100]),
    ),
    straight=st.lists(st.integers(0, 1 << 17), max_size=3),
)
def test_both_codecs_return_the_same_events_for_the_same_bytes(
    data: bytes, cuts: list[int], masked: bool, limits: Limits, straight: list[int]
) -> None:
    from websocket_handler.engine.codec import Decoder

    python, native = DECODERS["python"](limits, masked), Decoder(limits, masked)
    for number, part in enumerate(cut(data, cuts)):
        expected = python.feed(part)
        events: list[Event] = []
        if number < len(straight):  # some bytes go directly into the message, as large reads do
            taken, events = native.receive_into(part[: straight[number]])
            part = part[taken:]
        assert [*events, *native.feed(part)] == expected


@parity
@given(payload=st.binary(max_size=60))
def test_invalid_utf_8_is_rejected_where_python_rejects_it(payload: bytes) -> None:
    frame = write_frame(Opcode.TEXT, payload, key=b"abcd")
    for new in DECODERS.values():
        (event,) = new(Limits(), True).feed(frame)
        try:
            assert event == Message(payload.decode())
        except UnicodeDecodeError:
            assert event == Violation(1007, "text is not valid UTF-8")
