"""A client of each framework's application."""

from __future__ import annotations

import functools
import importlib
import os
from typing import Any

import pytest

from websocket_handler.testing import Client, ClientFactory

from ..support.programs import TIMEOUT_S
from .applications import chat, with_aiohttp

FRAMEWORKS = ("flask", "django", "fastapi", "aiohttp", "http_server", "tornado")


def app_of(framework: str) -> Any:
    """Return the framework's application: one for all tests, except for aiohttp, where an
    application runs in one event loop only."""
    return with_aiohttp.make_app() if framework == "aiohttp" else _app_of(framework)


@functools.cache
def _app_of(framework: str) -> Any:
    return importlib.import_module(f"tests.testing.applications.with_{framework}").make_app()


@pytest.fixture(params=FRAMEWORKS)
def app(request: pytest.FixtureRequest) -> Any:
    chat.closed.clear()
    return app_of(request.param)


@pytest.fixture
def client(app: Any, websocket_client: ClientFactory) -> Client:
    return websocket_client(app, timeout=TIMEOUT_S)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat the twelve tests: `make bench-testing` measures a thousand of them."""
    times = int(os.environ.get("TWELVE_TESTS_TIMES", "1"))
    if times > 1 and metafunc.module.__name__.endswith(".test_twelve"):
        metafunc.fixturenames.append("repetition")
        metafunc.parametrize("repetition", range(times))
