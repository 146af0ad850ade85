"""A client of each framework's application."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import pytest

from websocket_handler.testing import Client

from ..support.programs import PATIENCE
from .applications import chat

if TYPE_CHECKING:
    from websocket_handler_pytest import ClientFactory

FRAMEWORKS = ("flask", "django", "fastapi", "aiohttp", "http_server", "tornado")


def make_app(framework: str) -> Any:
    return importlib.import_module(f"tests.testing.applications.with_{framework}").make_app()


@pytest.fixture(params=FRAMEWORKS)
def app(request: pytest.FixtureRequest) -> Any:
    chat.closed.clear()
    return make_app(request.param)


@pytest.fixture
def client(app: Any, websocket_client: ClientFactory) -> Client:
    return websocket_client(app, timeout=PATIENCE)
