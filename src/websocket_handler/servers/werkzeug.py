"""Routes handshakes to ordinary routes of werkzeug and Flask.

werkzeug's router has rules for WebSockets and rules for other requests. It responds with 400 if a
handshake matches an ordinary rule. Here a handshake reaches the ordinary route if its URL has no
WebSocket rule. Routes with `websocket=True` belong to other libraries such as flask-sock, which go
on to work.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

KEY = "wsgi.websocket"
ORDINARY_SCHEMES = {"ws": "http", "wss": "https"}


def patch_router() -> None:
    """Patch the router if werkzeug is in use. Call it before a request is routed."""
    routing: Any = sys.modules.get("werkzeug.routing.map")
    if routing is None or hasattr(routing.Map.bind_to_environ, "__wrapped__"):
        return
    bind_to_environ = routing.Map.bind_to_environ

    @functools.wraps(bind_to_environ)
    def bind(url_map: Any, environ: Any, *arguments: Any, **options: Any) -> Any:
        adapter = bind_to_environ(url_map, environ, *arguments, **options)
        if adapter.websocket and getattr(environ, "environ", environ).get(KEY) is not None:
            adapter.match = functools.partial(_match_either, adapter, adapter.match)
        return adapter

    routing.Map.bind_to_environ = bind


def _match_either(adapter: Any, match: Any, *arguments: Any, **options: Any) -> Any:
    """Match the WebSocket rules, then the ordinary rules if the URL has no WebSocket rule."""
    errors: Any = sys.modules["werkzeug.routing.map"]
    try:
        return match(*arguments, **options)
    except (errors.WebsocketMismatch, errors.NotFound, errors.MethodNotAllowed):
        if not adapter.websocket or options.get("websocket") is not None:
            raise
    adapter.websocket = False
    adapter.url_scheme = ORDINARY_SCHEMES[adapter.url_scheme]
    return match(*arguments, **options)
