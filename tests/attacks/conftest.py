"""Fixtures for attacks: one server per engine setup, and a canary that must not be affected."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest

from ..support.canary import healthy_connection
from ..support.programs import ENGINES, EngineSetup, Journal, Program, echo_program
from ..support.raw_client import RawClient, close
from .rig import note

ATTACKED = [setup for setup in ENGINES if setup.runs_in == "thread"]


@pytest.fixture(scope="session", params=ATTACKED, ids=[setup.name for setup in ATTACKED])
def engine_setup(request: pytest.FixtureRequest) -> EngineSetup:
    """The engine setup under test: which engine, and where it runs."""
    found: EngineSetup = request.param
    return found


@pytest.fixture(scope="session")
def shared_program(engine_setup: EngineSetup) -> Iterator[Program]:
    with echo_program(
        engine_setup, "--defaults", "--close-timeout", "1", descriptors=20_000
    ) as program:
        with RawClient(program.address) as client:  # the first WebSocket starts the engine
            client.open().send(close())
            client.expect_closed(None)
        yield program


@pytest.fixture
def program(shared_program: Program, request: pytest.FixtureRequest) -> Iterator[Program]:
    """The attacked server; it must survive every test, and its canary must not be affected."""
    with healthy_connection(shared_program) as canary:
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
    """A journal of one WebSocket's events; the request target carries its name as `id`."""
    return Journal(program)
