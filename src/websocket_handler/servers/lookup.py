"""Finds the WebSocket of a request in every framework: `WebSocket.of(request)`.

Imports no framework. A request is recognised by its attributes, or by the classes of a framework
that the application has imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from ..errors import WebSocketError
from ..protocol.request import Forwarded
from .forwarded import in_django_request, in_environ, in_scope

if TYPE_CHECKING:
    from ..websocket import WebSocket

WSGI_KEY = "wsgi.websocket"
ASGI_KEY = "websocket"


def websocket_of(request: Any) -> WebSocket | None:
    """Return the WebSocket of `request`, None for an ordinary request. See `WebSocket.of`."""
    if isinstance(request, BaseHTTPRequestHandler):
        return _in_handler(request)
    for module, name, integration in LOOP_SERVERS:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(request, kind):
            find = importlib.import_module(integration, __package__).websocket
            found: WebSocket | None = find(request)
            return found
    for attribute in ("environ", "scope", "env"):
        mapping = getattr(request, attribute, None)
        if isinstance(mapping, Mapping):
            return _in_mapping(mapping, request)
    if isinstance(request, Mapping):
        return _in_mapping(request, request)
    raise TypeError(
        f"{type(request).__name__!r} is not a request: pass the framework's request object, "
        "the handler of Tornado or http.server, a WSGI environ or an ASGI scope"
    )


LOOP_SERVERS = (
    ("aiohttp.web", "BaseRequest", ".aiohttp"),
    ("tornado.web", "RequestHandler", ".tornado"),
)


def _in_mapping(mapping: Mapping[str, Any], request: Any) -> WebSocket | None:
    look: Callable[[Mapping[str, Any]], Forwarded]
    if "REQUEST_METHOD" in mapping:
        key, look = WSGI_KEY, in_environ
        cure = "wrap the application: app.wsgi_app = WSGIMiddleware(app.wsgi_app)"
    elif mapping.get("type") in ("http", "websocket"):
        key, look = ASGI_KEY, in_scope
        cure = "wrap the application: app = ASGIMiddleware(app)"
    else:
        raise TypeError("neither a WSGI environ nor an ASGI scope for http or websocket")
    if key not in mapping:
        raise WebSocketError(f"the request passed through no WebSocket middleware; {cure}")
    websocket: WebSocket | None = mapping[key]
    if websocket is not None:
        seen = partial(look, mapping)
        is_from_django = hasattr(request, "_get_raw_host")
        websocket._follow(partial(in_django_request, request, seen) if is_from_django else seen)
    return websocket


def _in_handler(handler: Any) -> WebSocket | None:
    if not hasattr(handler, "websocket_settings"):
        raise WebSocketError("the server is not configured; call configure_server(server) first")
    websocket: WebSocket | None = handler.websocket
    return websocket
