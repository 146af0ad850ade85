"""Where each WSGI server keeps the socket of a request, and what it has read beyond its head.

A finder looks into the WSGI environment, or at the object behind `start_response`, for what
only its own server has there. To support another server: a finder, and its name in FINDERS.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from .handover import Reader

Environ = dict[str, Any]


class Found(NamedTuple):
    """A request's socket; `hang_up` has the server close it after an ordinary response."""

    sock: socket.socket
    reader: Reader
    hang_up: Callable[[], object]


class TakenAhead:
    """What a server has read ahead, as a buffered reader would show it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def peek(self, _size: int = 0, /) -> bytes:
        return self._data

    def read1(self, _size: int = -1, /) -> bytes:
        data, self._data = self._data, b""
        return data


def gunicorn(environ: Environ, start_response: Any) -> Found | None:
    sock = environ.get("gunicorn.socket")
    unreader = getattr(getattr(environ.get("wsgi.input"), "reader", None), "unreader", None)
    if sock is None or unreader is None:
        return None
    ahead = unreader.take_buffered()
    return Found(sock, TakenAhead(ahead), start_response.__self__.force_close)


def werkzeug(environ: Environ, _: Any) -> Found | None:
    sock = environ.get("werkzeug.socket")
    stream = environ.get("wsgi.input")
    if sock is None or not isinstance(stream, io.BufferedReader):
        return None
    return Found(sock, stream, _nothing)  # it serves one request a connection


def cheroot(environ: Environ, start_response: Any) -> Found | None:
    if not str(environ.get("SERVER_SOFTWARE", "")).startswith("Cheroot/"):
        return None
    request = start_response.__self__.req
    return Found(
        request.conn.socket,
        request.conn.rfile,
        lambda: setattr(request, "close_connection", True),
    )


def http_server(environ: Environ, _: Any) -> Found | None:
    """wsgiref, bottle's server and Django's runserver, whose input is that of http.server."""
    stream = environ.get("wsgi.input")
    stream = getattr(getattr(stream, "_read", None), "__self__", stream)  # Django limits it
    sock = getattr(getattr(stream, "raw", None), "_sock", None)
    if not isinstance(stream, io.BufferedReader) or not isinstance(sock, socket.socket):
        return None
    return Found(sock, stream, _nothing)


def waitress(environ: Environ, _: Any) -> Found | None:
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    if channel is None:
        return None
    following = channel.request if channel.request is not None else None
    ahead = getattr(following, "header_plus", b"") if following is not None else b""
    return Found(channel.socket, TakenAhead(bytes(ahead)), _nothing)


def pywsgi(_: Environ, start_response: Any) -> Found | None:
    """gevent.pywsgi, and gunicorn's worker of that name."""
    handler = getattr(start_response, "__self__", None)
    if "gevent.pywsgi" not in (kind.__module__ for kind in type(handler).__mro__):
        return None
    assert handler is not None
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
