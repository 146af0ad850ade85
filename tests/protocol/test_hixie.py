"""hixie-75 and -76 in a client: data it must skip, text it must repair, and the limits of both."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler.protocol import check
from websocket_handler.protocol.assembly import Close, Event, Message
from websocket_handler.protocol.check import Violation
from websocket_handler.protocol.versions import by_name
from websocket_handler.protocol.versions.version import Decoder

from .frames import Limits, byte_by_byte

NewDecoder = Callable[..., Decoder]
TEXT = b"\x00x\xff"


@pytest.fixture(params=["hixie-75", "hixie-76"])
def new_client_decoder(request: pytest.FixtureRequest) -> NewDecoder:
    version = by_name(request.param)
    return lambda size=1000: version._make_decoder(Limits(max_message_size=size), False, b"")


@pytest.mark.parametrize(
    "skipped",
    [
        b"\x01\xff",
        b"\x7f\x00\x80some\xff",
        b"\x80\x00",
        b"\x80\x03\x00\xff\x00",
        b"\xfe\x81\x00" + b"\xff" * 128,
        b"\xff\x01\xff",
        b"\x80" + b"\x80" * 9 + b"\x00",
        b"\x80" + b"\x80" * 8 + b"\x87\x68" + bytes(1000),
    ],
)
def test_client_skips_unknown_frames(new_client_decoder: NewDecoder, skipped: bytes) -> None:
    wire = TEXT + skipped + TEXT + skipped + TEXT
    assert new_client_decoder().feed(wire) == [Message("x")] * 3
    assert byte_by_byte(new_client_decoder(), wire)[0] == [Message("x")] * 3


@pytest.mark.parametrize(
    ("wire", "known_after"),
    [
        (b"\x80" + b"\x80" * 1000, 11),
        (b"\xff" + b"\xff" * 1000, 3),
        (b"\x80\x87\x69", 3),  # 1001
        (b"\x80" + b"\x80" * 7 + b"\x87\x69", 10),
        (b"\x05" + b"x" * 1001, 1002),
        (b"\x00" + b"x" * 1001, 1002),
    ],
)
def test_bytes_that_a_client_skips_are_bounded(
    new_client_decoder: NewDecoder, wire: bytes, known_after: int
) -> None:
    assert byte_by_byte(new_client_decoder(), wire) == ([check.TOO_BIG], [known_after])
    assert new_client_decoder().feed(wire) == [check.TOO_BIG]


def test_client_replaces_invalid_utf_8_in_hixie(new_client_decoder: NewDecoder) -> None:
    wire = b"\x00a\xc3b\xed\xa0\x80\xff\x00\xe2\x82\xff"
    mended: list[Event] = [Message("a\ufffdb\ufffd\ufffd\ufffd"), Message("\ufffd")]
    assert new_client_decoder().feed(wire) == mended
    assert byte_by_byte(new_client_decoder(), wire)[0] == mended


@pytest.mark.parametrize("close", [b"\xff\x00", b"\xff\x80\x00"])
def test_close_is_read_in_every_length_form(close: bytes) -> None:
    limits = Limits()
    assert by_name("hixie-76")._make_decoder(limits, False, b"").feed(close + TEXT) == [
        Close(1005, "")
    ]
    assert by_name("hixie-75")._make_decoder(limits, False, b"").feed(close + TEXT) == [
        Message("x")
    ]


@given(wire=st.lists(st.sampled_from([0, 0x78, 0x7F, 0x80, 0x81, 0xC3, 0xFF])).map(bytes))
def test_bytes_cut_anywhere_give_the_same_hixie_events(wire: bytes) -> None:
    for name in ("hixie-75", "hixie-76"):
        for is_server in (True, False):
            limits = Limits(max_message_size=20)
            whole, piecewise = (
                by_name(name)._make_decoder(limits, is_server, b"12345678") for _ in "ab"
            )
            events = whole.feed(wire)
            assert byte_by_byte(piecewise, wire)[0] == events
            assert not any(isinstance(event, Violation | Close) for event in events[:-1])


@pytest.mark.parametrize("wire", [TEXT, b"\x80\x00", b"\x05\xff"], ids=bytes.hex)
def test_many_small_hixie_frames_are_read(new_client_decoder: NewDecoder, wire: bytes) -> None:
    began = process_time()
    events = new_client_decoder().feed(wire * 100_000)
    assert len(events) == (100_000 if wire == TEXT else 0)
    assert process_time() - began < 5
