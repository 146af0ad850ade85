"""WSGI without a framework."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from werkzeug.middleware.proxy_fix import ProxyFix

from websocket_handler import WSGIMiddleware

from .routes import REQUEST_ID, respond, wait_for_client


class Body:
    """A body whose `close()` goes on working."""

    def __init__(self, data: bytes, works_on: bool) -> None:
        self._data = data
        self._works_on = works_on

    def __iter__(self) -> Iterator[bytes]:
        yield self._data

    def close(self) -> None:
        if self._works_on:
            wait_for_client()


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    status, body = respond(environ, path)
    fields = [("X-Request-Id", REQUEST_ID), ("Content-Type", "text/plain")]
    if path == "/logs-in":
        fields.append(("Set-Cookie", "session=alice"))
    start_response(f"{status} Some Reason", fields)
    return Body(body.encode(), path == "/works-on")


def failing_after(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Middleware that fails when the application has responded."""
    response = application(environ, start_response)
    if environ["PATH_INFO"] == "/hook-raises":
        raise RuntimeError("as the test wants it")
    return response


app = WSGIMiddleware(ProxyFix(failing_after))
