"""uvicorn: `uvicorn --ws websocket_handler.servers.uvicorn:WebSocketProtocol app:app`.

Applications with `websocket` routes run unchanged. With `ASGIMiddleware`, `WebSocket.of(request)`
returns the WebSocket in ordinary routes.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import Any, ClassVar, cast
from urllib.parse import unquote
from weakref import WeakKeyDictionary

from uvicorn.config import Config
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string
from uvicorn.server import ServerState

from ..engine import loop_engine
from ..errors import WebSocketError
from ..handover.transport import ServerConnections, TransportHandover
from ..moving.arrivals import arrival_in_scope
from ..protocol.close_codes import CloseCode
from ..protocol.printable import printable
from ..settings import Settings, with_options
from ..websocket import WebSocket
from .asgi import ASGISession, Scope, request_of
from .forwarded import in_changed_scope, snapshot

logger: logging.Logger = logging.getLogger("uvicorn.error")


class WebSocketProtocol(asyncio.Protocol):
    """The protocol class to which uvicorn passes the connection of a WebSocket request.

    uvicorn's own options set the maximum size, pings and compression (`--ws-max-size`,
    `--ws-ping-interval`, `--ws-ping-timeout`, `--ws-per-message-deflate`). All other settings
    have the defaults of `Settings`. To change any, derive a class with other `settings` and pass
    it to `--ws`. At shutdown, WebSockets are closed with 1012.
    """

    settings: ClassVar[dict[str, Any]] = {}
    moves_connections: ClassVar[bool] = False

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._config = config
        self._server_state = server_state
        self._app_state = app_state
        self._handover: TransportHandover | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        http_protocol: Any = self._transport.get_protocol()
        self._early = early_bytes(http_protocol)
        self._http_scope: Scope = http_protocol.scope

    def data_received(self, data: bytes) -> None:
        """Run the application. The first `data` is the request head, which uvicorn has rebuilt."""
        if self._handover is not None:
            self._handover.add_early(data)
            return
        self._transport.pause_reading()
        connections = UvicornConnections.of(self._server_state)
        connections.moves_connections = self.moves_connections
        handover = TransportHandover(self._transport, early=self._early, server=connections)
        scope = self._read(data)
        handover.arrival = arrival_in_scope(scope)
        self._handover = handover
        websocket = WebSocket(
            request_of(scope, method=self._http_scope["method"]),
            self._choose_settings(),
            handover=handover,
        )
        websocket._follow(partial(in_changed_scope, scope, snapshot(scope)))

        def decided(status: int) -> None:
            if not logger.isEnabledFor(logging.INFO):
                return
            logger.info(
                '%s - "WebSocket %s" %s',
                printable(get_client_addr(scope)),  # type: ignore[arg-type]
                printable(get_path_with_query_string(scope)),  # type: ignore[arg-type]
                "[accepted]" if status == 101 else status,
            )

        fields = self._server_state.default_headers
        session = ASGISession(websocket, handover, connections, fields, decided)
        application: Any = self._config.loaded_app
        task = asyncio.get_running_loop().create_task(session.run(application, scope))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)
        self._server_state.total_requests += 1

    def _choose_settings(self) -> Settings:
        config = self._config
        chosen: dict[str, Any] = {
            "max_message_size": config.ws_max_size,
            "ping_interval": config.ws_ping_interval or None,
            "compression": bool(config.ws_per_message_deflate),
        }
        if config.ws_ping_timeout:
            chosen["ping_timeout"] = config.ws_ping_timeout
        return with_options(None, {**chosen, **self.settings})

    def _read(self, data: bytes) -> Scope:
        """Return the scope. Its fields are those of the `http` scope from which uvicorn has rebuilt
        the request head."""
        http = self._http_scope
        target = data.split(b" ", 2)[1]
        raw_path, _, query = target.partition(b"?")
        root_path = self._config.root_path
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": http["http_version"],
            "scheme": "wss" if http["scheme"] == "https" else "ws",
            "server": http["server"],
            "client": http["client"],
            "root_path": root_path,
            "path": root_path + unquote(raw_path.decode("ascii")),
            "raw_path": root_path.encode("ascii") + raw_path,
            "query_string": query,
            "headers": [*http["headers"]],
            "subprotocols": [
                token.strip()
                for name, value in http["headers"]
                if name == b"sec-websocket-protocol"
                for token in value.decode("latin-1").split(",")
            ],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }


class MovingWebSocketProtocol(WebSocketProtocol):
    """Like `WebSocketProtocol`, but a worker that shuts down moves its WebSockets to another one.

    Only those that could not be moved are closed with 1012.
    """

    moves_connections: ClassVar[bool] = True


class UvicornConnections(ServerConnections):
    """Acts as one of uvicorn's connections, so that its shutdown closes all WebSockets."""

    _known: ClassVar[WeakKeyDictionary[ServerState, UvicornConnections]] = WeakKeyDictionary()

    @classmethod
    def of(cls, server_state: ServerState) -> UvicornConnections:
        """Return the object of this server. The first request creates it."""
        connections = cls._known.get(server_state)
        if connections is None:
            connections = cls._known[server_state] = cls(loop_engine(), CloseCode.SERVICE_RESTART)
            connections._connections = cast("set[Any]", server_state.connections)
            connections._connections.add(connections)
        return connections

    _connections: set[Any]
    moves_connections = False

    def shutdown(self) -> None:
        """Move or close all WebSockets. uvicorn waits until this object is removed from its
        connections."""
        end = self.move_all if self.moves_connections else self.close_all
        end(when_done=lambda: self._connections.discard(self))


def early_bytes(http_protocol: Any) -> bytes:
    """Return the bytes after the request head from uvicorn's HTTP protocol, which has read them.

    Raises `WebSocketError` if the protocol does not expose them, because frames would be lost.
    """
    if hasattr(http_protocol, "conn"):
        if not hasattr(http_protocol.conn, "trailing_data"):  # it is not h11.Connection
            raise WebSocketError(
                f"uvicorn's {type(http_protocol).__name__} does not expose the bytes after a "
                "request head, so connect() is not possible: use --http httptools or h11"
            )
        trailing: bytes = http_protocol.conn.trailing_data[0]
        return trailing
    error = sys.exc_info()[1]  # httptools raises HttpParserUpgrade at an upgrade
    if error is None or error.__traceback__ is None:
        return b""
    data: bytes = error.__traceback__.tb_frame.f_locals.get("data", b"")
    return data[error.args[0] :] if isinstance(error.args[0], int) else b""
