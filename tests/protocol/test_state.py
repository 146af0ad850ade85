"""The life of a connection as a table, and the settings."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from itertools import product
from typing import Any

import pytest

from websocket_handler import ALL_VERSIONS, Settings
from websocket_handler.protocol.state import State, Step, advance

LIFE = {
    (State.CONNECTING, Step.OPENED): State.OPEN,
    (State.CONNECTING, Step.CLOSE_SENT): State.CLOSING,
    (State.CONNECTING, Step.LOST): State.CLOSED,
    (State.OPEN, Step.CLOSE_SENT): State.CLOSING,
    (State.OPEN, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.OPEN, Step.LOST): State.CLOSED,
    (State.CLOSING, Step.CLOSE_RECEIVED): State.CLOSED,
    (State.CLOSING, Step.LOST): State.CLOSED,
}


@pytest.mark.parametrize(("state", "step"), list(product(State, Step)))
def test_each_step_in_each_state(state: State, step: Step) -> None:
    assert advance(state, step) is LIFE.get((state, step))


def test_the_documented_defaults() -> None:
    assert Settings() == Settings(
        max_message_size=1048576,
        max_fragments=131072,
        max_empty_fragments=1024,
        high_water=65536,
        max_buffered=16777216,
        ping_interval=20,
        ping_timeout=20,
        close_timeout=10,
        allowed_origins=None,
        versions=ALL_VERSIONS[:1],
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"max_message_size": -1},
        {"max_message_size": 1 << 62},
        {"max_fragments": -1},
        {"high_water": 0},
        {"high_water": 100, "max_buffered": 99},
        {"ping_interval": 0},
        {"ping_interval": -1},
        {"ping_timeout": 0},
        {"close_timeout": 0},
    ],
)
def test_settings_that_make_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Settings(**bad)


def test_one_origin_is_not_a_collection_of_them() -> None:
    with pytest.raises(TypeError, match="collection"):
        Settings(allowed_origins="https://example.com")


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().max_fragments = 1  # type: ignore[misc]
    assert hash(Settings(allowed_origins=["http://a"])) == hash(
        Settings(allowed_origins={"http://a"})
    )
