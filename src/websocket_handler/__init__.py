"""WebSockets as requests of a web application.

The request of a WebSocket passes through routes, middleware and authorization like any other. The
handler rejects it with a response, or accepts it with `connect()`:

from websocket_handler import WebSocket, configure_server

configure_server(server)                       # any server based on http.server

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = WebSocket.of(self)                # None for an ordinary request
        ...
        ws.on("message", ws.send)
        ws.connect()                           # the engine takes over the socket
"""

import logging

from .client import Reconnecting, aconnect, connect
from .engine import IS_NATIVE, Engine, default_engine, loop_engine
from .engine.stats import Stats, Traffic
from .errors import (
    BusUnavailable,
    ConnectionClosed,
    ConnectionFailed,
    ConnectionMoved,
    HandshakeFailed,
    ProtocolError,
    ProxyFailed,
    TlsFailed,
    UnsupportedByVersion,
    WebSocketError,
)
from .handover.socket import SocketHandover
from .handover.transport import TransportHandover
from .moving.departures import MoveResult, amove_connections, move_connections
from .protocol.close_codes import CloseCode
from .protocol.permessage_deflate import Compression
from .protocol.request import Headers, Request, is_websocket_request
from .protocol.state import State
from .protocol.versions import ALL_VERSIONS, Version
from .rooms import (
    BusSettings,
    BusState,
    BusStats,
    Delivery,
    History,
    Room,
    Rooms,
    RoomsStats,
    SlowConsumers,
)
from .safe_log import SafeRecords
from .servers.asgi_middleware import ASGIMiddleware
from .servers.http_server import configure_server
from .servers.server_log import ServerLog
from .servers.wsgi import WSGIMiddleware
from .settings import Settings
from .version import __version__
from .websocket import WebSocket

__all__ = [
    "ALL_VERSIONS",
    "IS_NATIVE",
    "ASGIMiddleware",
    "BusSettings",
    "BusState",
    "BusStats",
    "BusUnavailable",
    "CloseCode",
    "Compression",
    "ConnectionClosed",
    "ConnectionFailed",
    "ConnectionMoved",
    "Delivery",
    "Engine",
    "HandshakeFailed",
    "Headers",
    "History",
    "MoveResult",
    "ProtocolError",
    "ProxyFailed",
    "Reconnecting",
    "Request",
    "Room",
    "Rooms",
    "RoomsStats",
    "Settings",
    "SlowConsumers",
    "SocketHandover",
    "State",
    "Stats",
    "TlsFailed",
    "Traffic",
    "TransportHandover",
    "UnsupportedByVersion",
    "Version",
    "WSGIMiddleware",
    "WebSocket",
    "WebSocketError",
    "__version__",
    "aconnect",
    "amove_connections",
    "configure_server",
    "connect",
    "default_engine",
    "is_websocket_request",
    "loop_engine",
    "move_connections",
]

_logger = logging.getLogger(__name__)
_logger.addFilter(SafeRecords())
_logger.addHandler(ServerLog())
