"""WSGI applications, under any server that shows the socket of a request.

A request that asks for a WebSocket finds it in `environ["wsgi.websocket"]` and goes through
the application like any other. `connect()` takes the socket away from the server, which
answers into the void; the engine gets it when the application has returned and its
iterable is closed, so that teardown functions run then, and not at the end of the socket.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from ..engine import Engine
from ..errors import WebSocketError
from ..protocol.request import Headers, Request, address_of, is_websocket_request
from ..settings import Settings
from ..websocket import WebSocket
from .forwarded import in_environ
from .handover import HandOver, SocketHandOver
from .lookup import WSGI_KEY
from .waitress import prepare
from .wsgi_sockets import Environ, Found, find

KEY = WSGI_KEY
Application = Callable[[Environ, Any], Iterable[bytes]]


class WSGIMiddleware:
    """Lets a WSGI application find WebSockets among its requests.

    `application` gets `environ["wsgi.websocket"]`: a `WebSocket`, or None for ordinary
    requests. What it returns after `connect()` is discarded. `engine` is where the
    WebSockets live, by default a background thread of the process; `settings` are those of
    `Settings`. Under a server that does not show its socket, `connect()` raises
    `WebSocketError`.
    """

    def __init__(
        self, application: Application, *, engine: Engine | None = None, **settings: Any
    ) -> None:
        self._application = application
        self._engine = engine
        self._settings = Settings(**settings)
        prepare()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if "waitress.client_disconnected" in environ:  # it may have been imported later
            prepare()
        headers = headers_of(environ)
        if not is_websocket_request(environ["REQUEST_METHOD"], headers):
            environ.setdefault(KEY, None)
            return self._application(environ, start_response)
        if environ.get(KEY) is not None:  # the server provides it: `configure_server`
            environ[KEY]._follow(partial(in_environ, environ))
            return self._application(environ, start_response)
        found = find(environ, start_response)
        hand_over = SocketHandOver(found.sock, found.reader, self._engine) if found else None
        websocket = WebSocket(
            request_of(environ, headers),
            self._settings,
            engine=self._engine,
            server=self,
            when_connecting=hand_over.secure if hand_over else lambda: refuse_to_connect(environ),
            when_receiving=hand_over.hasten if hand_over else None,
        )
        websocket._follow(partial(in_environ, environ))
        environ[KEY] = websocket
        environ.pop("HTTP_UPGRADE", None)  # werkzeug's router would answer 400 to it
        return self._answer(_Call(environ, start_response, websocket, hand_over, found))

    def _answer(self, call: _Call) -> Iterable[bytes]:
        try:
            result = self._application(call.environ, call.start_response)
            chunks = iter(result)
            first = next(chunks, b"")  # a generator does its work only now
        except BaseException:
            if call.hand_over is not None:
                call.hand_over.abandon(call.websocket)
            raise
        if call.websocket.outcome is None:
            call.respond()
            return _Response(itertools.chain([first], chunks), result)
        _close(result)
        assert call.hand_over is not None
        call.hand_over.complete(call.websocket)
        call.respond_with_nothing()
        return []


class _Call:
    """One request: holds the application's response back until it is known to be wanted."""

    def __init__(
        self,
        environ: Environ,
        start_response: Any,
        websocket: WebSocket,
        hand_over: HandOver | None,
        found: Found | None,
    ) -> None:
        self.environ = environ
        self.websocket = websocket
        self.hand_over = hand_over
        self._server_start_response = start_response
        self._found = found
        self._response: tuple[Any, ...] | None = None

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._response = (status, headers, exc_info)
        return self._write

    def _write(self, data: bytes) -> None:
        if self.websocket.outcome is None:
            self.respond()(data)

    def respond(self) -> Any:
        """An ordinary response; nothing after it may be taken for HTTP."""
        if self._found is not None:
            self._found.hang_up()
        if self._response is None:
            return None
        status, headers, exc_info = self._response
        self._response = None
        if exc_info is None:
            return self._server_start_response(status, headers)
        return self._server_start_response(status, headers, exc_info)

    def respond_with_nothing(self) -> None:
        """What the server believes to have sent, for its log."""
        outcome = self.websocket.outcome
        assert outcome is not None
        status = HTTPStatus(outcome.status)
        self._server_start_response(f"{status.value} {status.phrase}", [])


class _Response:
    """The application's iterable, of which one item was taken already."""

    def __init__(self, chunks: Iterator[bytes], result: Iterable[bytes]) -> None:
        self._chunks = chunks
        self._result = result

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        _close(self._result)


def _close(result: Iterable[bytes]) -> None:
    close = getattr(result, "close", None)
    if close is not None:
        close()


def headers_of(environ: Environ) -> Headers:
    """The header fields of a request, as far as WSGI keeps them: repeated ones are joined."""
    fields = [
        (name.removeprefix("HTTP_").replace("_", "-").title(), value)
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    if environ.get("CONTENT_LENGTH"):
        fields.append(("Content-Length", environ["CONTENT_LENGTH"]))
    return Headers(fields)


def request_of(environ: Environ, headers: Headers) -> Request:
    path = quote(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""), encoding="latin-1")
    query = environ.get("QUERY_STRING")
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return Request(
        method=environ["REQUEST_METHOD"],
        target=target or f"{path}?{query}" if query else target or path,
        headers=headers,
        http_version=environ.get("SERVER_PROTOCOL", "HTTP/1.1").removeprefix("HTTP/"),
        remote_address=address_of(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT")),
        scheme=environ["wsgi.url_scheme"],
    )


def refuse_to_connect(environ: Environ) -> None:
    unnamed = "uWSGI" if "uwsgi.version" in environ else "this server"
    server = environ.get("SERVER_SOFTWARE", unnamed)
    raise WebSocketError(
        f"{server} does not show the socket of a request (or other middleware around "
        "WSGIMiddleware hides it), so no WebSocket can be connected: see docs/servers.md for "
        "servers that do"
    )
