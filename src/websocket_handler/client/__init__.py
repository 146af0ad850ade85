"""The client: opens WebSockets to servers, in any version of the protocol.

`connect` opens one in a thread, `aconnect` in an event loop; `Reconnecting` and `async for` over
`aconnect` open another one whenever it ends. Opening is written once, as a coroutine
(`opening.py`) that waits through a `Network`: that of a thread blocks and never suspends the
coroutine (`blocking.py`), that of an event loop suspends it (`event_loop.py`). Then the engine
takes over the socket, as it does from HTTP servers, and the application gets the same `WebSocket`.
"""

from __future__ import annotations

from .connecting import Connecting, aconnect, connect
from .options import ClientOptions, ClientSettings
from .reconnecting import Reconnecting
from .retrying import backoff, process_exception

__all__ = [
    "ClientOptions",
    "ClientSettings",
    "Connecting",
    "Reconnecting",
    "aconnect",
    "backoff",
    "connect",
    "process_exception",
]
