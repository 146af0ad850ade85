from __future__ import annotations

from collections.abc import Iterator

import pytest

from websocket_handler import IS_NATIVE, Engine
from websocket_handler.engine import pure as fallback

from ..support.connections import Peer

if not IS_NATIVE:
    fallback.warn_once()  # now, so that the tests do not find it in their log


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine in its own thread, stopped after the test."""
    engine = Engine()
    yield engine
    engine.stop()


@pytest.fixture(autouse=True)
def _close_peers() -> Iterator[None]:
    """Peers that a test leaves open are closed after it."""
    yield
    while Peer.all:
        Peer.all.pop().sock.close()
