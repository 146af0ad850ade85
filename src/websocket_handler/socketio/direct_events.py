"""The short way of an event to the task of its handler.

python-socketio passes each event of an asynchronous server through six coroutines, which wait for
nothing, because the handler runs in a task of its own. They are run at once here, in the listener,
instead of in one more task.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

EVENT = "42"
"""A text message of Engine.IO with an event of Socket.IO starts with this."""

Handler = Callable[[str, str], Coroutine[Any, Any, None]]


def direct_handler(eio: Any) -> Handler | None:
    """Return the function of python-socketio that handles a message. Returns None if it may wait or
    call the application: without tasks for events, or if a subclass replaces it."""
    handler: Handler | None = eio.handlers.get("message")
    server = getattr(handler, "__self__", None)
    if eio.async_handlers or not getattr(server, "async_handlers", False):
        return None
    functions = (handler, getattr(server, "_handle_event", None))
    is_original = all(
        getattr(function, "__module__", "") == "socketio.async_server" for function in functions
    )
    return handler if is_original else None


def run_now(coroutine: Coroutine[Any, Any, object]) -> None:
    """Run a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise AssertionError(f"{coroutine!r} waits")
