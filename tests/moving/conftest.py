from __future__ import annotations

from collections.abc import Iterator

import pytest

from websocket_handler import Engine


@pytest.fixture
def engines() -> Iterator[tuple[Engine, Engine]]:
    """Two engines, between which connections move as between two processes."""
    both = Engine(), Engine()
    yield both
    for engine in both:
        engine.stop(timeout=5)
