"""Decoding valid and invalid frames; every test runs with both codecs."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from websocket_handler.protocol import check
from websocket_handler.protocol.assembly import Close, Event, Message, Ping, Pong
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.frame import write_frame

from .frames import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    PONG,
    TEXT,
    Codec,
    byte_by_byte,
    client_frame,
)

NewDecoder = Callable[..., Codec]

INVALID_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
VALID_CODES = (1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999)

# Draft examples of hybi-13..17 and RFC 6455: the bytes from a client, and their events.
EXAMPLES: list[tuple[str, list[Event]]] = [
    ("818537fa213d7f9f4d5158", [Message("Hello")]),
    ("898537fa213d7f9f4d5158", [Ping(b"Hello")]),
    ("8a8537fa213d7f9f4d5158", [Pong(b"Hello")]),
    ("888237fa213d3412", [Close(1000, "")]),
    ("888037fa213d", [Close(1005, "")]),
    ("018337fa213d7f9f4d8082000001006c6f", [Message("Hello")]),
    ("818037fa213d", [Message("")]),
    ("828037fa213d", [Message(b"")]),
]


@pytest.mark.parametrize(("wire", "events"), EXAMPLES)
def test_rfc_examples_are_decoded(new_decoder: NewDecoder, wire: str, events: list[Event]) -> None:
    data = bytes.fromhex(wire)
    assert new_decoder().feed(data) == events
    assert byte_by_byte(new_decoder(), data) == (events, [len(data)])


def test_client_reads_unmasked_frames(new_decoder: NewDecoder) -> None:
    assert new_decoder(expect_masked=False).feed(bytes.fromhex("810548656c6c6f")) == [
        Message("Hello")
    ]


def test_control_frames_between_fragments_are_read(new_decoder: NewDecoder) -> None:
    data = (
        client_frame(TEXT, b"a", fin=False)
        + client_frame(PING, b"?")
        + client_frame(CONT, b"", fin=False)
        + client_frame(PONG, b"!")
        + client_frame(CONT, b"b")
        + client_frame(BINARY, b"c")
    )
    assert new_decoder().feed(data) == [Ping(b"?"), Pong(b"!"), Message("ab"), Message(b"c")]


# The broken rule, the frames that break it, and the byte at which it is detectable.
BROKEN: list[tuple[Violation, bytes, int]] = [
    *((check.RESERVED_BIT, bytes((0x81 | bit, 0x80)) + KEY, 2) for bit in (0x40, 0x20, 0x10)),
    *((check.RESERVED_OPCODE, bytes((0x80 | code, 0x80)), 2) for code in (3, 4, 5, 6, 7)),
    *((check.RESERVED_OPCODE, bytes((0x80 | code, 0x80)), 2) for code in range(11, 16)),
    (check.NOT_MASKED, write_frame(TEXT, b"Hello"), 2),
    (check.FRAGMENTED_CONTROL, client_frame(PING, fin=False), 2),
    (check.FRAGMENTED_CONTROL, client_frame(CLOSE, fin=False), 2),
    (check.LONG_CONTROL, client_frame(PING, bytes(126)), 2),
    (check.LONG_CONTROL, client_frame(PONG, bytes(70000)), 2),
    (check.STRAY_CONTINUATION, client_frame(CONT, b"x"), 2),
    (check.INTERLEAVED_MESSAGE, client_frame(TEXT, b"", fin=False) + client_frame(BINARY), 8),
    (check.NEGATIVE_LENGTH, b"\x82\xff" + struct.pack(">Q", 1 << 63), 14),
    (check.NEGATIVE_LENGTH, b"\x82\xff" + struct.pack(">Q", (1 << 64) - 1), 14),
    (check.LONG_LENGTH_FORM, b"\x82\xfe" + struct.pack(">H", 125), 8),
    (check.LONG_LENGTH_FORM, b"\x82\xff" + struct.pack(">Q", 65535), 14),
    *(
        (check.TOO_BIG, b"\x82\xff" + struct.pack(">Q", length), 14)
        for length in ((1 << 20) + 1, 1 << 31, (1 << 32) - 1, 1 << 53, 1 << 62, (1 << 63) - 1)
    ),
    *(
        (check.TOO_BIG, client_frame(BINARY, b"x", fin=False) + b"\x80\xff" + length, 7 + 14)
        for length in (struct.pack(">Q", 1 << 20), struct.pack(">Q", (1 << 63) - 1))
    ),
    (check.SHORT_CLOSE, client_frame(CLOSE, b"\x03"), 7),
    (check.INVALID_REASON, client_frame(CLOSE, b"\x03\xe8\xff"), 9),
    (check.INVALID_REASON, client_frame(CLOSE, b"\x03\xe8\xe2\x82"), 10),
    *((check.INVALID_CODE, client_frame(CLOSE, struct.pack(">H", c)), 8) for c in INVALID_CODES),
]


@pytest.mark.parametrize(("violation", "data", "known_after"), BROKEN)
def test_violation_is_detected_at_the_earliest_byte(
    new_decoder: NewDecoder, violation: Violation, data: bytes, known_after: int
) -> None:
    # The length is known only with the whole header, which includes the masking key.
    padded = data + KEY + b"\0" * 20
    assert byte_by_byte(new_decoder(), padded) == ([violation], [known_after])
    assert new_decoder().feed(padded) == [violation]


def test_client_rejects_masked_frames(new_decoder: NewDecoder) -> None:
    assert new_decoder(expect_masked=False).feed(client_frame(TEXT)) == [check.MASKED]


@pytest.mark.parametrize("code", VALID_CODES)
def test_valid_close_codes_are_accepted(new_decoder: NewDecoder, code: int) -> None:
    frame = client_frame(CLOSE, struct.pack(">H", code) + "grüß".encode())
    assert new_decoder().feed(frame) == [Close(code, "grüß")]


@pytest.mark.parametrize("last", [client_frame(CLOSE), b"\xff\xff"])
def test_bytes_after_the_end_are_not_read(new_decoder: NewDecoder, last: bytes) -> None:
    decoder = new_decoder()
    assert len(decoder.feed(last + client_frame(TEXT, b"more"))) == 1
    assert decoder.feed(client_frame(TEXT, b"and more")) == []


def test_message_size_is_limited_over_its_fragments(new_decoder: NewDecoder) -> None:
    decoder = new_decoder(max_message_size=10)
    assert decoder.feed(client_frame(BINARY, bytes(10))) == [Message(bytes(10))]
    assert decoder.feed(client_frame(BINARY, bytes(6), fin=False)) == []
    assert decoder.feed(client_frame(CONT, bytes(4), fin=False)) == []
    assert decoder.feed(client_frame(CONT, bytes(1))[:6]) == [check.TOO_BIG]


def test_fragments_beyond_the_limit_are_rejected(new_decoder: NewDecoder) -> None:
    decoder = new_decoder(max_fragments=3)
    three = client_frame(TEXT, b"a", fin=False) + client_frame(CONT, b"b", fin=False)
    assert decoder.feed(three + client_frame(CONT, b"c")) == [Message("abc")]
    assert decoder.feed(three + client_frame(CONT, b"c", fin=False)) == []
    assert decoder.feed(client_frame(CONT, b"d")) == [check.TOO_MANY_FRAGMENTS]


def test_empty_fragments_beyond_the_limit_are_rejected(new_decoder: NewDecoder) -> None:
    decoder = new_decoder(max_empty_fragments=2)
    two = client_frame(TEXT, fin=False) + client_frame(CONT, fin=False)
    assert decoder.feed(two + client_frame(CONT)) == [Message("")]
    assert decoder.feed(two + client_frame(CONT, fin=False)) == [check.TOO_MANY_EMPTY]


VALID_TEXTS = [
    *("", "a", "κόσμε", "\x00", "\x7f\x80", "\u07ff\u0800", "\ud7ff\ue000"),
    *("\uffff\U00010000", "\U0010ffff", "a€\U0001f600" * 50),
]

# Invalid UTF-8, and the number of bytes after which it is detectable.
INVALID_TEXTS = [
    ("80", 1), ("bf", 1), ("c0af", 1), ("c1bf", 1), ("c27f", 2), ("e09f80", 2), ("eda080", 2),
    ("edbfbf", 2), ("f08f8080", 2), ("f4908080", 2), ("f5808080", 1), ("fe", 1), ("ff", 1),
    ("e28241", 3), ("f09f9841", 4), ("c3c3", 2), ("ceba e1bdb9 cf83 ceb5 eda080 6564", 11),
]  # fmt: skip


@pytest.mark.parametrize("text", VALID_TEXTS)
def test_valid_text_cut_at_every_byte_is_read(new_decoder: NewDecoder, text: str) -> None:
    data = text.encode()
    for cut in range(len(data) + 1):
        frames = client_frame(TEXT, data[:cut], fin=False) + client_frame(CONT, data[cut:])
        assert new_decoder().feed(frames) == [Message(text)]
    assert byte_by_byte(new_decoder(), client_frame(TEXT, data))[0] == [Message(text)]


@pytest.mark.parametrize(("wire", "known_after"), INVALID_TEXTS)
def test_invalid_text_fails_at_its_first_bad_byte(
    new_decoder: NewDecoder, wire: str, known_after: int
) -> None:
    data = bytes.fromhex(wire)
    unfinished = client_frame(TEXT, data + b"more", fin=False)
    assert byte_by_byte(new_decoder(), unfinished) == ([check.INVALID_TEXT], [6 + known_after])
    fragments = b"".join(
        client_frame(TEXT if i == 0 else CONT, data[i : i + 1], fin=False) for i in range(len(data))
    )
    assert byte_by_byte(new_decoder(), fragments) == ([check.INVALID_TEXT], [7 * known_after])


@pytest.mark.parametrize("wire", ["c3", "e282", "f09f98"])
def test_text_ending_inside_a_character_is_rejected(new_decoder: NewDecoder, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert new_decoder().feed(client_frame(TEXT, data)) == [check.INVALID_TEXT]
    split = client_frame(TEXT, data, fin=False) + client_frame(CONT)
    assert new_decoder().feed(split) == [check.INVALID_TEXT]


@pytest.mark.parametrize("size", [125, 126, 127, 65535, 65536, 70000])
def test_every_length_form_is_decoded(new_decoder: NewDecoder, size: int) -> None:
    data = bytes(i * 7 & 255 for i in range(size))
    assert new_decoder().feed(client_frame(BINARY, data)) == [Message(data)]
