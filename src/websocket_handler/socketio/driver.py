"""The driver of a synchronous server: python-engineio's table of queues, threads and WebSockets.

`server.eio._async` is a dictionary in which a driver of python-engineio says how to make a queue, a
thread or a WebSocket. A server that is served here has a copy with four other entries. Nothing
of the protocol is replaced.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from engineio import packet as engineio_packet

from ..connection.surroundings import Surroundings
from ..engine import Engine, default_engine
from ..engine.running_loop import is_gevent
from ..servers.wsgi import KEY
from ..settings import Settings
from ..websocket import WebSocket
from .handlers import EventTask, HandlerThreads, is_event, outbox_of, session_of
from .link import Link
from .outbox import Outbox, PacketQueue
from .pings import time_of_ping
from .polls import Requests

MODES = ("threading", "gevent")


class SyncDriver:
    """Serves one `engineio.Server` on an engine."""

    def __init__(
        self,
        eio: Any,
        settings: Settings,
        volatile: Collection[str],
        threads: int,
        engine: Engine | None,
    ) -> None:
        check_mode(eio)
        self.eio = eio
        self.settings = settings
        self.volatile = volatile
        self._engine = engine
        self._table: Mapping[str, Any] = eio._async
        self._trigger = eio._trigger_event
        self._pool = HandlerThreads(threads)
        self._surroundings: Surroundings | None = None
        self._knows_surroundings = False

    def install(self) -> None:
        """Replace the server's table, and the function that handles its requests."""
        self.eio._async = {
            **self._table,
            "queue": lambda *_, **__: Outbox(self),
            "thread": self._thread,
            "websocket": self._transport,
        }
        self.eio.handle_request = Requests(self)
        self.eio._trigger_event = self._trigger_event

    @property
    def engine(self) -> Engine:
        return self._engine or default_engine()

    @property
    def given_engine(self) -> Engine | None:
        """The engine that was passed to `serve`."""
        return self._engine

    def call_later(self, delay: float, call: Callable[[], object]) -> None:
        self.engine._call_later(delay, call)

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        """Call the handler of an event of Engine.IO. Removes a session that has ended, which
        python-engineio leaves to a thread that looks at all sessions in `ping_timeout` seconds."""
        try:
            return self._trigger(event, *args, **kwargs)
        finally:
            if event == "disconnect":
                self.eio.sockets.pop(args[0], None)

    def end_session_of(self, outbox: PacketQueue) -> None:
        """End the session of an outbox soon: its client does not poll."""
        self.call_later(0, partial(self._end_session_of, outbox))

    def _end_session_of(self, outbox: PacketQueue) -> None:
        session = session_of(self.eio, outbox)
        if session is not None:
            reason = self.eio.reason.TRANSPORT_ERROR
            session.close(wait=False, abort=True, reason=reason)

    # The table

    def _transport(self, handler: Any, _: object) -> Callable[..., Any]:
        """Return the transport of a request to upgrade. The session is the owner of `handler`,
        which would wait for messages in the thread of the request and is never called."""
        return partial(self._connect, handler.__self__)

    def _connect(self, session: Any, environ: Mapping[str, Any], _: object) -> Any:
        websocket: WebSocket | None = environ[KEY]
        if websocket is None or session.upgrading:
            return self.eio._bad_request("Invalid websocket upgrade")
        return Link(self, session, websocket).connect()

    def _thread(
        self, target: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Return an object whose `start()` runs a background task of the server."""
        if getattr(target, "__name__", "") == "_send_ping":
            return PingTimer(self, target.__self__)
        call = partial(target, *args, **(kwargs or {}))
        if is_event(target):
            return EventTask(call, outbox_of(self.eio, target, tuple(args)), self._run)
        return self._table["thread"](target=call)

    def _run(self, task: EventTask) -> None:
        call = partial(self._call_surrounded, task)
        if is_gevent():
            self._table["thread"](target=call).start()
        elif not task.is_of_websocket and self._pool.is_full():
            call()  # in the thread of the client's POST: the client waits for its response
        else:
            self._pool.run(call)

    def _call_surrounded(self, task: EventTask) -> None:
        if not self._knows_surroundings:
            self._surroundings = Surroundings.of(replace(self.settings, keep_context=False))
            self._knows_surroundings = True
        if self._surroundings is None:
            task()
        else:
            self._surroundings.call(task)


class PingTimer:
    """Sends the next ping of a session by a timer of the engine. `Socket._send_ping` of
    python-engineio sleeps in a thread instead."""

    def __init__(self, driver: SyncDriver, session: Any) -> None:
        self._driver = driver
        self._session = session

    def start(self) -> None:
        self._session.last_ping = None  # old versions do it in `_send_ping`
        eio, sid = self._driver.eio, self._session.sid  # not the session, which may end before
        interval = eio.ping_interval
        self._driver.call_later(interval, partial(send_ping, eio, sid, time.time() + interval))


def send_ping(eio: Any, sid: str, due: float) -> None:
    """Send a ping unless the session has ended; like `Socket._send_ping` after its sleep."""
    session = eio.sockets.get(sid)
    if session is not None and not session.closing and not session.closed:
        session.last_ping = time_of_ping(due)
        session.send(engineio_packet.Packet(engineio_packet.PING))


def check_mode(eio: Any) -> None:
    """Raise `ValueError` for an `async_mode` that is not supported."""
    if eio.async_mode not in MODES:
        raise ValueError(
            f"the server has async_mode={eio.async_mode!r}, which is not supported: create it with "
            'async_mode="threading", or "gevent" after gevent.monkey.patch_all()'
        )
    if eio.async_mode == "gevent" and not is_gevent():
        raise ValueError('async_mode="gevent" needs gevent.monkey.patch_all() before other imports')
