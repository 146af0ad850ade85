"""Compressed messages (RFC 7692 section 7.2): examples, invalid streams, bombs, round trips."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_handler.protocol import check
from websocket_handler.protocol.assembly import Message, Ping
from websocket_handler.protocol.deflate import TAIL, Deflater, Inflater
from websocket_handler.protocol.frame import RSV1
from websocket_handler.protocol.message import Decoder, Encoder

from .frames import BINARY, CLOSE, CONT, PING, TEXT, Codec, Limits, byte_by_byte, client_frame

NewDecoder = Callable[..., Codec]

HELLO = bytes.fromhex("f248cdc9c90700")
HELLO_AGAIN = bytes.fromhex("f200110000")
WINDOWS = range(8, 16)


def deflated(data: bytes, level: int = 6, window_bits: int = 15) -> bytes:
    stream = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def compressed(payload: bytes, opcode: int = BINARY, fin: bool = True) -> bytes:
    return client_frame(opcode | RSV1, payload, fin)


# The examples of section 7.2.3

EXAMPLES = {
    "7.2.3.1": "f248cdc9c90700",
    "7.2.3.3, a block without compression": "000500faff48656c6c6f00",
    "7.2.3.4, a block with BFINAL": "f348cdc9c9070000",
    "7.2.3.5, two blocks": "f248050000 00ffffcac9c90700",
}


@pytest.mark.parametrize("payload", EXAMPLES.values(), ids=EXAMPLES)
@pytest.mark.parametrize("takeover", [True, False])
def test_rfc_examples_are_decompressed(
    new_inflating_decoder: NewDecoder, payload: str, takeover: bool
) -> None:
    wire = compressed(bytes.fromhex(payload), TEXT)
    decoder = new_inflating_decoder(takeover)
    assert decoder.feed(wire + wire) == [Message("Hello")] * 2
    assert byte_by_byte(decoder, wire) == ([Message("Hello")], [len(wire)])


def test_rfc_example_in_fragments_is_decompressed(new_inflating_decoder: NewDecoder) -> None:
    first = compressed(HELLO[:3], TEXT, fin=False)
    rest = client_frame(CONT, HELLO[3:])
    decoder = new_inflating_decoder()
    assert decoder.feed(first + client_frame(PING, b"now") + rest) == [
        Ping(b"now"),
        Message("Hello"),
    ]


def test_rfc_example_with_shared_window_is_decompressed(new_inflating_decoder: NewDecoder) -> None:
    wire = compressed(HELLO, TEXT) + compressed(HELLO_AGAIN, TEXT)
    assert new_inflating_decoder().feed(wire) == [Message("Hello")] * 2
    alone = new_inflating_decoder(takeover=False).feed(wire)
    assert alone == [Message("Hello"), check.INVALID_DEFLATE]


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x02\x00"])
def test_empty_compressed_message_is_read(
    new_inflating_decoder: NewDecoder, payload: bytes
) -> None:
    """7.2.3.6 sends a block of one byte; some peers send nothing at all."""
    decoder = new_inflating_decoder()
    assert decoder.feed(compressed(payload, TEXT)) == [Message("")]
    fragments = compressed(HELLO, TEXT, fin=False) + client_frame(CONT, b"")
    assert decoder.feed(fragments) == [Message("Hello")]
    assert decoder.feed(compressed(payload)) == [Message(b"")]
    assert decoder.feed(compressed(HELLO_AGAIN)) == [Message(b"Hello")]


def test_rfc_example_is_produced_by_server_and_client() -> None:
    server = Encoder(mask=False, deflater=Deflater(15, True, 6, 8, 0))
    payload = deflated(b"Hello" * 3)
    assert server.message("Hello" * 3) == bytes((0xC1, len(payload))) + payload
    client = Encoder(True, lambda size: b"\x37\xfa\x21\x3d"[:size], Deflater(15, True, 6, 8, 0))
    decoder = Decoder(Limits(), True, Inflater(15, True))
    wire = client.message("Hello" * 3) + client.message("Hello" * 3)
    assert decoder.feed(wire) == [Message("Hello" * 3)] * 2


# Frames on which RSV1 is allowed


@pytest.mark.parametrize(
    ("frame", "violation"),
    [
        (client_frame(PING | RSV1, b"x"), check.MISPLACED_RSV1),
        (client_frame(CLOSE | RSV1, b""), check.MISPLACED_RSV1),
        (client_frame(CONT | RSV1, b"x"), check.MISPLACED_RSV1),
        (client_frame(TEXT | 0x20, b"x"), check.RESERVED_BIT),
        (client_frame(TEXT | 0x50, b"x"), check.RESERVED_BIT),
        (client_frame(3 | RSV1, b"x"), check.RESERVED_OPCODE),
    ],
)
def test_rsv1_is_allowed_only_on_the_first_frame(
    new_inflating_decoder: NewDecoder, frame: bytes, violation: check.Violation
) -> None:
    assert new_inflating_decoder().feed(frame) == [violation]
    begun = compressed(HELLO[:3], TEXT, fin=False)
    if violation is check.MISPLACED_RSV1:
        assert new_inflating_decoder().feed(begun + frame) == [violation]


def test_rsv1_without_negotiation_is_a_violation(new_decoder: NewDecoder) -> None:
    assert new_decoder().feed(compressed(HELLO, TEXT)) == [check.RESERVED_BIT]


def test_plain_messages_between_compressed_ones_are_read(new_inflating_decoder: NewDecoder) -> None:
    plain = client_frame(TEXT, b"plain")
    wire = compressed(HELLO, TEXT) + plain + compressed(HELLO_AGAIN, TEXT) + plain
    assert new_inflating_decoder().feed(wire) == [
        Message("Hello"),
        Message("plain"),
        Message("Hello"),
        Message("plain"),
    ]


# Limits


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 70_000, 300_000])
@pytest.mark.parametrize("level", [0, 1, 9])
def test_size_limit_applies_to_the_decompressed_message(
    new_inflating_decoder: NewDecoder, size: int, level: int
) -> None:
    data = b"x" * size
    wire = compressed(deflated(data, level))
    more = compressed(deflated(data + b"x", level))
    for takeover in (True, False):
        decoder = new_inflating_decoder(takeover, max_message_size=size)
        assert decoder.feed(wire) == [Message(data)]
        assert decoder.feed(wire) == [Message(data)]
        assert decoder.feed(more) == [check.TOO_BIG]


def test_bomb_is_stopped_at_the_size_limit(new_inflating_decoder: NewDecoder) -> None:
    """512 MiB in half a megabyte, as one frame and in fragments."""
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(512))
    bomb += stream.flush(zlib.Z_SYNC_FLUSH)
    assert new_inflating_decoder().feed(compressed(bomb)) == [check.TOO_BIG]
    decoder = new_inflating_decoder()
    events = decoder.feed(compressed(bomb[:500], fin=False))
    events += decoder.feed(client_frame(CONT, bomb[500:2000], fin=False))
    assert events == [check.TOO_BIG]


def test_empty_deflate_blocks_are_bounded_at_the_header(new_inflating_decoder: NewDecoder) -> None:
    limit = 80 + 80 // 8 + 64
    decoder = new_inflating_decoder(max_message_size=80)
    nothing = b"\x00\x00\x00\xff\xff" * 40
    assert decoder.feed(compressed(nothing[: limit - 4], fin=False)) == []
    assert decoder.feed(client_frame(CONT, nothing[-5:])[:2]) == []
    assert decoder.feed(client_frame(CONT, nothing[-5:])[2:6]) == [check.TOO_BIG]


def test_many_small_streams_in_one_message_are_decompressed(
    new_inflating_decoder: NewDecoder,
) -> None:
    """Each block with BFINAL ends a stream; the number of streams must not make decoding slow."""
    payload = bytes.fromhex("4b0400") * 40_000
    assert new_inflating_decoder().feed(compressed(payload)) == [Message(b"a" * 40_000)]


# Invalid streams


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xff\xff",  # a block of type 3
        b"\x00\x05\x00\xfa\xfeHello\x00",  # a length that does not match
        HELLO[:4],
        HELLO[:-1],
        deflated(b"x" * 1000 + b"y" * 1000)[:-3],
        HELLO + TAIL,  # the tail twice
        bytes.fromhex("f348cdc9c90700") + b"\x07",  # no second stream after the end of the first
        HELLO_AGAIN,  # refers to data before the start
    ],
)
@pytest.mark.parametrize("takeover", [True, False])
def test_invalid_deflate_stream_is_rejected(
    new_inflating_decoder: NewDecoder, payload: bytes, takeover: bool
) -> None:
    decoder = new_inflating_decoder(takeover)
    assert decoder.feed(compressed(payload)) == [check.INVALID_DEFLATE]
    _, after = byte_by_byte(new_inflating_decoder(takeover), compressed(payload))
    assert len(after) == 1


def test_text_is_validated_while_it_is_decompressed(new_inflating_decoder: NewDecoder) -> None:
    good = "\u20ac".encode()
    for cut in (1, 2, 3):
        first, rest = deflated(good[:cut]) + TAIL, deflated(good[cut:])
        wire = compressed(first, TEXT, fin=False) + client_frame(CONT, rest)
        assert new_inflating_decoder(False).feed(wire) == [Message("\u20ac")]
    wire = compressed(deflated(good[:2] + b"x") + TAIL, TEXT, fin=False)
    assert new_inflating_decoder().feed(wire) == [check.INVALID_TEXT]
    assert new_inflating_decoder().feed(compressed(deflated(good[:2]), TEXT)) == [
        check.INVALID_TEXT
    ]


# Compressing


@pytest.mark.parametrize("window_bits", WINDOWS)
@pytest.mark.parametrize("takeover", [True, False])
def test_window_never_exceeds_the_negotiated_size(window_bits: int, takeover: bool) -> None:
    """A decoder with exactly that window reads it, in steps too small to contain references."""
    deflater = Deflater(window_bits, takeover, 9, 9, 0)
    block = os.urandom(200)
    reader = zlib.decompressobj(-window_bits)
    for filling in (0, 40, 56, 57, 58, 300, 312, 1000, 4000, 32_500):
        data = (block + os.urandom(filling)[: filling // 8].ljust(filling)) * 3
        payload = deflater.deflate(data)
        assert payload is not None
        if not takeover:
            reader = zlib.decompressobj(-window_bits)
        output, rest = b"", payload + TAIL
        while rest:
            output += reader.decompress(rest, 50)
            rest = reader.unconsumed_tail
        while more := reader.decompress(b"", 50):
            output += more
        assert output == data


def test_incompressible_message_is_sent_uncompressed() -> None:
    noise, words = os.urandom(5000), b"some words, " * 100
    for takeover in (True, False):
        encoder = Encoder(False, deflater=Deflater(15, takeover, 1, 8, 0))
        decoder = Decoder(Limits(), False, Inflater(15, takeover))
        for data in (words, words, noise, words, b"", words, noise[:10]):
            wire = encoder.message(data)
            assert bool(wire[0] & RSV1) == (data is words)
            assert decoder.feed(wire) == [Message(data)]


def test_context_takeover_makes_the_second_message_smaller() -> None:
    data = os.urandom(300).hex().encode()
    with_context = Encoder(False, deflater=Deflater(15, True, 1, 8, 0))
    without = Encoder(False, deflater=Deflater(15, False, 1, 8, 0))
    assert len(with_context.message(data)) > 10 * len(with_context.message(data))
    assert without.message(data) == without.message(data)


@pytest.mark.parametrize(
    ("size", "compress", "is_compressed"),
    [
        (99, None, False),
        (100, None, True),
        (100, False, False),
        (20, True, True),
        (0, True, False),
    ],
)
def test_message_below_the_threshold_is_not_compressed(
    size: int, compress: bool | None, is_compressed: bool
) -> None:
    encoder = Encoder(False, deflater=Deflater(15, False, 1, 8, 100))
    assert bool(encoder.message("x" * size, compress)[0] & RSV1) == is_compressed


def test_fragments_and_control_frames_are_never_compressed() -> None:
    encoder = Encoder(False, deflater=Deflater(15, True, 1, 8, 0))
    for opcode in (TEXT, CONT, PING):
        assert encoder.frame(opcode, b"x" * 100) == bytes((0x80 | opcode, 100)) + b"x" * 100


@settings(deadline=None)
@given(
    messages=st.lists(
        st.text(max_size=300) | st.binary(max_size=300) | st.just("a" * 70_000), max_size=6
    ),
    window_bits=st.sampled_from(WINDOWS),
    takeover=st.booleans(),
    level=st.integers(1, 9),
    memory_level=st.integers(1, 9),
    masked=st.booleans(),
)
def test_compressed_messages_are_read_back(
    messages: list[str | bytes],
    window_bits: int,
    takeover: bool,
    level: int,
    memory_level: int,
    masked: bool,
) -> None:
    deflater = Deflater(window_bits, takeover, level, memory_level, 0)
    encoder = Encoder(masked, deflater=deflater)
    decoder = Decoder(Limits(), masked, Inflater(window_bits, takeover))
    for message in messages:
        assert decoder.feed(encoder.message(message, compress=True)) == [Message(message)]
