"""Encoding messages as frames: masking, fragments, close frames."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from websocket_handler.protocol.assembly import Close, Message
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.message import Decoder, Encoder, close_payload, fragments

from .frames import Limits


def test_server_frames_are_unmasked() -> None:
    encoder = Encoder(mask=False)
    assert encoder.message("Hello").hex() == "810548656c6c6f"
    assert encoder.message(b"Hello").hex() == "820548656c6c6f"
    assert encoder.close(1000).hex() == "880203e8"
    assert encoder.close().hex() == "8800"


def test_client_masks_with_the_given_random_bytes() -> None:
    encoder = Encoder(mask=True, random_bytes=lambda size: bytes.fromhex("37fa213d")[:size])
    assert encoder.message("Hello").hex() == "818537fa213d7f9f4d5158"


def test_every_client_frame_has_its_own_masking_key() -> None:
    encoder = Encoder(mask=True)
    keys = {encoder.message("x")[2:6] for _ in range(1000)}
    assert len(keys) > 990


def test_client_messages_are_decoded_by_a_server() -> None:
    encoder, decoder = Encoder(mask=True), Decoder(Limits(), expect_masked=True)
    assert decoder.feed(encoder.message("né") + encoder.close(4000, "bye")) == [
        Message("né"),
        Close(4000, "bye"),
    ]


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 2999, 5000])
def test_forbidden_close_code_is_an_error(code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        close_payload(code)


def test_close_reason_over_123_bytes_is_an_error() -> None:
    assert len(close_payload(1000, "é" * 61 + "x")) == 125
    with pytest.raises(ValueError, match="123 bytes"):
        close_payload(1000, "é" * 62)


@pytest.mark.parametrize(
    ("pieces", "frames"),
    [
        (["a"], [(Opcode.TEXT, b"a", True)]),
        (["a", ""], [(Opcode.TEXT, b"a", False), (Opcode.CONTINUATION, b"", True)]),
        (
            [b"a", bytearray(b"b"), memoryview(b"c")],
            [
                (Opcode.BINARY, b"a", False),
                (Opcode.CONTINUATION, b"b", False),
                (Opcode.CONTINUATION, b"c", True),
            ],
        ),
    ],
)
def test_only_the_last_fragment_has_fin(
    pieces: Iterable[str | bytes], frames: list[tuple[int, bytes, bool]]
) -> None:
    iterator = iter(pieces)
    assert list(fragments(iterator, next(iterator))) == frames


@pytest.mark.parametrize("pieces", [["a", b"b"], [b"a", "b"], [b"a", 1], [1]])
def test_fragments_of_two_types_are_an_error(pieces: list[str | bytes]) -> None:
    iterator = iter(pieces)
    with pytest.raises(TypeError):
        list(fragments(iterator, next(iterator)))
