"""Every situation on every server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support import raw_client
from ..support.programs import Program
from .servers import SERVERS, Server, serving
from .situations import SITUATIONS
from .table import TARGET, expected, render

NEGATIVE_TIMEOUT_S = 2.0
"""How long a client waits for a response that a server is known not to send."""


@pytest.fixture(scope="module", params=SERVERS, ids=lambda one: one.id)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.param
    return found


@pytest.fixture(scope="module")
def program(server: Server) -> Iterator[Program]:
    with serving(server) as program:
        yield program


@pytest.mark.parametrize("name", SITUATIONS)
def test_server_responds_to_situation_as_in_the_table(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, server: Server, name: str
) -> None:
    program = request.getfixturevalue("program")  # its failure is never an expected one
    if reason := server.impossible.get(name):
        failures = (AssertionError, TimeoutError)
        request.applymarker(pytest.mark.xfail(raises=failures, reason=reason, strict=True))
        monkeypatch.setattr(raw_client, "TIMEOUT_S", NEGATIVE_TIMEOUT_S)
    SITUATIONS[name].check(program)


def test_table_in_the_docs_matches_the_servers_and_situations() -> None:
    assert TARGET.read_text() == render(expected), "run `make matrix`"
