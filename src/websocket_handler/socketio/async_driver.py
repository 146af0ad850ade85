"""The driver of an asynchronous server, in its own event loop.

The server's table of python-engineio gets another WebSocket. Its queues and its timers for pings,
which the table of an asynchronous server does not contain, are replaced on the server itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from engineio import packet as engineio_packet

from ..connection.surroundings import Surroundings
from ..settings import Settings
from .async_link import AsyncLink
from .async_requests import AsyncRequests, InnerMiddleware
from .direct_events import Handler, direct_handler, run_now
from .handlers import is_event, outbox_of, session_of
from .outbox import AsyncOutbox, PacketQueue
from .pings import time_of_ping

CHECK_DELAY_S = 0.01
"""Seconds after `ping_timeout` at which a session is checked for its pong."""


class AsyncDriver:
    """Serves one `engineio.AsyncServer` on the engine of its event loop."""

    def __init__(self, eio: Any, settings: Settings, volatile: Collection[str]) -> None:
        self.eio = eio
        self.settings = settings
        self.volatile = volatile
        self._requests = AsyncRequests(eio)
        self._start_task = eio.start_background_task
        self._handle_directly: Handler | None = None
        self._trigger = eio._trigger_event
        self._tasks: set[asyncio.Future[Any]] = set()  # a loop has only weak references

    def install(self) -> None:
        """Replace the server's WebSocket, queues and ping timers."""
        eio = self.eio
        eio._async = {
            **eio._async,
            "translate_request": self._requests.translate,
            "websocket": self._transport,
        }
        eio._trigger_event = self._trigger_event
        if Surroundings.of(self.settings) is None:
            self._handle_directly = direct_handler(eio)
        eio.create_queue = lambda *_, **__: AsyncOutbox(self)
        eio.start_background_task = self._start_background_task
        if eio.async_mode == "asgi":
            eio.handle_request = InnerMiddleware(eio.handle_request, self.settings)

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        asyncio.get_running_loop().call_later(delay, call)

    def _transport(self, handler: Any, _: object) -> Callable[[Mapping[str, Any]], Any]:
        """Return the transport of a request to upgrade. The session is the owner of `handler`,
        which would wait for messages and is never called."""
        return partial(self._connect, handler.__self__)

    async def _connect(self, session: Any, environ: Mapping[str, Any]) -> Any:
        websocket = self._requests.websocket(environ)
        if websocket is None or session.upgrading:
            return self.eio._bad_request("Invalid websocket upgrade")
        return AsyncLink(self, session, websocket).connect()

    def _start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(target, "__name__", "") == "_send_ping":
            session, due = target.__self__, time.time() + self.eio.ping_interval
            session.last_ping = None  # old versions do it in `_send_ping`
            sid = session.sid  # not the session, which may end before
            self.call_later(self.eio.ping_interval, lambda: self._run(self._ping(sid, due)))
            return None
        outbox = outbox_of(self.eio, target, args) if is_event(target) else None
        if outbox is None:
            return self._start_task(target, *args, **kwargs)
        weight = outbox.event_begins()
        return asyncio.get_running_loop().create_task(_run_event(outbox, weight, target, args))

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

    def end_session_of(self, outbox: PacketQueue) -> None:
        """End the session of an outbox soon: its client does not poll."""
        session = session_of(self.eio, outbox)
        if session is not None:
            reason = self.eio.reason.TRANSPORT_ERROR
            self._run(session.close(wait=False, abort=True, reason=reason))

    # Pings

    async def _ping(self, sid: str, due: float) -> None:
        """Send a ping unless the session has ended; like `AsyncSocket._send_ping` after its
        sleep."""
        session = self.eio.sockets.get(sid)
        if session is None or session.closing or session.closed:
            return
        session.last_ping = time_of_ping(due)
        delay = self.eio.ping_timeout + CHECK_DELAY_S
        self.call_later(delay, lambda: self._run(self._check(sid)))
        await session.send(engineio_packet.Packet(engineio_packet.PING))

    async def _check(self, sid: str) -> None:
        """Close the session if no pong has arrived."""
        session = self.eio.sockets.get(sid)
        if session is not None and not session.closed:
            await session.check_ping_timeout()

    def _run(self, coroutine: Any) -> None:
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _run_event(outbox: PacketQueue, weight: int, target: Any, args: tuple[Any, ...]) -> Any:
    try:
        return await target(*args)
    finally:
        outbox.event_ends(weight)
