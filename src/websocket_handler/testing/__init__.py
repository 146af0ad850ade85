"""A test client for web applications with WebSockets, without a port: see docs/testing.md.

    from websocket_handler.testing import Client

    with Client(app) as client, client.connect("/echo") as ws:
        ws.send("hello")
        assert ws.receive() == "hello"

`app` is a WSGI, ASGI, aiohttp or Tornado application, or a handler class of http.server.
`AsyncClient` is the same for coroutines. Needs no other package; pytest finds the fixture
`websocket_client`.
"""

from ..errors import ConnectionClosed, HandshakeFailed
from .async_client import AsyncClient, AsyncClientConnection
from .client import Client, ClientConnection, ClientFactory
from .cookies import Cookies
from .messages import Response

__all__ = [
    "AsyncClient",
    "AsyncClientConnection",
    "Client",
    "ClientConnection",
    "ClientFactory",
    "ConnectionClosed",
    "Cookies",
    "HandshakeFailed",
    "Response",
]
