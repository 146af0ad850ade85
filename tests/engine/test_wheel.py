"""core/wheel.c compared with a simple model: no timer fires early, none more than a tick late."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..conftest import require

TICK = 16
NEVER = (1 << 64) - 1


class Timer(ctypes.Structure):
    _fields_ = (
        ("next", ctypes.c_void_p),
        ("link", ctypes.c_void_p),
        ("due", ctypes.c_uint64),
    )


@pytest.fixture(scope="module")
def wheel_library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc") or shutil.which("gcc")
    require(compiler, "a C compiler")
    source = Path(__file__).parents[2] / "src/websocket_handler/engine/core/wheel.c"
    built = tmp_path_factory.mktemp("wheel") / "wheel.so"
    subprocess.run([str(compiler), "-O1", "-shared", "-fPIC", "-o", built, source], check=True)
    library = ctypes.CDLL(str(built))
    library.wheel_expire.restype = ctypes.POINTER(Timer)
    library.wheel_next.restype = ctypes.c_uint64
    return library


MOVES = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 5), st.integers(0, 40_000)),
    st.tuples(st.just("cancel"), st.integers(0, 5), st.just(0)),
    st.tuples(
        st.just("wait"), st.just(0), st.sampled_from([0, 1, 15, 16, 17, 1000, 16_384, 50_000])
    ),
)


@settings(max_examples=400, deadline=None)
@given(start=st.integers(0, 1 << 40), moves=st.lists(MOVES, max_size=40))
def test_timers_expire_in_time(
    wheel_library: ctypes.CDLL, start: int, moves: list[tuple[str, int, int]]
) -> None:
    call: Callable[..., Any] = lambda name, *words: getattr(wheel_library, name)(*words)  # noqa: E731
    wheel = ctypes.create_string_buffer(1 << 14)
    timers = (Timer * 6)()
    due: dict[int, int] = {}
    now = start
    call("wheel_start", wheel, ctypes.c_uint64(now))
    for move, number, amount in moves:
        if move == "set":
            due[number] = now + amount
            call("wheel_set", wheel, ctypes.byref(timers[number]), ctypes.c_uint64(now + amount))
        elif move == "cancel":
            due.pop(number, None)
            call("wheel_cancel", ctypes.byref(timers[number]))
        else:
            now += amount
            while timer := call("wheel_expire", wheel, ctypes.c_uint64(now)):
                place = ctypes.addressof(timer.contents) - ctypes.addressof(timers)
                assert due.pop(place // ctypes.sizeof(Timer)) <= now
            late = {number: when for number, when in due.items() if when + TICK <= now}
            assert not late
        look_again = call("wheel_next", wheel)
        if due:
            assert look_again < min(due.values()) + TICK or look_again <= now + TICK


def test_timers_of_a_later_revolution_cost_no_time(wheel_library: ctypes.CDLL) -> None:
    """As many timers are due as stay in their slot for the next revolution."""
    count, turn = 20_000, 1024 * TICK

    def seconds(waiting: int) -> float:
        wheel = ctypes.create_string_buffer(1 << 14)
        timers = (Timer * (count + waiting))()
        wheel_library.wheel_start(wheel, ctypes.c_uint64(0))
        for number in range(count + waiting):
            due = TICK if number < count else TICK + turn
            wheel_library.wheel_set(wheel, ctypes.byref(timers[number]), ctypes.c_uint64(due))
        begun, expired = time.process_time(), 0
        while wheel_library.wheel_expire(wheel, ctypes.c_uint64(TICK)):
            expired += 1
        assert expired == count
        return time.process_time() - begun

    assert seconds(waiting=count) < 10 * seconds(waiting=0)
