"""Fixtures of the end-to-end tests: one running program per engine setup."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.programs import ENGINES, EngineSetup, Journal, Program, echo_program
from ..support.raw_client import RawClient, close


@pytest.fixture(scope="session", params=ENGINES, ids=[setup.name for setup in ENGINES])
def engine_setup(request: pytest.FixtureRequest) -> EngineSetup:
    """The engine setup under test: which engine, and where it runs."""
    found: EngineSetup = request.param
    return found


@pytest.fixture(scope="session")
def shared_program(engine_setup: EngineSetup) -> Iterator[Program]:
    with echo_program(engine_setup) as program:
        with RawClient(program.address) as client:  # the first WebSocket starts the engine
            client.open().send(close())
            client.expect_closed(None)
        yield program


@pytest.fixture
def program(shared_program: Program) -> Iterator[Program]:
    """The echo program, shared by the tests of one engine setup; it must survive each of them."""
    yield shared_program
    complaints = shared_program.get("/journal?id=alive")
    assert complaints == []


@pytest.fixture
def journal(program: Program) -> Journal:
    """A journal of one WebSocket's events; the request target carries its name as `id`."""
    return Journal(program)
