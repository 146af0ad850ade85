"""The pytest plugin of websocket_handler: the fixture `websocket_client`.

It is a module of its own, because pytest imports it in every run: it imports `websocket_handler`
only if a test uses the fixture.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from websocket_handler.testing import Client, ClientFactory


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "websocket_timeout",
        "the limit of every wait of the fixture websocket_client, in seconds",
        default="1",
    )


@pytest.fixture
def websocket_client(request: pytest.FixtureRequest) -> Iterator[ClientFactory]:
    """Make test clients that are stopped after the test: `client = websocket_client(app)`.

    Takes the arguments of `websocket_handler.testing.Client`. The ini option `websocket_timeout`
    is the default of `timeout`.
    """
    from websocket_handler.testing import Client

    value = request.config.getini("websocket_timeout")
    try:
        timeout = float(value)
    except ValueError:
        raise ValueError(f"websocket_timeout is a number of seconds, not {value!r}") from None

    with ExitStack() as clients:

        def start(app: Any, **options: Any) -> Client:
            return clients.enter_context(Client(app, **{"timeout": timeout, **options}))

        yield start
