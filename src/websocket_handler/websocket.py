"""The object that an application holds, from the request to the end of the connection.

Connecting, listening, receiving, closing; sending is in `sending`, what happens to a connection
by itself in `connection`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, overload

from .connection.inbox import Backlog, LoopInbox, ThreadInbox
from .connection.lifecycle import NORMAL_CLOSE_CODES
from .connection.listeners import (
    AsyncListenerQueue,
    ListenerGroup,
    Once,
    QueuedListener,
    check_event,
    is_async,
    surrounded,
)
from .connection.sending import SendingConnection, tell
from .connection.surroundings import Surroundings
from .engine import Engine, default_engine
from .engine.stats import NOT_SERVED, NoThread
from .engine.tcp_keep_alive import keep_alive
from .engine.tls import Socket, close_socket
from .errors import ConnectionClosed, WebSocketError
from .protocol import handshake, versions
from .protocol.close_codes import CloseCode
from .protocol.message import close_payload
from .protocol.packed_request import pack, unpack
from .protocol.permessage_deflate import NegotiatedParameters
from .protocol.printable import printable
from .protocol.request import Forwarded, Headers, Request
from .protocol.state import State
from .protocol.versions import Version
from .servers.lookup import websocket_of
from .settings import Settings

if TYPE_CHECKING:
    from .handover.socket import Handover

logger = logging.getLogger("websocket_handler")

Listener = TypeVar("Listener", bound=Callable[..., object])

Stream: TypeAlias = socket.socket | asyncio.Transport
"""A connection as it comes from an HTTP server."""


class Handling:
    """What matters to a WebSocket until the engine has its socket, and is forgotten then."""

    __slots__ = ("_engine", "_process", "handover", "look", "response", "response_headers")

    def __init__(self, engine: Engine | None, handover: Handover | None) -> None:
        self._engine = engine
        self._process = os.getpid()
        self.handover = handover
        self.response = b""  # what answers the handshake, before all that is sent
        self.response_headers = Headers()
        self.look: Callable[[], Forwarded] | None = None

    @property
    def engine(self) -> Engine:
        return self._engine or default_engine()

    @property
    def is_inherited(self) -> bool:
        """Whether the request came to the parent of this process, whose handler has forked."""
        return self._process != os.getpid()


class WebSocket(SendingConnection):
    """One WebSocket: a request first, then, once connected, a connection.

    Register listeners with `on`, then call `connect()`. The events, and what their
    listeners are called with:

    ========= ===================================================================
    open      nothing; the handshake is done
    message   str for a text message, bytes for a binary one
    ping      bytes: the peer pinged, and has been answered
    pong      bytes: a pong came, whether an answer to `ping()` or not
    drain     nothing; what waits to be sent has fallen well below high water
    error     the exception: the peer broke the protocol, or a listener raised
    close     code (int) and reason (str): the connection is over
    ========= ===================================================================

    After `connect()`, `close` comes exactly once, as the last event. Listeners run in the
    engine's thread; one that blocks there delays its own connection alone. One that raises
    has its traceback logged and its connection closed with 1011; nobody else notices.
    """

    __slots__ = (
        "__weakref__",
        "_async_listeners",
        "_handling",
        "_request",
        "_server",
    )

    def __init__(
        self,
        request: Request,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        handover: Handover | None = None,
    ) -> None:
        """For integrations of HTTP servers; an application gets its WebSocket from them.

        `handover` takes the connection from the HTTP server (see `handover`). `engine`
        is the one that serves the connection, by default that of the `handover`, or of the
        process.
        """
        super().__init__(settings or Settings())
        self._request: Request | bytes = request  # packed once the handler has returned
        self._server: object = None
        if handover is not None:
            engine = engine or handover.engine
            self._server = handover.server
            handover.websocket = self
        self._handling: Handling | None = Handling(engine, handover)
        self._async_listeners: AsyncListenerQueue | None = None

    def __repr__(self) -> str:
        request = self.request
        address = request.remote_address
        peer = "{}:{}".format(*address[:2]) if isinstance(address, tuple) else str(address)
        return f"<WebSocket {printable(peer)} {printable(request.path)} {self._state.value}>"

    def __copy__(self) -> WebSocket:
        return self  # a connection is one object, whoever copies what refers to it

    def __deepcopy__(self, _: object) -> WebSocket:
        return self

    @classmethod
    def of(cls, request: Any) -> WebSocket | None:
        """The WebSocket that a request asks for, None for an ordinary request.

        `request` is what the framework gives to the handler: a request of Flask, Django,
        Starlette, FastAPI or aiohttp, the handler itself in Tornado and http.server, or a
        WSGI environ or an ASGI scope. Called again for the same request, it returns the same
        WebSocket. Raises `WebSocketError`, which says what is missing, if the application has
        not been prepared; `TypeError` for an object that is no request.
        """
        return websocket_of(request)

    # The request

    @property
    def request(self) -> Request:
        """The HTTP request: path, query, headers, cookies, address.

        Until `connect()` its address, scheme and host are those that the application sees,
        which middleware may have restored from a proxy's headers.
        """
        if isinstance(self._request, Request) and self._handling and self._handling.look:
            self._request = self._request.with_forwarded(self._handling.look())
        return unpack(self._request) if isinstance(self._request, bytes) else self._request

    @property
    def version(self) -> Version | None:
        """The version of the protocol the request asks for; None if it is not accepted."""
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.version
        return versions.choose(self.request, self._settings.versions)

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols the client offers, in its order of preference."""
        request = self.request
        version = versions.choose(request, versions.ALL_VERSIONS) or versions.DEFAULT_VERSIONS[0]
        return version._offered_subprotocols(request)

    @property
    def response_headers(self) -> Headers:
        """Headers to add to the 101 response, cookies for example; fill before `connect()`."""
        return self._handling.response_headers if self._handling is not None else Headers()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol in use, as given to `connect()`; None for none, and before."""
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.subprotocol
        return None

    @property
    def extensions(self) -> str:
        """The extensions in use, as the Sec-WebSocket-Extensions header of the response has
        them; "" for none, and before `connect()`."""
        if isinstance(self._outcome, handshake.Accepted) and self._outcome.negotiated is not None:
            return str(self._outcome.negotiated)
        return ""

    @property
    def state(self) -> State:
        """CONNECTING until the engine has the socket, then OPEN, CLOSING, CLOSED."""
        return self._state

    @property
    def latency(self) -> float | None:
        """Seconds from the last ping to its pong, whether `ping()` sent it or the engine, to
        see whether the peer is alive; None before the first pong."""
        return self._latency if self._latency >= 0 else None

    # Connecting

    def connect(self, subprotocol: str | None = None, **settings: Any) -> Any:
        """Accept the WebSocket, and take the socket from the HTTP server.

        The client gets the 101 when the response of the application is known: its cookies and
        most other headers are added, its body is discarded. A response with a status of 400 or
        more means that the WebSocket is not accepted after all: then the client gets that
        response instead. A handler that itself waits, for messages or for anything else here,
        sends the 101 by that.

        `subprotocol` must be one of `subprotocols`. `settings` override those of the server
        for this connection (see `Settings`). What is sent from now on follows the 101. If the
        request turns out to be no sound handshake, or its origin is not allowed, the client
        gets the HTTP error instead, and nothing of what the handler sends; `close` is emitted
        with 1006.

        Returns something that the server's handlers may return: "" under most, a response
        under aiohttp.

        Raises `WebSocketError` if called twice, `ValueError` for a subprotocol that was not
        offered, a response header the handshake itself sets, or a bad setting.
        """
        if self._outcome is not None:
            raise WebSocketError("connect() was called before")
        chosen = replace(self._settings, **settings) if settings else self._settings
        handling = self._handling
        assert handling is not None
        self._request, handling.look = self.request, None
        _check_response_headers(handling.response_headers)
        outcome = handshake.answer(
            self.request,
            chosen.versions,
            chosen.allowed_origins,
            subprotocol,
            handling.response_headers,
            chosen.compression,
        )
        if handling.handover is not None:
            handling.handover.detach()
        self._settings = _shared(self._surround_listeners(chosen))
        engine = handling.engine
        if isinstance(outcome, handshake.Accepted):
            why_not = (
                engine.ledger.enter(chosen, self._counted_address)
                if engine.try_to_start()
                else NOT_SERVED
            )
            outcome = handshake.http_refusal(*why_not) if why_not else outcome
        if isinstance(outcome, handshake.Refused):
            engine.ledger.count_refused(outcome.status)
            engine.ledger.refusals.report(self, outcome.status, outcome.reason)
        handling.response = outcome.response
        self._answer(engine, outcome)
        if handling.handover is None:
            return ""
        return handling.handover.connect_result(int(outcome.status))

    def _answer(self, engine: Engine, outcome: handshake.Accepted | handshake.Refused) -> None:
        """Only now may other threads send: the response goes before all of it."""
        if isinstance(outcome, handshake.Accepted):
            version, secret, negotiated = outcome.version, outcome.secret, outcome.negotiated
            self._start_codec(engine, version, secret, negotiated=negotiated)
        else:
            self._start_codec(engine, self._version)
        self._outcome = handshake.without_bytes(outcome)
        if isinstance(outcome, handshake.Refused):
            self._finish()
        else:
            self._begin_sending()

    def reject(self, code: int, reason: str = "", **settings: Any) -> Any:
        """Complete the handshake, then close at once with `code` (usually 4000 to 4999).

        It is the only refusal a script in a browser can see; an HTTP status is better for
        everyone else. Returns what `connect` does, raises what `connect` and `close` raise.
        """
        close_payload(code, reason)
        answer = self.connect(**settings)
        self.close(code, reason)
        return answer

    # Events

    @overload
    def on(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    def on(self, event: str, listener: Any = None) -> Any:
        """Call `listener` at every `event`; without `listener`, a decorator that does so.

        Several listeners are called in the order they were added. `async def` ones need an
        engine that lives in an event loop; those of one connection run one after the other
        there, in the order of the events. Raises `ValueError` for an unknown event,
        `WebSocketError` for an `async def` listener elsewhere, or if messages go to who
        receives them.
        """
        check_event(event)
        if listener is None:
            return partial(self.on, event)
        added = self._callable(listener)
        self._change_listeners(event, lambda present: (*present, added))
        return listener

    @overload
    def once(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def once(self, event: str) -> Callable[[Listener], Listener]: ...
    def once(self, event: str, listener: Any = None) -> Any:
        """As `on`, for the next `event` alone."""
        check_event(event)
        if listener is None:
            return partial(self.once, event)
        self.on(event, Once(self, event, listener, self._callable(listener)))
        return listener

    def off(self, event: str, listener: Callable[..., object]) -> None:
        """No longer call `listener`, added by `on` or `once`. Unknown ones are ignored."""
        check_event(event)
        self._change_listeners(event, partial(_without, listener))

    # Receiving less

    def pause(self) -> None:
        """Read nothing more, until `resume()`; the peer is held back once the buffers of both
        systems are full.

        Messages that were read already may still come. Meanwhile pings are not answered; the
        own ones go on and find a peer that has died. A peer that ends the connection is
        noticed: what it had sent still comes, and `close`. Closing reads on. From any thread.
        """
        self._in_engine(partial(self._pause, True))

    def resume(self) -> None:
        """Read on after `pause()`. From any thread."""
        self._in_engine(partial(self._pause, False))

    # Receiving without listeners

    def receive(self, timeout: float | None = None) -> Any:
        """The next message, str or bytes; for threads, which wait up to `timeout` seconds.

        Called in the handler itself, after `connect()`, the 101 is sent now. Raises
        `TimeoutError`; `ConnectionClosed` once the connection is over and every message was
        taken; `WebSocketError` if messages go to listeners or coroutines, or in the thread of
        the engine or of an event loop, which would serve nobody meanwhile.
        """
        if asyncio._get_running_loop() is not None:
            raise WebSocketError(
                "receive() would stop the event loop of this thread: await areceive() instead"
            )
        self._check_not_in_engine("receive()")
        inbox = self._inbox
        if not isinstance(inbox, ThreadInbox):
            inbox = ThreadInbox(self, self._settings.high_water)
            self._attach_inbox(inbox)
        return inbox.get(timeout)

    def __iter__(self) -> Iterator[Any]:
        """The messages as they come, for threads: `for message in websocket`.

        Ends when the connection is closed with 1000, 1001 or no code; raises
        `ConnectionClosed` on every other end, and what `receive` raises.
        """
        while True:
            try:
                message = self.receive()
            except ConnectionClosed as closed:
                if closed.code in NORMAL_CLOSE_CODES:
                    return
                raise
            yield message

    async def areceive(self) -> Any:
        """The next message, str or bytes; for coroutines of asyncio or uvloop.

        Raises `ConnectionClosed` once the connection is over and every message was taken;
        `WebSocketError` if messages go to listeners or threads, or to another coroutine
        that is waiting.
        """
        try:
            return await self.__aiter__().__anext__()
        except StopAsyncIteration:
            raise ConnectionClosed(self._close.code, self._close.reason) from None

    def __aiter__(self) -> LoopInbox:
        """The messages as they come, for coroutines: `async for message in websocket`.

        Ends and raises as the iteration in threads does.
        """
        inbox = self._inbox
        if not isinstance(inbox, LoopInbox):
            loop = asyncio.get_running_loop()
            same_loop = self._engine is not None and self._engine.event_loop is loop
            inbox = LoopInbox(self, self._settings.high_water, loop, same_loop, NORMAL_CLOSE_CODES)
            self._attach_inbox(inbox)
        return inbox

    # Closing

    def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake (RFC 6455 section 7.1.2); does not wait for its end.

        What was sent before is delivered first; messages that still arrive are dropped.
        Without an answer within `Settings.close_timeout` the connection is dropped. Does
        nothing on a connection that is closing or closed. Raises `ValueError` for a code
        that may not be sent (1005, 1006 …) or a reason of more than 123 bytes.
        """
        close_payload(code, reason)
        if self._outcome is None:
            raise WebSocketError("connect() has not been called; reject() closes with a code")
        self._in_engine(partial(self._start_closing, code, reason))

    def abort(self) -> None:
        """Drop the connection at once, without the closing handshake; `close` brings 1006."""
        self._in_engine(partial(self._abort, "aborted"))

    # Waiting for the end

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the end; for threads. Returns whether it has come.

        Raises `WebSocketError` in the engine's own thread, which would wait for itself.
        """
        self._complete_early()
        self._check_not_in_engine("wait_closed()")
        over = threading.Event()
        notice = Notice(over.set)
        self._in_engine(partial(self._when_closed, notice))
        try:
            return over.wait(timeout)
        finally:
            if not over.is_set():
                self._in_engine(partial(self.off, "close", notice))

    async def await_closed(self) -> None:
        """Wait for the end; for coroutines."""
        self._complete_early()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        notice = Notice(partial(tell, loop, over))
        self._in_engine(partial(self._when_closed, notice))
        try:
            await over.wait()
        finally:
            if not over.is_set():
                self._in_engine(partial(self.off, "close", notice))

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        """Close with 1000 and wait for the end."""
        self.close()
        self.wait_closed()

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close with 1000 and wait for the end; drop the connection if that is cancelled."""
        self.close()
        try:
            await self.await_closed()
        except asyncio.CancelledError:
            self.abort()
            raise

    # For the client, and for integrations of servers

    def _follow(self, look: Callable[[], Forwarded]) -> None:
        """Have `request` show until `connect()` what `look` returns; for integrations, whose
        servers' request objects may be changed by middleware."""
        if self._handling is not None and self._outcome is None:
            self._handling.look = look

    def _begin_as_client(
        self,
        version: Version,
        secret: bytes,
        subprotocol: str | None,
        negotiated: NegotiatedParameters | None = None,
    ) -> None:
        """Be the client's end, after its handshake and before `_take_over`."""
        accepted = handshake.Accepted(version, b"", b"", negotiated, subprotocol)
        self._outcome = handshake.without_bytes(accepted)
        self._settings = self._surround_listeners(self._settings)
        assert self._handling is not None
        engine = self._handling.engine
        engine.ledger.enter_client()
        self._start_codec(engine, version, secret, client=True, negotiated=negotiated)
        self._begin_sending()

    def _add_to_response(self, fields: Iterable[tuple[str, str]]) -> None:
        """Add fields of the application's response to the 101. Raises `ValueError` for one that
        cannot stand there."""
        handling = self._handling
        if handling is not None and isinstance(self._outcome, handshake.Accepted):
            handling.response = handshake.with_response_fields(
                handling.response, fields, handling.response_headers
            )

    def _reject(self, status: int, reason: str, fields: Iterable[tuple[str, str]]) -> None:
        """Have the application's response in place of the 101; `_write_response` brings its body.

        Whether or not the application has called `connect()`; before `_take_over`. Raises
        `ValueError` for a field that cannot stand in the head of a response.
        """
        handling, former = self._handling, self._outcome
        if handling is None or self._state is State.CLOSED:
            return
        outcome = handshake.rejected_by_application(status, reason, fields)
        engine = handling.engine
        engine.ledger.count_refused(status)
        if isinstance(former, handshake.Accepted):
            engine.ledger.leave(self._counted_address)
            with self._codec.sending if self._codec is not None else contextlib.nullcontext():
                self._outcome = handshake.without_bytes(outcome)  # no frame is written after this
                self._discard_output()
        else:
            self._outcome = handshake.without_bytes(outcome)
            self._start_codec(engine, self._version)
        self._sendable = False
        self._discard_input = True
        handling.response = outcome.response

    def _write_response(self, data: bytes, is_last: bool) -> None:
        """More of the body of a response by which the application rejects the request."""
        if not isinstance(self._outcome, handshake.Refused):  # it was aborted before
            return
        if self.buffered_amount > self._settings.max_buffered:
            self._in_engine(partial(self._abort, "the client does not read the response"))
            return
        self._write(data)
        if is_last:
            self._in_engine(self._finish)

    def _take_over(self, connected: Stream, early: bytes = b"") -> None:
        """Give the engine the connection, with `early` bytes that came with the request head.

        A socket must be the only object that uses its descriptor; it is detached. An asyncio
        transport goes on to carry the bytes; its loop is where the engine must run, and this be
        called.
        """
        handling, self._handling = self._handling, None
        assert handling is not None
        if handling.is_inherited:
            self._abandoned()
        if self._state is State.CLOSED:  # aborted meanwhile, or the parent's
            close_stream(connected)
            return
        engine = handling.engine
        self._taken_over = True
        if isinstance(self._request, Request):
            self._request = pack(self._request)
        try:
            if handling.response:  # else it is the client's end
                self._prepend(handling.response)
                if isinstance(self._outcome, handshake.Accepted):
                    engine.ledger.count_accepted()
            self._attach(engine, connected, early)
        except BaseException as error:
            self._cannot_be_served(engine, connected, error)

    def _attach(self, engine: Engine, connected: Stream, early: bytes) -> None:
        if not self._version._has_pings:
            keep_alive(_socket_of(connected), self._settings)
        if isinstance(connected, (socket.socket, Socket)):
            engine.attach(self, connected, early)
        else:
            engine.attach_transport(self, connected, early)

    def _cannot_be_served(self, engine: Engine, connected: Stream, error: BaseException) -> None:
        """The engine was stopped meanwhile, or has no thread. Say so to the client, and end."""
        if isinstance(self._outcome, handshake.Accepted):
            engine.ledger.count_refused(NOT_SERVED[0])
        if isinstance(connected, (socket.socket, Socket)) and not self._is_client:
            with contextlib.suppress(OSError, ValueError):
                connected.setblocking(False)
                connected.send(handshake.http_refusal(*NOT_SERVED).response)
                connected.shutdown(socket.SHUT_WR)
        close_stream(connected)
        self._taken_over = False
        self._connection_lost(str(error))
        if self._is_client or not isinstance(error, NoThread):
            raise error

    def _complete_early(self, is_conversation: bool = False) -> None:
        """The handler waits here: send the 101 now, if that has not been done."""
        handling = self._handling
        if handling is not None and handling.handover is not None and self._outcome is not None:
            handling.handover.complete_early(is_conversation)

    @property
    def _has_listeners(self) -> bool:
        return bool(self._listeners or self._listeners_of("message"))

    # Behind the API

    @property
    def _counted_address(self) -> str | None:
        if self._settings.max_connections_per_address is None:
            return None
        address = self.request.remote_address
        return str(address[0]) if isinstance(address, tuple) else None

    def _is_overrun(self) -> bool:
        """Whether more waits for the application than may wait for any peer."""
        places = (self._inbox, self._backlog, self._async_listeners)
        return any(place and place.amount() > self._settings.max_buffered for place in places)

    def _when_closed(self, notice: Notice) -> None:
        """Have `notice` called at the end, or now if that has come."""
        if self._state is State.CLOSED:
            notice()
        else:
            self._change_listeners("close", lambda present: (*present, notice))

    def _callable(self, listener: Callable[..., object]) -> Callable[..., object]:
        """The listener in a form that only has to be called."""
        if not is_async(listener):
            surroundings = self._surroundings
            return surrounded(listener, surroundings) if surroundings else listener
        if self._async_listeners is None:
            engine = self._handling.engine if self._handling is not None else self._engine
            loop = engine.event_loop if engine is not None else None
            if loop is None:
                raise WebSocketError(
                    "an async def listener needs an engine in an event loop; that of this "
                    "connection runs in a thread: use a plain function, which may block, or pass "
                    "the coroutine to a loop with asyncio.run_coroutine_threadsafe()"
                )
            self._async_listeners = AsyncListenerQueue(self, self._settings.high_water, loop)
            self._async_listeners.surroundings = self._surroundings
        return QueuedListener(listener, self._async_listeners)  # type: ignore[arg-type]

    def _surround_listeners(self, settings: Settings) -> Settings:
        """Have listeners called as `around` and `keep_context` say; returns the other settings,
        which many connections share."""
        surroundings = Surroundings.of(settings)
        if surroundings is None:
            return settings
        with self._state_lock:  # other threads may add listeners
            self._surroundings = surroundings
            self._listeners = tuple(
                (event, surrounded(listener, surroundings)) for event, listener in self._listeners
            )
            if self._message_listener is not None:
                self._message_listener = surrounded(self._message_listener, surroundings)
        if self._async_listeners is not None:
            self._async_listeners.surroundings = surroundings
        return replace(settings, around=None, keep_context=False)

    def _listeners_of(self, event: str) -> tuple[Callable[..., object], ...]:
        if event != "message":
            return tuple(listener for name, listener in self._listeners if name == event)
        backlog = self._backlog
        listener = self._message_listener if backlog is None else backlog.listener
        if self._inbox is not None or listener is None:
            return ()
        return listener.listeners if isinstance(listener, ListenerGroup) else (listener,)

    def _change_listeners(
        self,
        event: str,
        change: Callable[[tuple[Callable[..., object], ...]], tuple[Callable[..., object], ...]],
    ) -> None:
        with self._state_lock:  # other threads may add listeners, too
            listeners = change(self._listeners_of(event))
            if event != "message":
                others = tuple(pair for pair in self._listeners if pair[0] != event)
                self._listeners = (*others, *((event, listener) for listener in listeners))
                return
            backlog = self._set_message_listeners(listeners)
        if backlog is not None:
            self._in_order(self._hear_listener)

    def _set_message_listeners(
        self, listeners: tuple[Callable[..., object], ...]
    ) -> Backlog | None:
        """Returns the messages that they are to have first, if there are some."""
        if self._inbox is not None:
            raise WebSocketError("messages go to who receives them; there can be no listener")
        chosen = ListenerGroup(listeners) if listeners[1:] else next(iter(listeners), None)
        if self._backlog is not None:
            self._backlog.listener = chosen
        elif self._accepts_messages():
            self._message_listener = chosen
        return self._backlog

    def _attach_inbox(self, inbox: LoopInbox | ThreadInbox) -> None:
        if self._outcome is None:
            raise WebSocketError("connect() has not been called")
        if self._listeners_of("message"):
            raise WebSocketError("messages go to a listener; nobody else can receive them")
        if self._inbox is not None:
            raise WebSocketError("either threads or coroutines receive the messages, not both")
        self._complete_early(is_conversation=True)
        self._inbox = inbox
        self._in_engine(partial(self._set_inbox, inbox))


class Notice:
    """A listener that only says that something has happened."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __call__(self, *_: object) -> None:
        self._call()


def _socket_of(connected: Stream) -> socket.socket | None:
    """The socket, or that of a transport if it has one."""
    if isinstance(connected, (socket.socket, Socket)):
        return connected
    sock: socket.socket | None = connected.get_extra_info("socket")
    return sock


def close_stream(connected: Stream) -> None:
    """Close a connection that was taken from a server, and given to no engine."""
    if isinstance(connected, (socket.socket, Socket)):
        close_socket(connected)
    else:
        connected.abort()


def _without(
    listener: Callable[..., object], present: tuple[Callable[..., object], ...]
) -> tuple[Callable[..., object], ...]:
    """`present` without `listener`, once."""
    for index, one in enumerate(present):
        if one == listener or getattr(one, "listener", None) == listener:
            return (*present[:index], *present[index + 1 :])
    return present


@lru_cache
def _shared(settings: Settings) -> Settings:
    """One object for all connections with the same settings."""
    return settings


def _check_response_headers(headers: Iterable[str]) -> None:
    for name in headers:
        lower = name.lower()
        if lower.startswith("sec-websocket-") or lower in ("upgrade", "connection"):
            raise ValueError(f"the header {name} is set by the handshake itself")
