"""The driver of an asynchronous server, in its own event loop.

The server's table of python-engineio gets another WebSocket. Its queues and its timers for pings,
which the table of an asynchronous server does not contain, are replaced on the server itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from engineio import exceptions
from engineio import packet as engineio_packet

from ..connection.surroundings import Surroundings
from ..errors import WebSocketError
from ..servers.asgi import Receive, Scope, Send
from ..servers.asgi_middleware import ASGIMiddleware
from ..settings import Settings
from ..websocket import WebSocket
from .direct_events import EVENT, Handler, direct_handler, run_now
from .handlers import is_event, outbox_of
from .link import Link, Stage
from .outbox import AsyncOutbox, PacketQueue
from .pings import time_of_ping
from .polls import session_id

REQUESTS = {"asgi": "asgi.scope", "aiohttp": "aiohttp.request", "tornado": "tornado.handler"}
"""The key of the framework's request in the environ, by `async_mode`."""

SCHEMES: Mapping[str, Callable[[Any], str]] = {
    "asgi": lambda scope: str(scope.get("scheme", "http")),
    "aiohttp": lambda request: str(request.scheme),
    "tornado": lambda handler: str(handler.request.protocol),
}
"""The function that returns the scheme of the framework's request, by `async_mode`."""

CHECK_DELAY_S = 0.01
"""Seconds after `ping_timeout` at which a session is checked for its pong."""


class AsyncDriver:
    """Serves one `engineio.AsyncServer` on the engine of its event loop."""

    def __init__(self, eio: Any, settings: Settings, volatile: Collection[str]) -> None:
        if eio.async_mode not in REQUESTS:
            raise ValueError(
                f"the server has async_mode={eio.async_mode!r}, which is not supported: create it "
                f"with one of {', '.join(REQUESTS)}"
            )
        self.eio = eio
        self.settings = settings
        self.volatile = volatile
        self._request_key = REQUESTS[eio.async_mode]
        self._scheme = SCHEMES[eio.async_mode]
        self._start_task = eio.start_background_task
        self._handle_directly: Handler | None = None
        self._trigger = eio._trigger_event
        self._translate = eio._async["translate_request"]
        self._tasks: set[asyncio.Future[Any]] = set()  # a loop has only weak references

    def install(self) -> None:
        """Replace the server's WebSocket, queues and ping timers."""
        eio = self.eio
        eio._async = {
            **eio._async,
            "translate_request": self._translate_request,
            "websocket": self._transport,
        }
        eio._trigger_event = self._trigger_event
        if Surroundings.of(self.settings) is None:
            self._handle_directly = direct_handler(eio)
        eio.create_queue = lambda *_, **__: AsyncOutbox()
        eio.start_background_task = self._start_background_task
        if eio.async_mode == "asgi":
            eio.handle_request = _InnerMiddleware(eio.handle_request, self.settings)

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(delay, call)

    def _transport(self, handler: Any, _: object) -> Callable[[Mapping[str, Any]], Any]:
        """Return the transport of a request to upgrade. The session is the owner of `handler`,
        which would wait for messages and is never called."""
        return partial(self._connect, handler.__self__)

    async def _connect(self, session: Any, environ: Mapping[str, Any]) -> Any:
        websocket = WebSocket.of(environ[self._request_key])
        if websocket is None or session.upgrading:
            return self.eio._bad_request("Invalid websocket upgrade")
        return AsyncLink(self, session, websocket).connect()

    def _start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(target, "__name__", "") == "_send_ping":
            session, due = target.__self__, time.time() + self.eio.ping_interval
            session.last_ping = None  # old versions do it in `_send_ping`
            ping = partial(self._ping, session, due)
            self.call_later(self.eio.ping_interval, lambda: self._run(ping()))
            return None
        outbox = outbox_of(self.eio, target, args) if is_event(target) else None
        if outbox is None:
            return self._start_task(target, *args, **kwargs)
        outbox.event_begins()
        return asyncio.get_running_loop().create_task(_run_event(outbox, target, args))

    @property
    def has_direct_events(self) -> bool:
        """Whether the handlers of all events run in tasks of their own."""
        return self._handle_directly is not None

    def handle_event(self, session: Any, event: str) -> None:
        """Start the task of an event of Socket.IO, the same as `AsyncSocket.receive`."""
        assert self._handle_directly is not None
        logger = self.eio.logger
        logger.info("%s: Received packet MESSAGE data %s", session.sid, event)
        try:
            run_now(self._handle_directly(session.sid, event))
        except Exception:
            logger.exception("message async handler error")

    # Requests of clients that poll

    async def _translate_request(self, *request: Any) -> dict[str, Any]:
        """Return the environ of a request. A poll that comes after the ping timeout finds its
        session closed; the body of a POST waits for the client's handlers."""
        environ: dict[str, Any] = self._translate(*request)
        if inspect.isawaitable(environ):
            environ = await environ
        if not environ:  # the client has left
            return environ
        self._correct_scheme(environ)
        session = self.eio.sockets.get(session_id(environ))
        if session is None:
            return environ
        if environ["REQUEST_METHOD"] == "POST":
            environ["wsgi.input"] = _WaitingBody(environ["wsgi.input"], session.queue)
        elif not session.closed:
            await session.check_ping_timeout()
        return environ

    def _correct_scheme(self, environ: dict[str, Any]) -> None:
        """Set the scheme of a request over TLS: python-engineio assumes `http`, and then refuses
        the origin of each browser."""
        if "HTTP_X_FORWARDED_PROTO" not in environ:
            is_secure = self._scheme(environ[self._request_key]) in ("https", "wss")
            environ["wsgi.url_scheme"] = "https" if is_secure else "http"

    # The end of sessions

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        if event == "disconnect":
            return self._disconnect(*args, **kwargs)
        return self._trigger(event, *args, **kwargs)

    async def _disconnect(self, sid: str, *args: Any, **kwargs: Any) -> Any:
        """Call the handler, then end the session: python-engineio leaves it to the next poll."""
        session = self.eio.sockets.get(sid)
        try:
            return await self._trigger("disconnect", sid, *args, **kwargs)
        finally:
            if session is not None:
                asyncio.get_running_loop().call_soon(self._end, session)

    def _end(self, session: Any) -> None:
        session.queue.end()
        if self.eio.sockets.get(session.sid) is session:
            del self.eio.sockets[session.sid]

    # Pings

    async def _ping(self, session: Any, due: float) -> None:
        """Send a ping, the same as `AsyncSocket._send_ping` after its sleep."""
        if session.closing or session.closed:
            return
        session.last_ping = time_of_ping(due)
        delay = self.eio.ping_timeout + CHECK_DELAY_S
        self.call_later(delay, lambda: self._run(self._check(session)))
        await session.send(engineio_packet.Packet(engineio_packet.PING))

    async def _check(self, session: Any) -> None:
        """Close the session if no pong has arrived."""
        with contextlib.suppress(exceptions.SocketIsClosedError):
            await session.check_ping_timeout()

    def _run(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _WaitingBody:
    """The body of a POST. It is complete once the client may send more events."""

    def __init__(self, body: Any, outbox: AsyncOutbox) -> None:
        self._body = body
        self._outbox = outbox

    async def read(self, length: int) -> bytes:
        """Return `length` bytes."""
        body: bytes = await self._body.read(length)
        await self._outbox.wait_for_handlers()
        return body


async def _run_event(outbox: PacketQueue, target: Any, args: tuple[Any, ...]) -> Any:
    try:
        return await target(*args)
    finally:
        outbox.event_ends()


class AsyncLink(Link):
    """A link whose session has coroutines."""

    __slots__ = ("_receive_later",)

    _driver: AsyncDriver

    def _listen(self) -> None:
        self.websocket.on("close", self._closed_async)
        if self._driver.has_direct_events:
            self._receive_later = self.websocket._callable(self._receive_async)
            self.websocket.on("message", self._receive)
        else:
            self.websocket.on("message", self._receive_async)

    def _receive(self, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith(EVENT) and self._is_idle():
            self._driver.handle_event(self.session, message[1:])
        else:
            self._receive_later(message)

    def _is_idle(self) -> bool:
        """Whether the next packet may be handled: no earlier one waits or is being handled."""
        queue = self.websocket._async_listeners
        return self._stage is Stage.OPEN and queue is not None and not queue.is_working

    async def _receive_async(self, message: str | bytes) -> None:
        if self._stage is not Stage.OPEN:
            self._receive_upgrade(message)
            return
        packet = self._decoded(message)
        if packet is None:
            await self._end_async()
            return
        try:
            await self.session.receive(packet)
        except exceptions.UnknownPacketError:
            pass  # as in python-engineio
        except exceptions.SocketIsClosedError:
            await self._end_async()
        except Exception:
            self._driver.eio.logger.exception("Unknown receive error")
            await self._end_async()
        if self.session.closed:  # by a CLOSE packet
            self._forget()

    async def _closed_async(self, *_: object) -> None:
        if self._stage is Stage.OPEN:
            await self._end_async()
        else:  # the session goes on to poll
            self.session.upgrading = False

    async def _end_async(self) -> None:
        reason = self._driver.eio.reason.TRANSPORT_CLOSE
        await self.session.close(wait=False, abort=True, reason=reason)
        self._forget()


class _InnerMiddleware(ASGIMiddleware):
    """Passes WebSocket requests to the server as HTTP requests, so that it may refuse them with
    any response. Under a Mount, other middleware may be around it: the server is the application.
    """

    async def _check_placement(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept every placement."""


def tornado_handler(server: Any) -> Any:
    """Return the request handler of a server for Tornado, in place of
    `socketio.get_tornado_handler(server)`."""
    from engineio.async_drivers.tornado import get_tornado_handler

    eio = getattr(server, "eio", server)
    if not getattr(eio, "is_served_by_websocket_handler", False):
        raise WebSocketError("call serve() for this server before")

    class Handler(get_tornado_handler(eio)):  # type: ignore[misc]
        async def get(self, *_: Any, **__: Any) -> None:
            await eio.handle_request(self)

    return Handler
