"""Finds the socket of a request in each WSGI server, and the bytes read after the request head.

There is one finder per server. It recognises its server by an entry of the WSGI environ or by the
object whose method `start_response` is, and returns None for other servers. To support another
server, write a finder and add it to FINDERS. Middleware between the server and `WSGIMiddleware` may
wrap `start_response`; the search goes through its wrappers.
"""

from __future__ import annotations

import functools
import io
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..handover.socket import Reader
from .gunicorn_threads import forget_closed_pipes
from .waitress import early_bytes

Environ = dict[str, Any]


class FoundSocket(NamedTuple):
    """The socket and reader of a request.

    `close_after_response()` makes the server close the connection after an ordinary response.
    """

    sock: socket.socket
    reader: Reader
    close_after_response: Callable[[], object]


class BufferedBytes:
    """A reader over the bytes that a server has read ahead.

    `take` removes them from the server on the first access only, because another library may
    need them.
    """

    def __init__(self, take: Callable[[], bytes]) -> None:
        self._take = take
        self._data: bytes | None = None

    def peek(self, _size: int = 0, /) -> bytes:
        if self._data is None:
            self._data = self._take()
        return self._data

    def read1(self, _size: int = -1, /) -> bytes:
        data, self._data = self.peek(), b""
        return data


MAX_WRAPPERS = 100
"""The maximum number of objects searched for the server's `start_response`."""


def unwrap_start_response(start_response: Any, attribute: str) -> Any:
    """Return the server's object whose method `start_response` is; None if it is not found.

    The object is recognised by its `attribute`. A wrapper may be a closure, a partial, or an
    object that has the wrapped callable in an attribute.
    """
    to_look_at, left = deque([start_response]), MAX_WRAPPERS
    while to_look_at and left:
        found, left = to_look_at.popleft(), left - 1
        owner = getattr(found, "__self__", None)
        if hasattr(owner, attribute):
            return owner
        to_look_at += filter(callable, _wrapped_by(found))
    return None


def _wrapped_by(wrapper: Any) -> Iterable[Any]:
    if isinstance(wrapper, functools.partial):
        return (wrapper.func, *wrapper.args, *wrapper.keywords.values())
    closure = getattr(wrapper, "__closure__", None)
    if closure:
        return [cell.cell_contents for cell in closure]
    return list(getattr(getattr(wrapper, "__self__", wrapper), "__dict__", {}).values())


def gunicorn(environ: Environ, start_response: Any) -> FoundSocket | None:
    sock = environ.get("gunicorn.socket")
    if sock is None:
        return None
    forget_closed_pipes()
    response = unwrap_start_response(start_response, "force_close")
    if response is None:
        return None
    if "HTTP_TRANSFER_ENCODING" in environ:  # a handshake with a body is refused anyway
        return FoundSocket(sock, BufferedBytes(bytes), response.force_close)
    unreader = getattr(getattr(environ.get("wsgi.input"), "reader", None), "unreader", None)
    if unreader is None:
        return None
    return FoundSocket(sock, BufferedBytes(unreader.take_buffered), response.force_close)


def werkzeug(environ: Environ, _: Any) -> FoundSocket | None:
    sock = environ.get("werkzeug.socket")
    stream = environ.get("wsgi.input")
    stream = getattr(stream, "_rfile", stream)  # a chunked body has a wrapper
    if sock is None or not isinstance(stream, io.BufferedReader):
        return None
    return FoundSocket(sock, stream, _nothing)  # werkzeug serves one request per connection


def cheroot(environ: Environ, start_response: Any) -> FoundSocket | None:
    if "Cheroot/" not in str(environ.get("SERVER_SOFTWARE", "")):  # after "CherryPy/…", too
        return None
    gateway = unwrap_start_response(start_response, "req")
    if gateway is None:
        return None
    request = gateway.req
    return FoundSocket(
        request.conn.socket,
        request.conn.rfile,
        lambda: setattr(request, "close_connection", True),
    )


def http_server(environ: Environ, start_response: Any) -> FoundSocket | None:
    """Find the socket in wsgiref, bottle's server and Django's runserver: that of http.server."""
    stream = environ.get("wsgi.input")
    stream = getattr(getattr(stream, "_read", None), "__self__", stream)  # Django wraps it
    sock = getattr(getattr(stream, "raw", None), "_sock", None)
    if not isinstance(stream, io.BufferedReader) or not isinstance(sock, socket.socket):
        return None
    handler = unwrap_start_response(start_response, "request_handler")
    if handler is None:
        return None
    return FoundSocket(  # Django serves several requests per connection
        sock, stream, lambda: setattr(handler.request_handler, "close_connection", True)
    )


def waitress(environ: Environ, _: Any) -> FoundSocket | None:
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    if channel is None:
        return None
    request = channel.requests[0]
    return FoundSocket(
        channel.socket,
        BufferedBytes(functools.partial(early_bytes, channel)),
        lambda: request.headers.update(CONNECTION="close"),
    )


def pywsgi(_: Environ, start_response: Any) -> FoundSocket | None:
    """Find the socket in gevent.pywsgi and gunicorn's gevent_pywsgi worker."""
    handler = unwrap_start_response(start_response, "rfile")
    if "gevent.pywsgi" not in (kind.__module__ for kind in type(handler).__mro__):
        return None  # another server, or no handler found
    return FoundSocket(
        handler.socket,
        handler.rfile,
        lambda: setattr(handler, "close_connection", True),
    )


FINDERS = (gunicorn, werkzeug, cheroot, waitress, pywsgi, http_server)


def find(
    environ: Environ,
    start_response: Any,
    finders: Iterable[Callable[[Environ, Any], FoundSocket | None]] = FINDERS,
) -> FoundSocket | None:
    """Return the socket of a request, None if the server does not expose it."""
    return next((found for finder in finders if (found := finder(environ, start_response))), None)


def _nothing() -> None:
    """Do nothing; the server closes the connection by itself."""
