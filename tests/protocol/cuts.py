"""Arbitrary bytes, cut anywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from websocket_handler.protocol.frame import write_frame

KEYS = st.binary(min_size=4, max_size=4)


@st.composite
def garbage(draw: Any) -> bytes:
    """Invalid frames, or bytes that are no frames."""
    wire = bytearray()
    for _ in range(draw(st.integers(1, 6))):
        opcode = draw(st.sampled_from([0, 1, 2, 8, 9, 10]) | st.integers(0, 15))
        payload = draw(st.binary(max_size=40)) * draw(st.sampled_from([1, 1, 1, 4]))
        key = draw(KEYS) if draw(st.integers(0, 9)) else None
        wire += write_frame(opcode, payload, draw(st.booleans()), key)
        if draw(st.integers(0, 3)) == 0:
            wire[draw(st.integers(0, len(wire) - 1))] ^= draw(st.integers(1, 255))
    return bytes(wire)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(point % (len(data) + 1) for point in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


CUTS = st.lists(st.integers(0, 1 << 18), max_size=6)
