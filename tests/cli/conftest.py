"""Fixtures of the command line: the demo, whose echo most tests connect to."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from ..support.programs import Program, demo
from ..support.proxies import forget_proxies


@pytest.fixture(scope="package")
def echo() -> Iterator[Program]:
    with demo() as program:
        yield program
        assert "Traceback" not in program.log()


@pytest.fixture
def url(echo: Program) -> str:
    return echo.url("/echoserver")


@pytest.fixture(autouse=True)
def _log_level_is_restored() -> Iterator[None]:
    """The commands change it, also if they run in this process."""
    logger = logging.getLogger("websocket_handler")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def _no_proxy_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_proxies(monkeypatch)
