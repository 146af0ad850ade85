"""One server a row, and the canary that must not notice the attack."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest

from ..support.canary import singing
from ..support.programs import ROWS, Journal, Program, Row, echo_program
from ..support.raw_client import RawClient, close
from .rig import note

ATTACKED = [row for row in ROWS if row.home == "thread"]


@pytest.fixture(scope="session", params=ATTACKED, ids=[row.name for row in ATTACKED])
def row(request: pytest.FixtureRequest) -> Row:
    """Which engine, living where."""
    found: Row = request.param
    return found


@pytest.fixture(scope="session")
def shared_program(row: Row) -> Iterator[Program]:
    with echo_program(row, "--defaults", "--close-timeout", "1", descriptors=20_000) as program:
        with RawClient(program.address) as client:  # the engine starts with the first
            client.open().send(close())
            client.expect_closed(None)
        yield program


@pytest.fixture
def program(shared_program: Program, request: pytest.FixtureRequest) -> Iterator[Program]:
    """The server under attack; it must outlive each, and its canary hear of none."""
    with singing(shared_program) as canary:
        yield shared_program
    complaints = shared_program.get("/journal?id=alive")
    assert complaints == []
    p99 = statistics.quantiles(canary.round_trips, n=100)[98] * 1000
    note(
        "healthy connection during the attacks",
        f"p99 during {request.node.name}",
        p99,
        "ms",
        "< 50",
    )


@pytest.fixture
def journal(program: Program) -> Journal:
    """A journal for a WebSocket: its name goes into the target as `id`."""
    return Journal(program)
