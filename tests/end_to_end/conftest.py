"""Fixtures of the end-to-end tests: one running program a row of the matrix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.programs import ROWS, Journal, Program, Row, echo_program
from ..support.raw_client import RawClient, close


@pytest.fixture(scope="session", params=ROWS, ids=[row.name for row in ROWS])
def row(request: pytest.FixtureRequest) -> Row:
    """Which engine, living where."""
    found: Row = request.param
    return found


@pytest.fixture(scope="session")
def shared_program(row: Row) -> Iterator[Program]:
    with echo_program(row) as program:
        with RawClient(program.address) as client:  # the engine starts with the first
            client.open().send(close())
            client.expect_closed(None)
        yield program


@pytest.fixture
def program(shared_program: Program) -> Iterator[Program]:
    """The echo program, shared by the tests of a row; it must outlive each of them."""
    yield shared_program
    complaints = shared_program.get("/journal?id=alive")
    assert complaints == []


@pytest.fixture
def journal(program: Program) -> Journal:
    """A journal for a WebSocket: its name goes into the target as `id`."""
    return Journal(program)
