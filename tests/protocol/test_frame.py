"""The frame header and masking: RFC 6455 sections 5.2, 5.3 and 5.7, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import IS_NATIVE
from websocket_handler.protocol.frame import FrameStart, apply_mask, write_frame

from .frames import BINARY, CLOSE, CONT, KEY, PING, PONG, TEXT

WRITERS = [write_frame]
if IS_NATIVE:
    from websocket_handler.engine.codec import write_frame as native_write_frame

    WRITERS.append(native_write_frame)

EXAMPLES = [
    ("810548656c6c6f", TEXT, b"Hello", True, None),
    ("818537fa213d7f9f4d5158", TEXT, b"Hello", True, KEY),
    ("010348656c", TEXT, b"Hel", False, None),
    ("80026c6f", CONT, b"lo", True, None),
    ("890548656c6c6f", PING, b"Hello", True, None),
    ("8a8537fa213d7f9f4d5158", PONG, b"Hello", True, KEY),
    ("880203e8", CLOSE, b"\x03\xe8", True, None),
    ("888237fa213d3412", CLOSE, b"\x03\xe8", True, KEY),
    ("8200", BINARY, b"", True, None),
    ("8280" + KEY.hex(), BINARY, b"", True, KEY),
    ("827e0100" + "61" * 256, BINARY, b"a" * 256, True, None),
    ("827f0000000000010000" + "61" * 65536, BINARY, b"a" * 65536, True, None),
]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("wire", "opcode", "payload", "fin", "key"), EXAMPLES)
def test_rfc_frame_examples_are_written(
    write: object, wire: str, opcode: int, payload: bytes, fin: bool, key: bytes | None
) -> None:
    assert write(opcode, payload, fin, key).hex() == wire  # type: ignore[operator]


@pytest.mark.parametrize(
    ("size", "header_size"), [(0, 2), (125, 2), (126, 4), (65535, 4), (65536, 10)]
)
@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("write", WRITERS)
def test_shortest_length_form_is_written(
    write: object, size: int, header_size: int, key: bytes | None
) -> None:
    frame: bytes = write(BINARY, bytes(size), True, key)  # type: ignore[operator]
    start = FrameStart.read(frame[0], frame[1])
    assert len(frame) - size == header_size + (4 if key else 0) == start.header_size
    assert start.payload_length(frame) == size


@given(
    payload=st.binary(max_size=70), key=st.binary(min_size=4, max_size=4), cut=st.integers(0, 70)
)
def test_masking_twice_or_in_pieces_gives_the_same_bytes(
    payload: bytes, key: bytes, cut: int
) -> None:
    masked = apply_mask(payload, key)
    assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))
    pieces = apply_mask(masked[:cut], key) + apply_mask(masked[cut:], key, position=cut)
    assert pieces == payload


@pytest.mark.skipif(len(WRITERS) == 1, reason="there is one codec only")
@given(
    opcode=st.sampled_from([CONT, TEXT, BINARY, CLOSE, PING, PONG]),
    payload=st.binary(max_size=200),
    fin=st.booleans(),
    key=st.none() | st.binary(min_size=4, max_size=4),
)
def test_native_frame_functions_return_the_same_bytes(
    opcode: int, payload: bytes, fin: bool, key: bytes | None
) -> None:
    assert WRITERS[1](opcode, payload, fin, key) == write_frame(opcode, payload, fin, key)
