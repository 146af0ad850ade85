"""The states of a connection as a table, and the settings."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from websocket_handler import ALL_VERSIONS, Settings
from websocket_handler.protocol.state import State, Step, advance

ALIVE = (State.CONNECTING, State.OPEN, State.CLOSING)


def moves(step: Step) -> dict[State, State]:
    """The next state for each state in which `step` is allowed."""
    reached = {state: advance(state, step) for state in State}
    return {state: after for state, after in reached.items() if after is not None}


def test_lost_connection_ends_every_state_once() -> None:
    assert moves(Step.LOST) == dict.fromkeys(ALIVE, State.CLOSED)


def test_connection_opens_only_once() -> None:
    assert moves(Step.OPENED) == {State.CONNECTING: State.OPEN}


def test_close_frame_is_sent_at_most_once() -> None:
    assert moves(Step.CLOSE_SENT) == dict.fromkeys(ALIVE[:2], State.CLOSING)


def test_close_frame_ends_an_open_connection_from_either_side() -> None:
    assert moves(Step.CLOSE_RECEIVED) == dict.fromkeys(ALIVE[1:], State.CLOSED)


def test_default_settings_are_as_documented() -> None:
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
        {"versions": ()},
        {"max_buffered": 1 << 62},
        {"max_control_frames": float("inf")},
        {"ping_interval": float("inf")},
        {"ping_interval": float("nan")},
        {"ping_timeout": 1e300},
        {"open_timeout": float("nan")},
    ],
)
def test_senseless_setting_is_an_error(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Settings(**bad)


def test_single_origin_string_is_an_error() -> None:
    with pytest.raises(TypeError, match="collection"):
        Settings(allowed_origins="https://example.com")


def test_changed_setting_is_an_error() -> None:
    with pytest.raises(FrozenInstanceError):
        Settings().max_fragments = 1  # type: ignore[misc]
    assert hash(Settings(allowed_origins=["http://a"])) == hash(
        Settings(allowed_origins={"http://a"})
    )
