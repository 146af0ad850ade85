"""An engine, and peers that go with the test: as the engine's own tests have them."""

from ..engine.conftest import _close_peers, engine

__all__ = ["_close_peers", "engine"]
