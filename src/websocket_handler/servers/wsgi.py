"""WSGI applications, under every server that exposes the socket of a request.

A WebSocket request passes through the application like any other request, with its WebSocket in
`environ["wsgi.websocket"]`. `connect()` takes the socket from the server, whose later writes are
discarded. The engine gets the socket when the application has returned its status and the first
item of its iterable. The iterable is closed right after that, so teardown functions do not wait for
the end of the connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

from ..engine import Engine
from ..errors import ConnectionMoved, WebSocketError
from ..handover.base import Handover
from ..handover.socket import SocketHandover
from ..moving.arrivals import arrival_in_environ
from ..protocol.handshake import phrase
from ..protocol.request import Headers, Request, address_of, http_scheme, is_websocket_request
from ..settings import Settings, with_options
from ..websocket import Stream, WebSocket
from . import waitress, werkzeug
from .forwarded import in_environ
from .lookup import WSGI_KEY
from .wsgi_sockets import Environ, FoundSocket, find

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

KEY = WSGI_KEY
ENGINE_KEY = "websocket_handler.engine"
"""The key of the environ by which a server chooses the engine, as `websocket_handler.testing` does.
It overrides the engine of the middleware."""

Application = Callable[[Environ, Any], Iterable[bytes]]


class WSGIMiddleware:
    """Passes WebSocket requests to a WSGI application.

    `environ["wsgi.websocket"]` is a `WebSocket`, or None for an ordinary request;
    `WebSocket.of(request)` returns it.

    The response decides after `connect()`. A status below 400 accepts the WebSocket: cookies and
    most other headers are added to the 101, and the body is discarded. A status of 400 or more
    rejects it, and the client gets the response. Without `connect()`, another library may handle
    the upgrade.

    `engine` serves the WebSockets; the default runs in a background thread of the process.
    `settings` is a `Settings`; `options` are its fields by name. `connect()` raises
    `WebSocketError` under a server that does not expose its socket.
    """

    def __init__(
        self,
        application: Application,
        *,
        engine: Engine | None = None,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> None:
        self._application = application
        self._engine = engine
        self._settings = with_options(settings, options)
        waitress.patch_parser()

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if "waitress.client_disconnected" in environ:  # waitress may have been imported later
            waitress.patch_parser()
        headers = headers_of(environ)
        if not is_websocket_request(environ["REQUEST_METHOD"], headers):
            environ.setdefault(KEY, None)
            return self._application(environ, start_response)
        if environ.get(KEY) is not None:  # from `configure_server`
            environ[KEY]._follow(partial(in_environ, environ))
            return self._application(environ, start_response)
        werkzeug.patch_router()
        arrival = arrival_in_environ(environ)
        found = find(environ, start_response)
        engine = environ.get(ENGINE_KEY, self._engine)
        handover = (
            SocketHandover(found.sock, found.reader, engine) if found else HiddenHandover(environ)
        )
        handover.arrival = arrival
        environ[KEY] = websocket = WebSocket(
            request_of(environ, headers), self._settings, engine=engine, handover=handover
        )
        websocket._follow(partial(in_environ, environ))
        return self._answer(_Call(environ, start_response, handover, found))

    def _answer(self, call: _Call) -> Iterable[bytes]:
        try:
            result = self._application(call.environ, call.start_response)
        except ConnectionMoved:
            return call.end_of_moved()
        except BaseException:
            call.handover.abort()
            raise
        try:
            chunks = iter(result)
            first = next(chunks, b"")  # runs a generator up to its first item
            if not call.handover.is_detached:
                call.respond()
                return _Response(itertools.chain([first], chunks), result)
            call.complete(itertools.chain([first], chunks))
        except ConnectionMoved:
            _close(result)
            return call.end_of_moved()
        except BaseException:
            call.handover.abort()
            _close(result)
            raise
        _close(result)
        call.respond_with_nothing()
        return []


class HiddenHandover(Handover):
    """The handover of a server that does not expose its socket. `connect()` raises."""

    def __init__(self, environ: Environ) -> None:
        super().__init__()
        self._environ = environ

    def _take(self) -> Stream:
        refuse_to_connect(self._environ)


class _Call:
    """One WebSocket request. Delays its response until the first item of the body is known."""

    def __init__(
        self, environ: Environ, start_response: Any, handover: Handover, found: FoundSocket | None
    ) -> None:
        self.environ = environ
        self.handover = handover
        self._server_start_response = start_response
        self._found = found
        self._response: tuple[Any, ...] | None = None
        self._is_body_wanted: bool | None = None  # None until the status is known

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], object]:
        self._response = (status, headers, exc_info)
        return self._write

    def _write(self, data: bytes) -> None:
        if self.handover.is_detached:
            self.complete([data], is_last=False)
        else:
            self.respond()(data)

    def respond(self) -> Any:
        """Respond through the server, which closes the connection and reads no other request."""
        if self._found is not None:
            self._found.close_after_response()
        if self._response is None:
            return None
        status, headers, exc_info = self._response
        self._response = None
        self.handover.decline(status_of(status))
        if exc_info is None:
            return self._server_start_response(status, headers)
        return self._server_start_response(status, headers, exc_info)

    def complete(self, chunks: Iterable[bytes], is_last: bool = True) -> None:
        """Pass the response after `connect()` to the handover. It decides about the WebSocket."""
        if self._is_body_wanted is None:
            status, headers, _ = self._response or ("200 OK", [], None)
            reason = status.partition(" ")[2]
            self._is_body_wanted = self.handover.begin_response(status_of(status), headers, reason)
        if self._is_body_wanted:
            for chunk in chunks:
                self.handover.write(chunk)
            self.handover.write(b"", is_last)

    def end_of_moved(self) -> Iterable[bytes]:
        """End a handler that has received messages until its connection was moved."""
        self.handover.complete()
        self.respond_with_nothing()
        return []

    def respond_with_nothing(self) -> None:
        """Pass the status that the client received to the server, for its access log."""
        status = self.handover.status
        self._server_start_response(f"{status} {phrase(status)}", [])


def status_of(status: str) -> int:
    """Return the number in a WSGI status such as "200 OK"."""
    return int(status.partition(" ")[0])


class _Response:
    """The application's iterable, including the first item, which has been read from it."""

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
    """Return the header fields of a request. WSGI servers have joined repeated fields."""
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
        scheme=http_scheme(environ["wsgi.url_scheme"]),
    )


def refuse_to_connect(environ: Environ) -> NoReturn:
    unnamed = "uWSGI" if "uwsgi.version" in environ else "this server"
    server = environ.get("SERVER_SOFTWARE", unnamed)
    raise WebSocketError(
        f"{server} does not expose the socket of a request (or middleware around WSGIMiddleware "
        "hides it), so connect() is not possible: docs/servers.md lists servers that do"
    )
