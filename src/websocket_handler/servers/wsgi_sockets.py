"""Where each WSGI server keeps the socket of a request, and what it has read beyond its head.

A finder looks into the WSGI environment, or at the object behind `start_response`, for what
only its own server has there. To support another server: a finder, and its name in FINDERS.
Middleware between the server and ours may wrap `start_response`; the object behind it is
looked for in the wrappers.
"""

from __future__ import annotations

import functools
import io
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ..handover.socket import Reader
from .waitress import early_bytes

Environ = dict[str, Any]


class Found(NamedTuple):
    """A request's socket; `hang_up` has the server close it after an ordinary response."""

    sock: socket.socket
    reader: Reader
    hang_up: Callable[[], object]


class BufferedBytes:
    """The bytes that a server has read ahead, as a buffered reader would show them: taken from it
    by `take` when they are asked for, as they may be another library's."""

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


MOST_WRAPPERS = 100


def behind(start_response: Any, attribute: str) -> Any:
    """The server's object whose method `start_response` is, known by its `attribute`; None
    if there is none.

    A wrapper is a closure, a partial, or an object that has what it wraps in an attribute.
    """
    to_look_at, left = deque([start_response]), MOST_WRAPPERS
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


def gunicorn(environ: Environ, start_response: Any) -> Found | None:
    sock = environ.get("gunicorn.socket")
    if sock is None:
        return None
    response = behind(start_response, "force_close")
    if response is None:
        return None
    if "HTTP_TRANSFER_ENCODING" in environ:  # it has a body, and will be refused for that
        return Found(sock, BufferedBytes(bytes), response.force_close)
    unreader = getattr(getattr(environ.get("wsgi.input"), "reader", None), "unreader", None)
    if unreader is None:
        return None
    return Found(sock, BufferedBytes(unreader.take_buffered), response.force_close)


def werkzeug(environ: Environ, _: Any) -> Found | None:
    sock = environ.get("werkzeug.socket")
    stream = environ.get("wsgi.input")
    stream = getattr(stream, "_rfile", stream)  # it takes chunks apart
    if sock is None or not isinstance(stream, io.BufferedReader):
        return None
    return Found(sock, stream, _nothing)  # it serves one request a connection


def cheroot(environ: Environ, start_response: Any) -> Found | None:
    if not str(environ.get("SERVER_SOFTWARE", "")).startswith("Cheroot/"):
        return None
    gateway = behind(start_response, "req")
    if gateway is None:
        return None
    request = gateway.req
    return Found(
        request.conn.socket,
        request.conn.rfile,
        lambda: setattr(request, "close_connection", True),
    )


def http_server(environ: Environ, start_response: Any) -> Found | None:
    """wsgiref, bottle's server and Django's runserver, whose input is that of http.server."""
    stream = environ.get("wsgi.input")
    stream = getattr(getattr(stream, "_read", None), "__self__", stream)  # Django limits it
    sock = getattr(getattr(stream, "raw", None), "_sock", None)
    if not isinstance(stream, io.BufferedReader) or not isinstance(sock, socket.socket):
        return None
    handler = behind(start_response, "request_handler")
    if handler is None:
        return None
    return Found(  # Django's serves several requests a connection
        sock, stream, lambda: setattr(handler.request_handler, "close_connection", True)
    )


def waitress(environ: Environ, _: Any) -> Found | None:
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    if channel is None:
        return None
    request = channel.requests[0]
    return Found(
        channel.socket,
        BufferedBytes(functools.partial(early_bytes, channel)),
        lambda: request.headers.update(CONNECTION="close"),
    )


def pywsgi(_: Environ, start_response: Any) -> Found | None:
    """gevent.pywsgi, and gunicorn's worker of that name."""
    handler = behind(start_response, "rfile")
    if "gevent.pywsgi" not in (kind.__module__ for kind in type(handler).__mro__):
        return None  # of another server, or None
    return Found(
        handler.socket,
        handler.rfile,
        lambda: setattr(handler, "close_connection", True),
    )


FINDERS = (gunicorn, werkzeug, cheroot, waitress, pywsgi, http_server)


def find(
    environ: Environ,
    start_response: Any,
    finders: Iterable[Callable[[Environ, Any], Found | None]] = FINDERS,
) -> Found | None:
    """The socket of a request, None if the server does not show it."""
    return next((found for finder in finders if (found := finder(environ, start_response))), None)


def _nothing() -> None:
    """The server closes by itself."""
