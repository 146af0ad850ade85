"""Checks that no other middleware wraps `ASGIMiddleware`.

Most middleware handles `http` scopes only and passes a `websocket` scope on unchecked. If such
middleware wraps `ASGIMiddleware`, every WebSocket bypasses it, even if it checks authorization.
Starlette and the frameworks built on it put their application into the scope. It shows the outer
middleware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import WebSocketError
from .asgi import KEY, Application, Scope

INSTEAD = (
    "WebSockets would bypass it. Wrap the whole application, as the last line: "
    "app = ASGIMiddleware(app)"
)


def check_placement(middleware: Application, scope: Scope) -> None:
    """Raise `WebSocketError` if other middleware is found to wrap `middleware`."""
    app = scope.get("app")
    if app is None or (scope["type"] != "websocket" and KEY in scope):
        return  # the outer layers are unknown, or another ASGIMiddleware is one of them
    outside = [*_added_outside(app, type(middleware)), *_around_mount(scope, middleware)]
    if outside:
        names = ", ".join(dict.fromkeys(outside))
        raise WebSocketError(f"ASGIMiddleware is wrapped by {names}: {INSTEAD}")
    router = scope.get("router")
    if router is not None and router is not getattr(app, "router", router):
        raise WebSocketError(
            "ASGIMiddleware is part of a mounted application and cannot see the middleware of "
            f"the outer application. If there is any: {INSTEAD}. Otherwise wrap where you "
            'mount: Mount("/path", ASGIMiddleware(inner))'
        )


def _added_outside(app: Any, cls: type) -> Iterator[str]:
    """Yield the names of middleware added after `cls`; of all middleware if `cls` was not added."""
    for entry in getattr(app, "user_middleware", ()):
        added = getattr(entry, "cls", None)
        if isinstance(added, type) and issubclass(added, cls):
            return
        yield _name_of(entry, added)


def _name_of(entry: Any, added: object) -> str:
    """Return the name of added middleware: its class or its `@app.middleware("http")` function."""
    function = getattr(entry, "kwargs", {}).get("dispatch")
    return str(getattr(function or added, "__name__", added))


def _around_mount(scope: Scope, middleware: Application) -> Iterator[str]:
    """Yield the names of the layers between a Mount and `middleware`."""
    layers, layer = [], scope.get("endpoint")
    while layer is not None and layer is not middleware:
        layers.append(type(layer).__name__)
        layer = getattr(layer, "app", None)
    if layer is middleware:
        yield from layers
