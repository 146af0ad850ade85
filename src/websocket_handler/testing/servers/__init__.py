"""The servers of the test client: they serve an application on connections without a port.

`server_for` recognises the kind of an application. Each framework has a module here, which is
imported for its applications only.
"""

from __future__ import annotations

import functools
import inspect
import sys
from concurrent.futures import Future
from http.server import BaseHTTPRequestHandler
from socket import socket
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

from ..failures import Failures
from ..waiting import Waits

if TYPE_CHECKING:
    from ...engine import Engine
    from ...settings import Settings
    from .loops import LoopServer

Interface: TypeAlias = Literal["http.server", "wsgi", "asgi", "aiohttp", "tornado"]

HOST = "testserver"
"""The default host of a request, as in the test clients of Django and Starlette."""

ADDRESS = ("127.0.0.1", 0)
"""The address of the client, for interfaces that need one: a socket pair has none."""


class Server(Protocol):
    """Serves one application."""

    engine: Engine

    async def start(self, waits: Waits, until: float) -> None:
        """Start the application. Raises its exception, or `TimeoutError`."""
        ...

    def serve(self, sock: socket) -> Future[None]:
        """Serve a connection. Returns a future that is done when the handler of its request is."""
        ...

    async def stop(self, waits: Waits, until: float) -> None:
        """Stop the application, all threads and all tasks. Raises its exception, or
        `TimeoutError`."""
        ...


def server_for(
    app: Any,
    interface: Interface | None,
    settings: Settings | None,
    failures: Failures,
    in_running_loop: bool,
) -> Server:
    """Return the server of an application. `settings` are those of a server that has some.

    Raises `TypeError` if the kind of the application is not known, or if `settings` belong to the
    application itself.
    """
    kind = interface or interface_of(app)
    if kind not in get_args(Interface):
        raise TypeError(f"interface is one of {', '.join(get_args(Interface))}, not {kind!r}")
    if settings is not None and kind not in ("http.server", "asgi"):
        raise TypeError(f"a {kind} application has its own settings: Client cannot set them")
    if kind in ("http.server", "wsgi"):
        from .threads import ThreadServer, handler_server, wsgi_server

        if kind == "wsgi":
            return ThreadServer(wsgi_server(app), failures)
        return ThreadServer(handler_server(app, settings), failures)
    from .loops import InLoopThread, InRunningLoop

    server = _loop_server(kind, app, settings, failures)
    return InRunningLoop(server, failures) if in_running_loop else InLoopThread(server, failures)


def _loop_server(kind: str, app: Any, settings: Settings | None, failures: Failures) -> LoopServer:
    if kind == "aiohttp":
        from .aiohttp import AiohttpServer

        return AiohttpServer(app, failures)
    if kind == "tornado":
        from .tornado import TornadoServer

        return TornadoServer(app, failures)
    from .asgi import ASGIServer

    return ASGIServer(app, settings, failures)


def interface_of(app: Any) -> Interface:
    """Return the interface of an application. Raises `TypeError` if it is not known."""
    handler = app.func if isinstance(app, functools.partial) else app
    if isinstance(handler, type) and issubclass(handler, BaseHTTPRequestHandler):
        return "http.server"
    for module, kind in (("aiohttp.web", "aiohttp"), ("tornado.web", "tornado")):
        cls = getattr(sys.modules.get(module), "Application", None)
        if cls is not None and isinstance(app, cls):
            return kind  # type: ignore[return-value]
    if not callable(app):
        raise TypeError(f"{app!r} is not an application: it cannot be called")
    method = type(app).__call__
    found = _of_method(method) if inspect.isfunction(method) else _of_call(app)
    if found is not None:
        return found
    raise TypeError(
        f"cannot tell whether {app!r} is a WSGI or an ASGI application: pass "
        'Client(app, interface="wsgi") or Client(app, interface="asgi")'
    )


@functools.lru_cache(maxsize=64)
def _of_method(method: Any) -> Interface | None:
    """Return the interface of the applications of one class, None if it is not known."""
    return _of_call(method, own_parameters=1)


def _of_call(call: Any, own_parameters: int = 0) -> Interface | None:
    if inspect.iscoroutinefunction(call):
        return "asgi"
    required = _required_parameters(call)
    interfaces: dict[int, Interface] = {2: "wsgi", 3: "asgi"}
    return None if required is None else interfaces.get(required - own_parameters)


def _required_parameters(app: Any) -> int | None:
    """Return the number of positional parameters, None if it is not fixed or not known."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return None
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.default is parameter.empty
        for parameter in parameters
    )
