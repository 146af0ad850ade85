from __future__ import annotations

from collections.abc import Iterator

import pytest

from websocket_handler import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine in a thread of its own, gone with the test."""
    engine = Engine()
    yield engine
    engine.stop()
