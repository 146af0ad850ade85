"""The blocking test client. `async_client` is its twin for coroutines."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import ConnectionClosed
from ..protocol.close_codes import CloseCode
from ..protocol.printable import printable
from ..protocol.request import Headers
from ..protocol.versions import DEFAULT_VERSIONS, Version
from ..settings import Settings, with_options
from .cookies import Cookies
from .failures import Failures
from .messages import Body, Fields, Response
from .peer import Peer
from .servers import HOST, Interface, server_for
from .session import Session
from .waiting import BlockingWaits, LoopWaits, run

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..settings import SettingsOptions

DEFAULT_TIMEOUT_S = 1.0
"""The default limit of every wait."""


class BaseClient:
    """The part of both clients that does not wait."""

    _in_running_loop: bool

    def __init__(
        self,
        app: Any,
        *,
        interface: Interface | None = None,
        cookies: object = None,
        headers: Fields = (),
        host: str = HOST,
        timeout: float = DEFAULT_TIMEOUT_S,
        raise_server_exceptions: bool = True,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> None:
        """Prepare a client of `app`; entering it with `with` starts the application.

        - `app` is a WSGI, ASGI, aiohttp or Tornado application, or a handler class of http.server.
        - `interface` ("wsgi", "asgi", "aiohttp", "tornado" or "http.server") is needed only if the
          kind of the application cannot be recognised.
        - `cookies` is a mapping, or another test client whose cookies are copied: Flask's
          `app.test_client()`, Django's `Client()`.
        - `headers` are sent with every request, `host` is their Host header.
        - `timeout` is the limit of every wait, in seconds, unless a call has its own (default: 1).
        - `raise_server_exceptions`: exceptions of handlers and listeners are raised in the test
          (default). False: the test sees their effect only, a status 500 or a close with 1011.
        - `settings`, and `options`, which are its fields by name, are those of `configure_server`
          for a handler class, and those of the server for an ASGI application. Other applications
          pass theirs to `WSGIMiddleware` or to `websocket()`.

        Raises `TypeError` if the kind of the application is not known.
        """
        chosen = with_options(settings, options) if settings or options else None
        failures = Failures(raise_server_exceptions)
        server = server_for(app, interface, chosen, failures, self._in_running_loop)
        waits = LoopWaits() if self._in_running_loop else BlockingWaits()
        self._session = Session(server, failures, waits, cookies, headers, host, timeout)

    @property
    def cookies(self) -> Cookies:
        """The cookies that the client sends: a mapping, which can be changed."""
        return self._session.cookies

    @property
    def timeout(self) -> float:
        """The limit of every wait, in seconds."""
        return self._session.timeout


class BaseConnection:
    """The part of both kinds of WebSockets that does not wait."""

    def __init__(self, session: Session, peer: Peer) -> None:
        self._session = session
        self._peer = peer

    def __repr__(self) -> str:
        state = "open" if self.close_code is None else f"closed with {self.close_code}"
        return f"<{type(self).__name__} {printable(self._peer.path)} {state}>"

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the application has selected, or None."""
        return self._peer.established.subprotocol

    @property
    def headers(self) -> Headers:
        """The header fields of the 101 response."""
        return self._peer.established.headers

    @property
    def close_code(self) -> int | None:
        """The close code once the connection is closed (RFC 6455 section 7.1.5), else None."""
        return self._peer.close.code if self._peer.close is not None else None

    @property
    def close_reason(self) -> str | None:
        """The reason of the close once the connection is closed, else None."""
        return self._peer.close.reason if self._peer.close is not None else None

    def stop_reading(self) -> None:
        """Read nothing until `resume_reading()`, not even pings: as a peer that hangs, or that is
        too slow for its messages."""
        self._peer.stop_reading()

    def resume_reading(self) -> None:
        """Read again after `stop_reading()`."""
        self._peer.resume_reading()


class Client(BaseClient):
    """A client of a web application, without a port, for tests.

    ::

        with Client(app) as client:
            client.post("/login", data={"user": "alice"})
            with client.connect("/chat") as ws:
                ws.send("hello")
                assert ws.receive() == "hello"

    Each connection is a socket pair. Its other end is served as by a real server: handler,
    handshake, engine and codec are those of production. An application that runs in an event loop
    gets a loop of its own, in a thread; the others get a thread for each request.

    Every wait has a limit. After it, `TimeoutError` is raised, which names the awaited event.
    """

    _in_running_loop = False

    def __enter__(self) -> Client:
        """Start the application: the lifespan of ASGI, the startup of aiohttp."""
        run(self._session.start())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close all connections and stop the application, with all its threads and tasks. Raises an
        exception of the application that was not raised before."""
        run(self._session.stop(is_raising=kind is None))

    def connect(
        self,
        path: str,
        *,
        version: Version | str = DEFAULT_VERSIONS[0],
        subprotocols: Sequence[str] = (),
        headers: Fields = (),
        cookies: object = None,
        origin: str | None = None,
        timeout: float | None = None,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> ClientConnection:
        """Open a WebSocket to `path`, which may have a query.

        `version`, `subprotocols`, `headers` and `origin` are as in `websocket_handler.connect`.
        `cookies` are sent in addition to those of the client. `settings`, and `options`, which are
        its fields by name, are those of the client's end: `compression=True` offers compression.

        Raises `HandshakeFailed` if the application rejects the handshake, with its `status`,
        `headers` and `body`; the application's exception, if it has raised one; `TimeoutError` if
        it does not respond in time; `ValueError` for an invalid argument.
        """
        opening = self._session.connect(
            path,
            version,
            subprotocols,
            headers,
            cookies,
            origin,
            timeout,
            with_options(settings, options),
        )
        return ClientConnection(self._session, run(opening))

    def request(
        self,
        method: str,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send an ordinary request, and return its response once the handler is done.

        `data` is the body: bytes, a str, or a mapping, which is sent as a form. `json` is sent as
        JSON. `cookies` are sent in addition to those of the client. Redirects are not followed.

        Raises the application's exception, if it has raised one, and `TimeoutError` if it does not
        respond in time.
        """
        return run(self._session.request(method, path, headers, cookies, data, json, timeout))

    def get(
        self,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a GET request: see `request()`."""
        return self.request("GET", path, headers=headers, cookies=cookies, timeout=timeout)

    def post(
        self,
        path: str,
        *,
        headers: Fields = (),
        cookies: object = None,
        data: Body = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> Response:
        """Send a POST request: see `request()`."""
        return self.request(
            "POST",
            path,
            headers=headers,
            cookies=cookies,
            data=data,
            json=json,
            timeout=timeout,
        )

    def advance(self, seconds: float) -> None:
        """Move the clock of the application's connections forward: keep-alive pings are sent, and
        time-outs pass, as if this time had passed.

        WebSockets of this client answer the pings, except after `stop_reading()`. `time.monotonic`
        and `asyncio.sleep` are not affected.
        """
        run(self._session.advance(seconds))


class ClientFactory(Protocol):
    """The type of the fixture `websocket_client`: starts clients, which end with the test.

    Takes the arguments of `Client`. The ini option `websocket_timeout` of pytest is the default of
    `timeout`.
    """

    def __call__(self, app: Any, **options: Any) -> Client: ...


class ClientConnection(BaseConnection):
    """The client's end of a WebSocket: `client.connect(path)`.

    It reads only within its methods and in `Client.advance`; then it answers pings, too.
    """

    def __enter__(self) -> ClientConnection:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close with 1000, or with 1011 after an exception, and wait for the end of the connection
        and of the handler. Raises an exception of the application that was not raised before."""
        if kind is None or issubclass(kind, ConnectionClosed):
            self.close()
            return
        with contextlib.suppress(Exception):  # the test has failed with another one
            self.close(CloseCode.INTERNAL_ERROR)

    def send(self, message: str | bytes, timeout: float | None = None) -> None:
        """Send a message: str as text, bytes as binary.

        Raises `TimeoutError` if the application does not read it in time, `ConnectionClosed` if the
        connection is closed, or the application's exception.
        """
        run(self._peer.send(message, timeout))

    def send_raw(self, data: bytes, timeout: float | None = None) -> None:
        """Send bytes as they are: invalid frames, or parts of frames. Raises as `send()`."""
        run(self._peer.send_raw(data, timeout))

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message: str for text, bytes for binary.

        Raises `TimeoutError` if there is none in time; `ConnectionClosed` if the connection is
        closed and every message was received; before that, the application's exception if it has
        raised one; `ProtocolError` if the application violates the protocol, or a limit of this end
        (`max_message_size` is an argument of `connect()`).
        """
        return run(self._peer.receive(timeout))

    def ping(self, payload: str | bytes = b"", timeout: float | None = None) -> None:
        """Send a ping, and wait for its pong. Raises as `receive()`."""
        run(self._peer.ping(payload, timeout))

    def close(
        self,
        code: int = CloseCode.NORMAL_CLOSURE,
        reason: str = "",
        timeout: float | None = None,
    ) -> None:
        """Close the connection, and wait for its end and for the end of the handler.

        Messages that were received before can still be received. Raises `TimeoutError` if the
        application does not close the connection in time, `ValueError` for a code that must not be
        sent, or the application's exception.
        """
        run(self._session.close(self._peer, code, reason, timeout))

    def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the application closes the connection. Messages are kept for `receive()`.
        Raises `TimeoutError` if it does not, or the application's exception."""
        run(self._session.wait_closed(self._peer, timeout))
