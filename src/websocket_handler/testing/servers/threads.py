"""Serves http.server handler classes and WSGI applications: one thread for each connection.

The handler class of http.server, or that of wsgiref, reads the request from the socket pair, as it
does from a connection.
"""

from __future__ import annotations

import contextlib
import socketserver
import sys
from concurrent.futures import Future
from io import BufferedReader
from socket import SHUT_WR, socket
from threading import Thread
from typing import IO, Any, cast
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler

from ...engine import Engine
from ...servers.http_server import configure_server
from ...servers.request_head import parse_usual, read_usual
from ...servers.wsgi import ENGINE_KEY
from ...settings import Settings
from ..failures import Failures
from ..waiting import Waits, seconds_to
from . import ADDRESS, HOST

PORT = 80


class PairServer(socketserver.BaseServer):
    """A server of request handlers that is given its connections, and listens nowhere."""

    failures: Failures
    server_name: str = HOST
    server_port: int = PORT

    def __init__(self, handler: Any, app: Any = None) -> None:
        """`app` is a WSGI application, for the handler class of wsgiref."""
        super().__init__((HOST, PORT), handler)
        self.engine: Engine = Engine()
        self._app = app
        self.base_environ: dict[str, Any] = {
            "SERVER_NAME": HOST,
            "SERVER_PORT": str(PORT),
            "SCRIPT_NAME": "",
            ENGINE_KEY: self.engine,
        }

    def get_request(self) -> Any:
        raise NotImplementedError  # `configure_server` expects the method; there is no `accept`

    def get_app(self) -> Any:
        return self._app


def handler_server(handler: Any, settings: Settings | None) -> PairServer:
    """Return the server of a handler class of http.server."""
    server = PairServer(handler)
    return configure_server(server, engine=server.engine, settings=settings)


def wsgi_server(app: Any) -> PairServer:
    """Return the server of a WSGI application. `WSGIMiddleware` uses its engine."""
    return PairServer(WSGIRequests, app)


class WSGIRequests(WSGIRequestHandler):
    """The request handler of wsgiref, with a record of the application's exceptions."""

    server: Any
    raw_requestline: bytes

    def handle(self) -> None:
        self.raw_requestline = self.rfile.readline(1 << 16)
        if not self.raw_requestline or not self.parse_request():
            return
        run = ApplicationRun(
            cast("IO[bytes]", self.rfile),
            cast("IO[bytes]", self.wfile),
            self.get_stderr(),
            self.get_environ(),
            multiprocess=False,
        )
        run.request_handler = self  # as in wsgiref
        run.run(self.server.get_app())

    def parse_request(self) -> bool:
        """Parse the request that `raw_requestline` begins. The standard library parses those that
        `parse_usual` does not."""
        fields, end, _ = cast("BufferedReader", self.rfile).peek().partition(b"\r\n\r\n")
        lines = fields + end
        parsed = parse_usual(self.raw_requestline, lines)
        if parsed is None:
            return super().parse_request()
        read_usual(self, lines, *parsed)
        return True

    def log_message(self, *_: Any) -> None:
        """Log nothing: a test sees the responses."""


class ApplicationRun(ServerHandler):
    """Runs the application for one request and writes its response."""

    request_handler: WSGIRequests

    def log_exception(self, exc_info: Any) -> None:
        self.request_handler.server.failures.record(exc_info[1])


class ThreadServer:
    """Serves the requests of a `PairServer` in threads. The engine has its own threads."""

    def __init__(self, server: PairServer, failures: Failures) -> None:
        self._server = server
        self._failures = server.failures = failures
        self.engine: Engine = server.engine
        self._threads: dict[Future[None], Thread] = {}

    async def start(self, waits: Waits, until: float) -> None:
        """Do nothing: the first connection starts the engine."""

    def serve(self, sock: socket) -> Future[None]:
        for done in [future for future in self._threads if future.done()]:
            del self._threads[done]
        future: Future[None] = Future()
        thread = Thread(
            target=self._failures.context().run,
            args=(self._handle, sock, future),
            name=f"websocket-test-request-{len(self._threads) + 1}",
            daemon=True,
        )
        self._threads[future] = thread
        thread.start()
        return future

    def _handle(self, sock: socket, future: Future[None]) -> None:
        try:
            self._server.finish_request(sock, ADDRESS)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the test has closed the connection
        except BaseException as error:
            self._failures.record(error)
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(SHUT_WR)
            sock.close()
            close_database_connections()
            future.set_result(None)

    async def stop(self, waits: Waits, until: float) -> None:
        for future, thread in self._threads.items():
            if not await waits.done(future, until):
                raise TimeoutError("a handler runs on after the end of its connection")
            thread.join()
        self.engine.stop(seconds_to(until))
        for thread in getattr(self.engine, "_threads", ()):
            thread.join(seconds_to(until))
            if thread.is_alive():
                raise TimeoutError("a listener runs on after the end of its connection")


def close_database_connections() -> None:
    """Close Django's database connections of the thread, as Django's own server does."""
    database = sys.modules.get("django.db")
    if database is not None and sys.modules["django.conf"].settings.configured:
        database.connections.close_all()
