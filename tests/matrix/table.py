"""Runs the matrix and writes docs/matrix.md: `make matrix`."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from ..conftest import ROOT
from .servers import SERVERS, Server
from .situations import SITUATIONS

TARGET = ROOT / "docs" / "matrix.md"
TEST = (
    ROOT / "tests" / "matrix" / "test_matrix.py::test_server_responds_to_situation_as_in_the_table"
)
PASSED = "✓"
HEAD = """# The same situations on every server

`make matrix` writes this table from a run of `tests/matrix`. A mark is a test with the real
server in its own process, a numbered note a test that is expected to fail on that server.
How each server is used is in [servers.md](servers.md).
"""

Outcome = Callable[[Server, str], str]
"""Returns the mark or the reason for a server and a situation."""


def expected(server: Server, name: str) -> str:
    """Return the outcome that the code declares."""
    return server.impossible.get(name, PASSED)


def render(outcome: Outcome) -> str:
    """Return the text of docs/matrix.md."""
    reasons: list[str] = []

    def cell(server: Server, name: str) -> str:
        found = outcome(server, name)
        if found == PASSED:
            return PASSED
        if found not in reasons:
            reasons.append(found)
        return f"[{reasons.index(found) + 1}]"

    rows = [["situation", *(title_of(server) for server in SERVERS)], ["---"] * (len(SERVERS) + 1)]
    for name, situation in SITUATIONS.items():
        rows.append([situation.title, *(cell(server, name) for server in SERVERS)])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))
    return f"{HEAD}\n{table}\n\n{notes}\n"


def title_of(server: Server) -> str:
    return f"{server.name}, {server.framework}" if server.framework else server.name


class Recorder:
    """A plugin of pytest that keeps the outcome of each test of the matrix."""

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self._outcomes[report.nodeid] = getattr(report, "wasxfail", PASSED)

    def outcome(self, server: Server, name: str) -> str:
        return self._outcomes[
            f"tests/matrix/test_matrix.py::test_server_responds_to_situation_as_in_the_table[{server.id}-{name}]"
        ]


def main() -> int:
    recorder = Recorder()
    code = pytest.main([str(TEST)], [recorder])
    if code == pytest.ExitCode.OK:
        TARGET.write_text(render(recorder.outcome))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
