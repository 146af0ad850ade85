"""werkzeug's router (Flask's) has rules for WebSockets and rules for other requests, and responds
with 400 where a handshake meets the second kind.

Routes with `websocket=True` belong to other libraries (flask-sock), which go on as before. A
handshake for which there is none may reach an ordinary route, and finds our WebSocket there.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

KEY = "wsgi.websocket"
ORDINARY_SCHEMES = {"ws": "http", "wss": "https"}


def prepare() -> None:
    """Have it so, if werkzeug's router is in use; to be called before a request is routed."""
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
    """Match the rules for WebSockets, and where the URL has none, the ordinary ones."""
    errors: Any = sys.modules["werkzeug.routing.map"]
    try:
        return match(*arguments, **options)
    except (errors.WebsocketMismatch, errors.NotFound, errors.MethodNotAllowed):
        if not adapter.websocket or options.get("websocket") is not None:
            raise
    adapter.websocket = False
    adapter.url_scheme = ORDINARY_SCHEMES[adapter.url_scheme]
    return match(*arguments, **options)
