"""Does other middleware stand outside of `ASGIMiddleware`, where WebSockets pass it by?

Middleware that only handles `http` scopes passes a `websocket` scope on unseen. Outside of
`ASGIMiddleware` it is bypassed by every WebSocket, a guard among it too. Starlette and what is
built on it put their application into the scope, which shows what stands outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..errors import WebSocketError
from .asgi import KEY, Application, Scope

INSTEAD = (
    "WebSockets would not pass through it. Wrap the whole application, as the last line: "
    "app = ASGIMiddleware(app)"
)


def check_placement(middleware: Application, scope: Scope) -> None:
    """Raise `WebSocketError` if middleware is known to stand outside of `middleware`."""
    app = scope.get("app")
    if app is None or (scope["type"] != "websocket" and KEY in scope):
        return  # nothing is known of what stands outside, or another ASGIMiddleware does
    outside = [*_added_outside(app, type(middleware)), *_around_mount(scope, middleware)]
    if outside:
        names = ", ".join(dict.fromkeys(outside))
        raise WebSocketError(f"ASGIMiddleware stands inside of {names}: {INSTEAD}")
    router = scope.get("router")
    if router is not None and router is not getattr(app, "router", router):
        raise WebSocketError(
            "ASGIMiddleware stands inside of a mounted application and cannot see which "
            f"middleware the outer one has; if it has any, {INSTEAD}; otherwise wrap where you "
            'mount: Mount("/path", ASGIMiddleware(inner))'
        )


def _added_outside(app: Any, cls: type) -> Iterator[str]:
    """Names of middleware added to a Starlette application after `cls`; all if `cls` was not."""
    for entry in getattr(app, "user_middleware", ()):
        added = getattr(entry, "cls", None)
        if isinstance(added, type) and issubclass(added, cls):
            return
        yield _name_of(entry, added)


def _name_of(entry: Any, added: object) -> str:
    """The name of what was added; a function of `@app.middleware("http")` has its own."""
    function = getattr(entry, "kwargs", {}).get("dispatch")
    return str(getattr(function or added, "__name__", added))


def _around_mount(scope: Scope, middleware: Application) -> Iterator[str]:
    """Names of the layers that wrap `middleware` in a Mount."""
    layers, layer = [], scope.get("endpoint")
    while layer is not None and layer is not middleware:
        layers.append(type(layer).__name__)
        layer = getattr(layer, "app", None)
    if layer is middleware:
        yield from layers
