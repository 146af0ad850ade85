"""Serves Socket.IO clients on the engine, inside any application.

    socketio = SocketIO(app, async_mode="threading")        # or socketio.Server, AsyncServer
    websocket_handler.socketio.serve(socketio)

python-socketio keeps everything of the protocol: sessions, namespaces, rooms, acknowledgements. The
engine has the connections, so a client needs no thread, greenlet or task.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ..engine import Engine
from ..errors import WebSocketError
from ..protocol.origins import ANY_ORIGIN
from ..settings import Settings, with_options
from .async_driver import AsyncDriver
from .async_requests import tornado_handler
from .attachments import limit_attachments
from .driver import SyncDriver
from .locked_clients import lock_clients
from .packed_environ import PackedEnvirons
from .sessions import limit_sessions

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

__all__ = ["serve", "tornado_handler"]

Server = TypeVar("Server")


def serve(
    server: Server,
    *,
    volatile: Collection[str] = (),
    threads: int = 32,
    engine: Engine | None = None,
    settings: Settings | None = None,
    **options: Unpack[SettingsOptions],
) -> Server:
    """Serve the clients of a Socket.IO or Engine.IO server on the engine. Returns `server`.

    `server` is a `flask_socketio.SocketIO`, `socketio.Server`, `socketio.AsyncServer`,
    `engineio.Server` or `engineio.AsyncServer`. Call this before the first request, and before
    `AsyncServer.attach()`.

    An emit never waits for a client. If more than `max_buffered` bytes (default 16 MiB) are unsent
    to a client, it is closed with 1013; if more than `high_water` are unsent (default 64 KiB), it
    misses events whose name is in `volatile`.

    At most `threads` threads run the event handlers of a synchronous server with
    `async_mode="threading"`. `engine` is the engine of such a server (default: that of the
    process). `settings` is a `Settings`; `options` are its fields by name. `max_connections` limits
    the sessions, too: a client above it is answered 503. The limit on the size of messages is
    the server's `max_http_buffer_size`, origins are checked by the server, and
    Engine.IO has its own pings, so `max_message_size`, `allowed_origins` and `ping_interval` are
    ignored.

    Raises `ValueError` for an `async_mode` that is not supported, `WebSocketError` if `server` is
    served already, or if it is a Flask-SocketIO object without an application.
    """
    socketio: Any = server
    if hasattr(server, "init_app"):
        socketio = socketio.server
    if socketio is None:
        raise WebSocketError(
            "the SocketIO object has no application: call init_app() before serve()"
        )
    eio = getattr(socketio, "eio", socketio)
    if not hasattr(eio, "_async"):
        raise TypeError(f"{type(server).__name__!r} is not a server of Socket.IO or Engine.IO")
    if getattr(eio, "is_served_by_websocket_handler", False):
        raise WebSocketError("serve() was called for this server before")
    chosen = _settings_for(eio, with_options(settings, options))
    if eio.is_asyncio_based():
        AsyncDriver(eio, chosen, frozenset(volatile)).install()
    else:
        SyncDriver(eio, chosen, frozenset(volatile), threads, engine).install()
        if socketio is not eio:
            lock_clients(socketio.manager)
    if chosen.max_connections is not None:
        limit_sessions(eio, chosen.max_connections)
    eio.is_served_by_websocket_handler = True
    if socketio is not eio:
        socketio.environ = PackedEnvirons(socketio.environ)
        limit_attachments(socketio, max(chosen.max_buffered, chosen.max_message_size))
    return server


def _settings_for(eio: Any, settings: Settings) -> Settings:
    return replace(
        settings,
        max_message_size=eio.max_http_buffer_size,
        allowed_origins=(ANY_ORIGIN,),
        ping_interval=None,
    )
