"""Envelopes, names and sequences, without a broker."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from websocket_handler.bus.envelope import EnvelopeKind, encode_content, open_envelope, seal
from websocket_handler.bus.names import MAX_NAME_LENGTH, room_channel
from websocket_handler.bus.sequences import MAX_NODES, Sequences
from websocket_handler.bus.settings import BusSettings

NODE = b"12345678"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@settings(deadline=None)
@given(
    st.one_of(TEXT, st.binary()),
    st.one_of(st.none(), TEXT),
    st.integers(0, (1 << 64) - 1),
    st.booleans(),
    st.sampled_from([kind for kind in EnvelopeKind if kind is not EnvelopeKind.NEWER]),
)
def test_sealed_envelope_opens_to_the_same_message(
    message: str | bytes, key: str | None, number: int, starts: bool, kind: EnvelopeKind
) -> None:
    opened = open_envelope(seal(kind, NODE, number, starts, encode_content(message, key)))
    assert opened == (kind, NODE, number, starts, message, key)
    assert type(opened.message) is type(message)


def test_newer_message_version_is_counted_but_not_read() -> None:
    data = seal(EnvelopeKind.MESSAGE, NODE, 7, True, encode_content("text", "key"))
    newer = b"\x02" + data[1:21] + b"in another format"
    assert open_envelope(newer) == (EnvelopeKind.NEWER, NODE, 7, True, "", None)
    for version, kind in [
        (0, EnvelopeKind.MESSAGE),
        (2, EnvelopeKind.PRESENT),
        (1, EnvelopeKind.NEWER),
    ]:
        with pytest.raises(ValueError, match="version"):
            open_envelope(bytes([version, kind]) + data[2:])


@settings(deadline=None)
@given(st.binary())
def test_arbitrary_bytes_are_rejected_with_an_error(data: bytes) -> None:
    for candidate in (data, b"\x01" + data, b"\x01\x00\x01" + data):
        with contextlib.suppress(ValueError):
            open_envelope(candidate)


@settings(deadline=None)
@given(TEXT)
def test_encoded_name_is_one_token(room: str) -> None:
    channel = room_channel(room)
    assert re.fullmatch(r"room\.[A-Za-z0-9_%~-]+", channel)
    assert len(channel) <= MAX_NAME_LENGTH + 10


@settings(deadline=None)
@given(TEXT, TEXT)
def test_different_names_are_encoded_differently(one: str, other: str) -> None:
    assert (room_channel(one) == room_channel(other)) == (one == other)


def test_different_long_names_are_encoded_differently() -> None:
    names = ["x" * 1000, "x" * 1001, "é" * 500, "é" * 501, "x" * 199, "x" * 200, "x" * 201]
    assert len({room_channel(name) for name in names}) == len(names)


def test_plain_names_stay_readable() -> None:
    assert room_channel("lobby-1_a") == "room.lobby-1_a"
    assert room_channel("a.b") == "room.a%2Eb"


@pytest.mark.parametrize("prefix", ["", "a b", "a.b", "a*", "{a}", "é"])
def test_invalid_prefix_is_an_error(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        BusSettings(prefix=prefix)


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_unavailable": "maybe"},
        {"queue_size": 0},
        {"silence_timeout": 1.0},
        {"exit_timeout": -1},
        {"backoff_max": 0},
        {"presence_ttl": -1},
    ],
)
def test_invalid_bus_setting_is_an_error(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BusSettings(**wrong)  # type: ignore[arg-type]


def test_gap_is_counted_once() -> None:
    sequences = Sequences()
    assert sequences.arrived(NODE, 5) == (0, False)
    assert sequences.arrived(NODE, 6) == (0, False)
    assert sequences.arrived(NODE, 10) == (3, True)
    assert sequences.arrived(NODE, 11) == (0, False)
    assert sequences.arrived(b"another!", 1) == (0, False)


def test_repeated_number_is_known() -> None:
    sequences = Sequences()
    for number in (1, 2, 5):
        assert not sequences.is_known(NODE, number)
        assert sequences.arrived(NODE, number) is not None
    for number in (1, 2, 5):
        assert sequences.is_known(NODE, number)
        assert sequences.arrived(NODE, number) is None


def test_late_number_is_accepted_once() -> None:
    sequences = Sequences()
    sequences.arrived(NODE, 1)
    assert sequences.arrived(NODE, 4) == (2, True)
    assert sequences.arrived(NODE, 3) == (0, False)
    assert sequences.arrived(NODE, 3) is None
    assert sequences.arrived(NODE, 2) == (0, False)
    assert sequences.arrived(NODE, 2) is None


def test_gap_after_a_reconnect_is_not_reported_as_new() -> None:
    sequences = Sequences()
    sequences.arrived(NODE, 1)
    sequences.reconnected()
    assert sequences.arrived(NODE, 5) == (3, False)
    assert sequences.arrived(NODE, 7) == (1, True)


def test_restarted_numbers_are_not_a_gap() -> None:
    sequences = Sequences()
    sequences.arrived(NODE, 1)
    assert sequences.arrived(NODE, 100, starts=True) == (0, False)
    assert sequences.arrived(NODE, 50) is None


def test_memory_of_sequences_is_bounded() -> None:
    sequences = Sequences()
    for number in range(3 * MAX_NODES):
        sequences.arrived(number.to_bytes(8, "big"), 1)
    sequences.arrived(NODE, 1)
    assert sequences.arrived(NODE, 1 << 60) == ((1 << 60) - 2, True)
    assert len(sequences._nodes) <= MAX_NODES
    assert len(sequences._nodes[NODE].missing) <= 1024
