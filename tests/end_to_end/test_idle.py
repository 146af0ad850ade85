"""A quiet server uses no processor time."""

from __future__ import annotations

import contextlib
import time

from ..support.programs import Program, wait_for
from ..support.raw_client import RawClient, masked, text
from .stages import STAGES, go_to

HELLO = text("hello")


def test_idle_connections_take_no_processor_time(program: Program) -> None:
    """Neither healthy connections nor those that stopped in the middle of a frame."""
    with contextlib.ExitStack() as stack:
        for stage in list(STAGES)[3:-2] * 5:
            go_to(stack.enter_context(RawClient(program.address)), stage)
        half_closed = stack.enter_context(RawClient(program.address)).open()
        half_closed.sock.sendall(masked(HELLO))
        half_closed.expect(HELLO)
        _expect_idle(program)
    _expect_idle(program)


def _expect_idle(program: Program) -> None:
    wait_for(lambda: _cpu_during(program, 0.1) < 0.005, "every sent byte to be processed")
    assert _cpu_during(program, 0.5) <= 0.04


def _cpu_during(program: Program, seconds: float) -> float:
    before = program.cpu_seconds()
    time.sleep(seconds)
    return program.cpu_seconds() - before
