"""Long polls without threads: a GET that finds no packet waits in the engine.

The request's connection is taken from the HTTP server, as that of a WebSocket. It is answered when
there are packets, or when the time is up. The response is python-engineio's own, with its headers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from engineio import exceptions

from ..connection.liveness import MIN_RATE
from ..engine import Channel, Engine
from ..errors import WebSocketError
from ..handover.socket import SocketHandover
from ..protocol.close_codes import CloseCode
from ..protocol.handshake import phrase, rejected_by_application
from ..protocol.state import State
from ..protocol.versions import DEFAULT_VERSIONS
from ..servers.wsgi import KEY, WSGIMiddleware, status_of
from ..servers.wsgi_sockets import Environ, FoundSocket, find
from .outbox import RESERVED, MustWait, Outbox, may_park
from .packets import noop

if TYPE_CHECKING:
    from .driver import SyncDriver

logger: logging.Logger = logging.getLogger("websocket_handler")

Packets = list[Any]
Response = tuple[str, list[tuple[str, str]], bytes]


class Requests:
    """Handles the requests of a synchronous server in place of `engineio.Server.handle_request`."""

    def __init__(self, driver: SyncDriver) -> None:
        self._driver = driver
        self._handle: Callable[..., Iterable[bytes]] = driver.eio.handle_request
        self._with_websocket = WSGIMiddleware(
            self._handle_one, engine=driver.given_engine, settings=driver.settings
        )

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        return self._with_websocket(environ, start_response)

    def _handle_one(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if not self._may_poll(environ):
            return self._handle(environ, start_response)
        session = self._session(environ)
        if session is not None and not session.closed:
            session.check_ping_timeout()
        found = find(environ, start_response)
        if found is None:
            return self._handle(environ, start_response)
        may_park.value = True
        try:
            return self._handle(environ, start_response)
        except MustWait as waits:
            outbox = waits.outbox
        finally:
            may_park.value = False
        try:
            if self._park(environ, found, outbox):
                start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
                return []
        finally:
            outbox.forget(RESERVED)
        return self._handle(environ, start_response)

    def _may_poll(self, environ: Environ) -> bool:
        return environ["REQUEST_METHOD"] == "GET" and environ[KEY] is None

    def _session(self, environ: Environ) -> Any:
        return self._driver.eio.sockets.get(session_id(environ))

    def _park(self, environ: Environ, found: FoundSocket, outbox: Outbox) -> bool:
        """Take the connection and have it wait for packets. Returns False, with nothing changed, if
        it cannot be taken: the thread of the request waits then."""
        engine = self._driver.engine
        poll = ParkedPoll(self._driver, engine, outbox, environ)  # type: ignore[abstract]
        if not engine._try_to_start():
            return False
        if engine._ledger.enter(self._driver.settings, poll.counted_address) is not None:
            return False
        try:
            sock = SocketHandover(found.sock, found.reader, engine)._take()
        except (OSError, WebSocketError):
            engine._ledger.leave(poll.counted_address)
            return False
        found.close_after_response()
        engine._attach(poll, sock)  # type: ignore[arg-type]
        outbox.wait_for(poll)
        if poll.state is State.CLOSED:  # the client has left meanwhile
            outbox.forget(poll)
        return True


class ParkedPoll(Channel):
    """The connection of a long poll in the engine: it waits for packets, then sends the response.

    The client may leave at any time; the packets stay in the outbox then. The methods of
    `ChannelEvents` that it lacks are for frames, and its input is discarded.
    """

    def __init__(
        self, driver: SyncDriver, engine: Engine, outbox: Outbox, environ: Environ
    ) -> None:
        self._driver = driver
        self._outbox = outbox
        self._environ = {name: text for name, text in environ.items() if isinstance(text, str)}
        self._listeners: list[Callable[..., object]] = []
        self._unsent_before = 0  # bytes, at the last deadline while the response is sent
        self._server: object = None
        self.state: State = State.OPEN
        self._bind(engine, driver.settings, DEFAULT_VERSIONS[0], False, True, None)
        self._discard_input = True

    @property
    def counted_address(self) -> str | None:
        """The peer's address, if connections per address are limited."""
        is_limited = self._driver.settings.max_connections_per_address is not None
        return self._environ.get("REMOTE_ADDR") if is_limited else None

    # Called by the outbox

    def notify(self) -> None:
        self._posted(self._respond_with_packets)

    def _posted(self, call: Callable[[], object]) -> None:
        engine = self._engine
        assert engine is not None
        engine._post(partial(self._run_exclusively, call))

    # The response

    def _respond_with_packets(self) -> None:
        packets = self._outbox.take(self) if self.state is State.OPEN else None
        if packets is not None:
            self._respond(packets or [noop()])

    def _respond(self, packets: Packets | None) -> None:
        """Send the response with `packets`; the error of an expired poll if it is None."""
        try:
            status, fields, body = response_of(self._driver.eio, self._environ, packets)
        except Exception:
            logger.exception("the response to a long poll cannot be made")
            self._drop("internal error")
            return
        fields.append(("Content-Length", str(len(body))))
        head = rejected_by_application(status_of(status), phrase(status_of(status)), fields)
        self.state = State.CLOSING
        self._write(head.response + body)
        self._unsent_before = self.buffered_amount
        self._set_deadline(self._driver.settings.close_timeout)
        self._finish()

    def _expire(self) -> None:
        """End the session: no ping was put into the outbox in time."""
        if self._outbox.forget(self):
            eio = self._driver.eio
            session = eio.sockets.get(session_id(self._environ))
            if session is not None:
                session.close(wait=False, reason=eio.reason.TRANSPORT_ERROR)
            self._respond(None)

    # Called by the engine, and when it closes all connections

    def on(self, _: str, listener: Callable[..., object]) -> None:
        """Call `listener` when the connection is closed."""
        self._listeners.append(listener)

    def close(self, *_: object) -> None:
        """Drop the connection: the server shuts down. Thread-safe."""
        self._posted(partial(self._drop, "the server shuts down"))

    @property
    def traffic(self) -> Any:
        from ..engine.stats import Traffic

        return Traffic(*self._counts())

    def _can_attach_inline(self) -> bool:
        return True

    def _opened(self) -> None:
        self._set_usual_deadline()

    def _set_usual_deadline(self) -> None:
        if self.state is State.OPEN:
            eio = self._driver.eio
            self._set_deadline(eio.ping_interval + eio.ping_timeout)

    def _deadline_passed(self) -> None:
        if self.state is State.OPEN:
            self._run_exclusively(self._expire)
        elif self._is_read():
            self._unsent_before = self.buffered_amount
            self._set_deadline(self._driver.settings.close_timeout)
        else:
            self._drop("")

    def _is_read(self) -> bool:
        """Whether the client has read the response at `MIN_RATE` or faster."""
        expected = MIN_RATE * self._driver.settings.close_timeout
        return self._unsent_before - self.buffered_amount >= expected

    def _input_over(self) -> None:
        self._drop("the client has left")

    def _failed(self, error: BaseException) -> None:
        logger.error("a long poll failed", exc_info=error)
        self._drop("internal error")

    def _input_lost(self, error: BaseException) -> None:
        self._failed(error)

    def _connection_lost(self, _: str) -> None:
        self.state = State.CLOSED  # first: `_park` may be about to make this poll wait
        self._outbox.forget(self)
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener(CloseCode.ABNORMAL_CLOSURE, "")

    def _released(self) -> None:
        assert self._engine is not None
        self._engine._ledger.count_past(self.traffic)
        self._engine._ledger.leave(self.counted_address)

    def _abandoned(self) -> None:
        """In a forked child: nothing to do, the outbox is the parent's."""

    def _feed(self, _: bytes | bytearray) -> None:
        """Discard bytes after the request."""

    def _drained(self) -> None:
        """Do nothing: nothing more is written."""

    def _flushed(self) -> None:
        """Do nothing: nothing more is written."""


def session_id(environ: Mapping[str, Any]) -> str | None:
    """Return the session of a request; None if it opens one."""
    found = parse_qs(environ.get("QUERY_STRING", "")).get("sid")
    return found[0] if found else None


def response_of(eio: Any, environ: Environ, packets: Packets | None) -> Response:
    """Return the server's response to a long poll: with `packets`, or that of an expired poll."""
    sent: list[tuple[str, list[tuple[str, str]]]] = []
    view = _ServerView(eio, session_id(environ), packets)
    chunks = type(eio).handle_request(view, environ, lambda *response: sent.append(response))
    ((status, fields),) = sent
    return status, list(fields), b"".join(chunks)


class _ServerView:
    """A server whose only session has just been polled: `handle_request` gets the session's
    packets, although the session may have been closed meanwhile."""

    def __init__(self, eio: Any, sid: str | None, packets: Packets | None) -> None:
        self._eio = eio
        self._polled = _PolledSession(packets)
        self.sockets = {sid: self._polled}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._eio, name)

    def _get_socket(self, _: str) -> _PolledSession:
        return self._polled

    def transport(self, _: str) -> str:
        """Return the transport of the session, for old versions of python-engineio."""
        return "polling"


class _PolledSession:
    connected = True
    upgraded = closed = False

    def __init__(self, packets: Packets | None) -> None:
        self._packets = packets

    def handle_get_request(self, *_: object) -> Packets:
        if self._packets is None:
            raise exceptions.QueueEmpty
        return self._packets
