"""The engine that serves all open WebSockets: the native one if it is built, else pure Python.

Both have the classes `Engine` and `Channel` with the same interface (`interface`). The environment
variable WEBSOCKET_HANDLER_PURE_PYTHON=1 selects the pure-Python engine.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from .forks import in_forked_child
from .shutdown import close_connections

if TYPE_CHECKING:
    from . import moving
    from .channel import Channel
    from .fanout import fan_out
    from .threads import Engine

    IS_NATIVE: bool
elif os.environ.get("WEBSOCKET_HANDLER_PURE_PYTHON", "0") not in ("", "0"):
    from . import pure_moving as moving
    from .pure import Channel, Engine, fan_out

    IS_NATIVE = False
else:
    try:
        from ..connection import am_send  # noqa: F401 - its import prepares `NextMessage`
        from . import moving
        from .channel import Channel
        from .fanout import fan_out
        from .threads import Engine

        IS_NATIVE = True
    except ImportError:
        from . import pure_moving as moving
        from .pure import Channel, Engine, fan_out

        IS_NATIVE = False

_default: Engine | None = None
_default_lock = threading.Lock()


def default_engine() -> Engine:
    """Return the engine of this process, which is used by default; created on first use."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Engine()
        return _default


_by_loop: WeakValueDictionary[int, Engine] = WeakValueDictionary()


def loop_engine(loop: asyncio.AbstractEventLoop | None = None) -> Engine:
    """Return the engine that runs in `loop` (default: the running loop); created on first use.

    It serves the connections of ASGI servers, aiohttp and Tornado in this event loop. When the loop
    ends, the engine stops and its connections are closed with 1001. Call this in the loop's thread.
    """
    loop = loop or asyncio.get_running_loop()
    engine = _by_loop.get(id(loop))
    if engine is None or engine.event_loop is not loop:
        engine = _by_loop[id(loop)] = Engine(loop)
    return engine


def _close_at_exit() -> None:
    """At exit: close every connection with 1001, and wait up to a second for the peers."""
    if _default is not None:
        _default.close_all(timeout=1.0)
        _default.stop(timeout=1.0)


@in_forked_child
def _renew_state() -> None:
    global _default_lock
    _default_lock = threading.Lock()
    _by_loop.clear()
    if IS_NATIVE:
        from .codec import forget_random_bytes

        forget_random_bytes()


atexit.register(_close_at_exit)

__all__ = [
    "IS_NATIVE",
    "Channel",
    "Engine",
    "close_connections",
    "default_engine",
    "fan_out",
    "loop_engine",
    "moving",
]
