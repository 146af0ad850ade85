"""The pace of a move: gentle while there is time, faster if there is not."""

from __future__ import annotations

import time

import pytest

from websocket_handler.moving.pace import MAX_PAUSE_S, MAX_REQUESTS, Pace


def pace(seconds: float, *durations: float) -> Pace:
    """A pace for a move that ends in `seconds`, after moves of those durations."""
    found = Pace(time.monotonic() + seconds, pause=1.0)
    for duration in durations:
        found.note(duration)
    return found


def test_move_before_first_answer_repeats_one_request() -> None:
    assert pace(0.1).requests(10_000) == 1


def test_move_with_enough_time_repeats_one_request_and_pauses() -> None:
    relaxed = pace(10_000, 0.01)
    assert relaxed.requests(100) == 1
    assert relaxed.pause_after(0.01, 100, 1) == pytest.approx(0.01)
    assert relaxed.pause_after(5, 100, 1) == MAX_PAUSE_S


def test_move_with_less_time_shortens_its_pauses() -> None:
    pause = pace(20, 0.9).pause_after(0.9, 9, 1)  # one second for each
    assert pause <= 0.1


def test_move_with_little_time_repeats_more_requests_without_pauses() -> None:
    hurried = pace(100, 1.0)
    assert 3 <= hurried.requests(149) <= MAX_REQUESTS  # 0.33 seconds for each
    assert hurried.pause_after(1.0, 149, 3) <= 0.01
    assert hurried.requests(10_000) == MAX_REQUESTS
    assert hurried.requests(2) <= 2


def test_move_that_is_over_repeats_as_many_requests_as_possible() -> None:
    late = pace(-1, 0.01)
    assert late.requests(100) == MAX_REQUESTS
    assert late.pause_after(0.01, 100, 1) == 0
