"""A message for many connections: one frame per wire format, and valid compression contexts."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from websocket_handler import Compression, Engine
from websocket_handler.engine import fan_out
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.deflate import PLAIN
from websocket_handler.protocol.prepared import PreparedMessage

from ..engine import test_compression as compressed
from ..support.connections import client_role, connect, make_websocket

WORDS = " ".join(["the same words again and again"] * 100)
WITH_TAKEOVER = Compression(False, False, threshold=1000)
WITHOUT_TAKEOVER = Compression(threshold=1000)


def everyone(*members: object, message: str | bytes) -> PreparedMessage:
    """Send to every member, whichever codec it uses."""
    prepared = PreparedMessage(message)
    count, others = fan_out(members, prepared)
    for other in others:
        assert other._send_prepared(prepared)
    assert count + len(others) == len(members)
    return prepared


@pytest.mark.parametrize(
    "message", ["", "h\xe9llo", b"", bytes(range(256)), "x" * 126, b"y" * 70_000]
)
def test_every_member_gets_the_same_frame(engine: Engine, message: str | bytes) -> None:
    websockets = [make_websocket(engine) for _ in range(3)]
    peers = [connect(websocket) for websocket in websockets]
    prepared = everyone(*websockets, message=message)
    assert [peer.read() for peer in peers] == [Message(message)] * 3
    assert list(prepared.frames) == [PLAIN]
    assert [websocket.traffic.messages_sent for websocket in websockets] == [1, 1, 1]


@pytest.mark.parametrize("size", [10, 2000, 100_000])
def test_message_is_compressed_once_for_equal_settings(engine: Engine, size: int) -> None:
    message = (WORDS * 40)[:size]
    choices = [
        WITH_TAKEOVER,
        WITHOUT_TAKEOVER,
        WITHOUT_TAKEOVER,
        Compression(threshold=1000, level=9),
    ]
    pairs = [compressed.connect(engine, compression) for compression in choices]
    plain = make_websocket(engine)
    peers = [*(peer for _, peer in pairs), connect(plain)]
    prepared = everyone(*(websocket for websocket, _ in pairs), plain, message=message)
    assert [peer.read() for peer in peers] == [Message(message)] * 5
    ways = {(15, 1, 8), (15, 9, 8)} if size >= 1000 else set()
    assert set(prepared.frames) == {PLAIN, *ways}
    assert all(len(prepared.frames[way]) < size / 2 for way in ways)


def test_empty_message_is_never_compressed(engine: Engine) -> None:
    websocket, peer = compressed.connect(engine, Compression(threshold=0))
    prepared = everyone(websocket, message="")
    assert peer.read() == Message("")
    assert set(prepared.frames.values()) == {b"\x81\x00"}


def test_incompressible_message_is_sent_to_all_uncompressed(engine: Engine) -> None:
    noise = random.Random(1).randbytes(5000)
    websocket, peer = compressed.connect(engine, WITHOUT_TAKEOVER)
    everyone(websocket, message=noise)
    assert peer.read() == Message(noise)
    assert websocket.traffic.bytes_sent > 5000


def test_prepared_and_single_messages_share_one_context(engine: Engine) -> None:
    """A shared message uses no compression context, and later ones must not refer to data before
    it."""
    one, its_peer = compressed.connect(engine, WITH_TAKEOVER)
    other, other_peer = compressed.connect(engine, WITH_TAKEOVER)
    other.send(WORDS + "only the other has this in its context")
    for number in range(5):
        one.send(f"{number} for one {WORDS}")
        everyone(one, other, message=f"{number} for both {WORDS}")
        one.send(f"{number} again {WORDS}")
    expected = [
        f"{number} {what} {WORDS}"
        for number in range(5)
        for what in ("for one", "for both", "again")
    ]
    assert its_peer.read_many(15) == [Message(text) for text in expected]
    assert other_peer.read_many(6)[1:] == [Message(text) for text in expected if "both" in text]


def test_client_masks_each_prepared_frame_anew(engine: Engine) -> None:
    clients = [client_role(engine) for _ in range(2)]
    prepared = everyone(*(websocket for websocket, _ in clients), message="masked")
    assert [peer.read() for _, peer in clients] == [Message("masked")] * 2
    assert not prepared.frames


def test_slow_or_fragmenting_members_fall_back_to_python_path(engine: Engine) -> None:
    websocket = make_websocket(engine, high_water=1000)
    peer = connect(websocket)
    prepared = PreparedMessage("whole")

    def pieces() -> Iterator[str]:
        yield "a "
        assert fan_out((websocket,), prepared) == (0, [websocket])
        assert websocket._send_prepared(prepared)
        yield "fragmented one"

    websocket.send(pieces())
    assert [peer.read(), peer.read()] == [Message("a fragmented one"), Message("whole")]
    while websocket.buffered_amount <= 1000:
        assert websocket._send_prepared(PreparedMessage(b"x" * 100_000))
    assert fan_out((websocket,), prepared) == (0, [websocket])
    assert not websocket._send_prepared(prepared)


def test_excluded_members_get_nothing(engine: Engine) -> None:
    websockets = tuple(make_websocket(engine) for _ in range(3))
    for websocket in websockets:
        connect(websocket)
    count, others = fan_out(websockets, PreparedMessage("x"), {websockets[1]})
    assert websockets[1] not in others
    assert count + len(others) == 2


@pytest.mark.parametrize("message", [None, 1, ["a"], {"a": 1}])
def test_prepared_message_must_be_text_or_bytes(message: object) -> None:
    with pytest.raises(TypeError, match="a message is a str or bytes-like"):
        PreparedMessage(message)  # type: ignore[arg-type]
