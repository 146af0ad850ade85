"""The engine that holds all open WebSockets: native where it can be, else plain Python.

Both give `Engine` and `Channel` with the same interface, which `interface` has. The environment
variable WEBSOCKET_HANDLER_PURE_PYTHON=1 chooses the one in plain Python.
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
    from .channel import Channel
    from .fanout import fan_out
    from .threads import Engine

    IS_NATIVE: bool
elif os.environ.get("WEBSOCKET_HANDLER_PURE_PYTHON", "0") not in ("", "0"):
    from .pure import Channel, Engine, fan_out

    IS_NATIVE = False
else:
    try:
        from .channel import Channel
        from .fanout import fan_out
        from .threads import Engine

        IS_NATIVE = True
    except ImportError:
        from .pure import Channel, Engine, fan_out

        IS_NATIVE = False

_default: Engine | None = None
_making = threading.Lock()


def default_engine() -> Engine:
    """The engine of this process that is used where none is named; made when first needed."""
    global _default
    with _making:
        if _default is None:
            _default = Engine()
        return _default


_by_loop: WeakValueDictionary[int, Engine] = WeakValueDictionary()


def loop_engine(loop: asyncio.AbstractEventLoop | None = None) -> Engine:
    """The engine that lives in `loop` (default: the running one), and ends with it, its
    connections with 1001; made when first needed. In that loop's thread."""
    home = loop or asyncio.get_running_loop()
    engine = _by_loop.get(id(home))
    if engine is None or engine.event_loop is not home:
        engine = _by_loop[id(home)] = Engine(home)
    return engine


def _say_goodbye() -> None:
    """At exit: tell the peers with 1001, and wait a little for their answers."""
    if _default is not None:
        _default.close_all(timeout=1.0)
        _default.stop(timeout=1.0)


@in_forked_child
def _begin_anew() -> None:
    global _making
    _making = threading.Lock()
    _by_loop.clear()
    if IS_NATIVE:
        from .codec import forget_random_bytes

        forget_random_bytes()


atexit.register(_say_goodbye)

__all__ = [
    "IS_NATIVE",
    "Channel",
    "Engine",
    "close_connections",
    "default_engine",
    "fan_out",
    "loop_engine",
]
