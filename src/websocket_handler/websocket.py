"""`WebSocket`: the object that an application uses, from the request to the close.

This file has the public methods that connect, register listeners, receive and close. Sending is
in `connection/sending.py`, the life of the connection in `connection/lifecycle.py`.
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
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar, overload

from .admission import NOT_SERVED, admit
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
from .connection.sending import SendingConnection, set_threadsafe
from .connection.surroundings import Surroundings
from .engine import Engine, default_engine
from .engine.running_loop import is_in_event_loop
from .engine.send_state import SendState
from .engine.stats import CannotStart
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
from .settings import DEFAULTS, Settings, with_options

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .handover.base import Handover
    from .rooms.membership import MovedOffset
    from .settings import SettingsOptions

logger: logging.Logger = logging.getLogger("websocket_handler")

# The parameters of a listener depend on its event; a decorator returns it with its own type.
MessageListener = TypeVar("MessageListener", bound=Callable[[Any], object])
CloseListener = TypeVar("CloseListener", bound=Callable[[int, str], object])
PlainListener = TypeVar("PlainListener", bound=Callable[[], object])
PingListener = TypeVar("PingListener", bound=Callable[[bytes], object])
ErrorListener = TypeVar("ErrorListener", bound=Callable[[BaseException], object])

Stream: TypeAlias = socket.socket | asyncio.Transport
"""A connection as the HTTP server passes it on: a socket, or an asyncio transport."""


class Handling:
    """The state of a WebSocket that is needed only until the engine has its socket."""

    __slots__ = (
        "_engine",
        "_process",
        "handover",
        "look",
        "request",
        "response",
        "response_headers",
    )

    def __init__(self, request: Request, engine: Engine | None, handover: Handover | None) -> None:
        self.request: Request = request
        self._engine = engine
        self._process = os.getpid()
        self.handover: Handover | None = handover
        self.response: bytes = b""  # the HTTP response, which is sent before any frame
        self.response_headers: Headers = Headers()
        self.look: Callable[[], Forwarded | None] | None = None

    @property
    def engine(self) -> Engine:
        return self._engine or default_engine()

    @property
    def is_inherited(self) -> bool:
        """Whether the handler has forked, and this process is the child."""
        return self._process != os.getpid()


class WebSocket(SendingConnection):
    """One WebSocket: first an HTTP request, then, after `connect()`, a connection.

    Register listeners with `on`, then call `connect()`. The events, and the arguments of
    their listeners:

    ========= ===================================================================
    open      no argument; the handshake is complete
    message   str for a text message, bytes for a binary message
    ping      bytes: the peer sent a ping; the engine answers it
    pong      bytes: the peer sent a pong (those of keep-alive pings are not emitted)
    drain     no argument; the send buffer fell to a quarter of `high_water`
    error     the exception: the peer broke the protocol, or a listener raised
    close     code (int) and reason (str); the connection is closed
    ========= ===================================================================

    After `connect()`, `close` is emitted exactly once, as the last event. Listeners run in the
    engine's thread or event loop, by default in an empty `contextvars` context. In the thread of
    the native engine a listener may block: only its own connection waits. In an event loop it
    must not block. If a listener raises, the traceback is logged and its connection is closed
    with 1011; other connections are unaffected.
    """

    __slots__ = (
        "__weakref__",
        "_handling",
        "_server",
    )

    _async_listeners: AsyncListenerQueue | None = None
    _unpacked_request: Request | None = None  # one that cannot be packed
    _received_headers: Headers | None = None  # of the response, in the client role

    resumed: bool = False
    """Whether an old process of the server had the connection before: the application handles its
    request again, and `connect()` takes the open connection."""

    carry: Any = None
    """JSON that the new process gets as `carried` if the connection is moved to it; None leaves
    `carried` as it is."""

    _offsets_of_rooms: tuple[MovedOffset, ...] = ()
    """The offsets in the histories of rooms at which a moved connection continues there."""

    carried: Any = None
    """The value of `carry` in the old process, None if there was none. It is final when `open` is
    emitted: before `connect()`, the old process still serves the connection."""

    def __init__(
        self,
        request: Request,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        handover: Handover | None = None,
    ) -> None:
        """Called by integrations of HTTP servers; applications use `WebSocket.of(request)`.

        `handover` takes the connection from the HTTP server (see the package `handover`).
        `engine` serves the connection; default: the engine of the `handover`, else
        `default_engine()`.
        """
        super().__init__(settings or DEFAULTS)
        self._server: object = None
        if handover is not None:
            engine = engine or handover.engine
            self._server = handover.server
            handover.websocket = self
            if handover.arrival is not None:
                self.resumed = self._is_arriving = True
                self.carried = handover.arrival.facts.carried
        self._handling: Handling | None = Handling(request, engine, handover)

    def __repr__(self) -> str:
        request = self.request
        address = request.remote_address
        peer = "{}:{}".format(*address[:2]) if isinstance(address, tuple) else str(address)
        return f"<WebSocket {printable(peer)} {printable(request.path)} {self._state.value}>"

    def __copy__(self) -> WebSocket:
        return self  # a connection stays one object if an object that refers to it is copied

    def __deepcopy__(self, _: object) -> WebSocket:
        return self

    @classmethod
    def of(cls, request: Any) -> WebSocket | None:
        """Return the WebSocket of a request, or None if it does not ask for one.

        `request` is the framework's own object: the request in Flask, Django, Starlette, FastAPI
        and aiohttp, the handler in Tornado and http.server, or a WSGI environ or ASGI scope. The
        same request always returns the same WebSocket. Raises `WebSocketError` if the
        application was not set up for WebSockets (the message names the missing step),
        `TypeError` if `request` is not a request.
        """
        return websocket_of(request)

    # The request

    @property
    def request(self) -> Request:
        """The HTTP request: path, query, headers, cookies, address.

        The address, scheme and host follow middleware that restores them from the headers of a
        proxy, up to the call of `connect()`.
        """
        handling = self._handling
        if handling is None:
            if self._unpacked_request is not None:
                return self._unpacked_request
            assert self._packed_request is not None
            return unpack(self._packed_request)
        if handling.look is not None:
            seen = handling.look()
            if seen is not None:
                handling.request = handling.request.with_forwarded(seen)
        return handling.request

    @property
    def version(self) -> Version | None:
        """The protocol version of the request; None if `Settings.versions` does not include it."""
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.version
        return versions.choose(self.request, self._settings.versions)

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols that the client offers, in its order of preference."""
        request = self.request
        version = versions.choose(request, versions.ALL_VERSIONS) or versions.DEFAULT_VERSIONS[0]
        return version._offered_subprotocols(request)

    @property
    def response_headers(self) -> Headers:
        """Headers to add to the 101 response, such as cookies; set them before `connect()`.

        Of a client's WebSocket: the headers of the server's response.
        """
        if self._handling is not None and self._received_headers is None:
            return self._handling.response_headers
        return self._received_headers or Headers()

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol passed to `connect()`; None if there is none, or before `connect()`."""
        if isinstance(self._outcome, handshake.Accepted):
            return self._outcome.subprotocol
        return None

    @property
    def extensions(self) -> str:
        """The extensions in use, as in the Sec-WebSocket-Extensions header of the response; ""
        if there are none, or before `connect()`."""
        if isinstance(self._outcome, handshake.Accepted) and self._outcome.negotiated is not None:
            return str(self._outcome.negotiated)
        return ""

    @property
    def state(self) -> State:
        """CONNECTING until the engine has the socket, then OPEN, CLOSING and CLOSED."""
        return self._state

    @property
    def close_code(self) -> int | None:
        """The close code once the connection is closed (RFC 6455 section 7.1.5), else None."""
        return self._close.code if self._state is State.CLOSED else None

    @property
    def close_reason(self) -> str | None:
        """The reason of the close once the connection is closed, else None."""
        return self._close.reason if self._state is State.CLOSED else None

    @property
    def latency(self) -> float | None:
        """Seconds from the last answered ping to its pong; None before the first pong.

        Counts pings sent by `ping()` and keep-alive pings (`Settings.ping_interval`).
        """
        return self._latency if self._latency >= 0 else None

    # Connecting

    def connect(
        self,
        subprotocol: str | None = None,
        *,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> Any:
        """Accept the WebSocket: take the socket from the HTTP server and complete the handshake.

        The 101 is sent when the handler has returned its response. Cookies and most other headers
        of that response are added to the 101; its body is discarded. If its status is 400 or
        more, the WebSocket is rejected and the client gets that response instead. The 101 is
        sent earlier if the handler waits for the connection, for example in `receive()`.

        `subprotocol` must be one of `subprotocols`. `settings` override the server's settings
        for this connection (see `Settings`). Messages sent from now on follow the 101.

        If the handshake is invalid, the origin is not allowed, or a limit on connections is
        reached, the client gets an HTTP error instead; sent messages are discarded, and `close`
        is emitted with 1006.

        Returns a value that a handler of the HTTP server may return: a response object under
        aiohttp, "" under most other servers.

        Raises `WebSocketError` if it is called twice, `ValueError` for a subprotocol that the
        client did not offer, a response header that the handshake itself sets, or an invalid
        setting, `OSError` if the system has no descriptors left.
        """
        if self._outcome is not None:
            raise WebSocketError("connect() was already called")
        chosen = with_options(settings or self._settings, options)
        handling, request = self._handling, self.request
        assert handling is not None
        engine = handling.engine  # first: the system may have no descriptors for a new one
        handling.request, handling.look = request, None
        _check_response_headers(handling.response_headers)
        arrival = handling.handover.arrival if handling.handover is not None else None
        if arrival is not None:
            chosen = arrival.settings(chosen)
        outcome = handshake.answer(
            request,
            chosen.versions,
            chosen.allowed_origins,
            subprotocol,
            handling.response_headers,
            chosen.compression,
        )
        if arrival is not None:
            outcome = arrival.outcome(outcome, subprotocol)
        if handling.handover is not None:
            handling.handover.detach()
        self._settings = _shared(self._surround_listeners(chosen))
        if isinstance(outcome, handshake.Accepted):
            refusal = admit(engine, chosen, self._counted_address)
            outcome = handshake.http_refusal(*refusal) if refusal else outcome
        if isinstance(outcome, handshake.Refused):
            engine._ledger.count_refused(outcome.status)
            engine._ledger.refusals.report(self, outcome.status, outcome.reason)
        handling.response = outcome.response
        self._answer(engine, outcome)
        if arrival is not None:
            arrival.prepare(self)
        if handling.handover is None:
            return ""
        return handling.handover.connect_result(int(outcome.status))

    def _answer(self, engine: Engine, outcome: handshake.Accepted | handshake.Refused) -> None:
        """Choose the codec and record the outcome; from here on, other threads may send."""
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

    def reject(
        self,
        code: int,
        reason: str = "",
        *,
        settings: Settings | None = None,
        **options: Unpack[SettingsOptions],
    ) -> Any:
        """Complete the handshake, then close at once with `code` (usually 4000 to 4999).

        A script in a browser can read this close code, but not the status of an HTTP response.
        For other clients, return an HTTP error instead of calling `connect()`. Returns the result
        of `connect()`; raises the errors of `connect()` and `close()`.
        """
        close_payload(code, reason)
        answer = self.connect(settings=settings, **options)
        self.close(code, reason)
        return answer

    # Events

    @overload
    def on(self, event: Literal["message"], listener: MessageListener) -> MessageListener: ...
    @overload
    def on(self, event: Literal["close"], listener: CloseListener) -> CloseListener: ...
    @overload
    def on(self, event: Literal["open", "drain"], listener: PlainListener) -> PlainListener: ...
    @overload
    def on(self, event: Literal["ping", "pong"], listener: PingListener) -> PingListener: ...
    @overload
    def on(self, event: Literal["error"], listener: ErrorListener) -> ErrorListener: ...
    @overload
    def on(self, event: Literal["message"]) -> Callable[[MessageListener], MessageListener]: ...
    @overload
    def on(self, event: Literal["close"]) -> Callable[[CloseListener], CloseListener]: ...
    @overload
    def on(self, event: Literal["open", "drain"]) -> Callable[[PlainListener], PlainListener]: ...
    @overload
    def on(self, event: Literal["ping", "pong"]) -> Callable[[PingListener], PingListener]: ...
    @overload
    def on(self, event: Literal["error"]) -> Callable[[ErrorListener], ErrorListener]: ...
    def on(self, event: str, listener: Any = None) -> Any:
        """Call `listener` for every `event`. Without `listener`, returns a decorator.

        Several listeners of an event are called in the order in which they were added. An `async
        def` listener needs an engine that runs in an event loop; the `async def` listeners of one
        connection run one after the other, in the order of the events.

        Raises `ValueError` for an unknown event; `WebSocketError` for an `async def` listener if
        the engine runs in a thread, or for a `message` listener if the messages are received by
        `receive()`, `areceive()` or iteration.
        """
        check_event(event)
        if listener is None:
            return partial(self.on, event)
        added = self._callable(listener)
        self._change_listeners(event, lambda present: (*present, added))
        return listener

    @overload
    def once(self, event: Literal["message"], listener: MessageListener) -> MessageListener: ...
    @overload
    def once(self, event: Literal["close"], listener: CloseListener) -> CloseListener: ...
    @overload
    def once(self, event: Literal["open", "drain"], listener: PlainListener) -> PlainListener: ...
    @overload
    def once(self, event: Literal["ping", "pong"], listener: PingListener) -> PingListener: ...
    @overload
    def once(self, event: Literal["error"], listener: ErrorListener) -> ErrorListener: ...
    @overload
    def once(self, event: Literal["message"]) -> Callable[[MessageListener], MessageListener]: ...
    @overload
    def once(self, event: Literal["close"]) -> Callable[[CloseListener], CloseListener]: ...
    @overload
    def once(self, event: Literal["open", "drain"]) -> Callable[[PlainListener], PlainListener]: ...
    @overload
    def once(self, event: Literal["ping", "pong"]) -> Callable[[PingListener], PingListener]: ...
    @overload
    def once(self, event: Literal["error"]) -> Callable[[ErrorListener], ErrorListener]: ...
    def once(self, event: str, listener: Any = None) -> Any:
        """Like `on()`, but `listener` is removed before its first call."""
        check_event(event)
        if listener is None:
            return partial(self.once, event)
        self.on(event, Once(self, event, listener, self._callable(listener)))  # type: ignore[call-overload]
        return listener

    def off(self, event: str, listener: Callable[..., object]) -> None:
        """Remove a `listener` that was added by `on()` or `once()`; does nothing if there is none.

        Raises `ValueError` for an unknown event.
        """
        check_event(event)
        self._change_listeners(event, partial(_without, listener))

    # Backpressure on the peer

    def pause(self) -> None:
        """Stop reading from the peer until `resume()`. Thread-safe.

        The peer can send until the socket buffers of both systems are full (TCP backpressure).
        Messages that were already read may still be emitted. While paused, the peer's pings are
        not answered; keep-alive pings are still sent and detect a dead peer. If the peer ends the
        connection, the messages that it sent before are emitted, then `close`. `close()` resumes
        reading.
        """
        self._in_engine(partial(self._pause, True))

    def resume(self) -> None:
        """Read from the peer again after `pause()`. Thread-safe."""
        self._in_engine(partial(self._pause, False))

    # Receiving without listeners

    def receive(self, timeout: float | None = None) -> str | bytes:
        """Return the next message, str or bytes. Blocks; call it in a thread.

        Waits up to `timeout` seconds; None, the default, waits without a limit. Called in the
        handler after `connect()`, it sends the 101 first.

        Raises `TimeoutError` if no message arrived in time; `ConnectionClosed` if the connection
        is closed and every message was received; `WebSocketError` if there is a `message`
        listener, if coroutines receive the messages, or if it is called in the engine's thread or
        in the thread of a running event loop.
        """
        if is_in_event_loop():
            raise WebSocketError(
                "receive() would block the event loop of this thread: await areceive() instead"
            )
        self._check_not_in_engine("receive()")
        inbox = self._inbox
        if not isinstance(inbox, ThreadInbox):
            inbox = ThreadInbox(self, self._settings.high_water)
            self._attach_inbox(inbox)
        return inbox.get(timeout)

    def __iter__(self) -> Iterator[str | bytes]:
        """Iterate over the messages in a thread: `for message in websocket`.

        The iteration ends when the connection is closed with 1000, 1001 or no code. Raises
        `ConnectionClosed` for any other close, and `WebSocketError` like `receive()`.
        """
        while True:
            try:
                message = self.receive()
            except ConnectionClosed as closed:
                if closed.code in NORMAL_CLOSE_CODES:
                    return
                raise
            yield message

    async def areceive(self) -> str | bytes:
        """Return the next message, str or bytes; for coroutines of asyncio and uvloop.

        Raises `ConnectionClosed` if the connection is closed and every message was received;
        `WebSocketError` if there is a `message` listener, if threads receive the messages, or if
        another coroutine is already waiting for a message.
        """
        try:
            return await self.__aiter__().__anext__()
        except StopAsyncIteration:
            raise self._closed_error() from None

    def __aiter__(self) -> LoopInbox:
        """Iterate over the messages in a coroutine: `async for message in websocket`.

        The iteration ends when the connection is closed with 1000, 1001 or no code. Raises
        `ConnectionClosed` for any other close, and `WebSocketError` like `areceive()`.
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
        """Start the closing handshake (RFC 6455 section 7.1.2). Does not wait. Thread-safe.

        Messages sent before are delivered first; messages that still arrive are discarded. If
        the peer does not answer within `Settings.close_timeout` seconds, the connection is
        dropped, except while it still reads the remaining data at 500 bytes per second or more.
        Does nothing if the connection is closing or closed.

        Raises `ValueError` for a code that must not be sent (1005, 1006, …) or a reason of more
        than 123 bytes, `WebSocketError` before `connect()`.
        """
        close_payload(code, reason)
        if self._outcome is None:
            raise WebSocketError("connect() has not been called; reject() closes with a code")
        self._in_engine(partial(self._start_closing, code, reason))

    def abort(self) -> None:
        """Drop the connection at once, without a closing handshake. Thread-safe.

        Unsent messages are lost; `close` is emitted with 1006.
        """
        self._in_engine(partial(self._abort, "aborted"))

    # Waiting for the close

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Block until the connection is closed, at most `timeout` seconds (None: no limit).

        Returns whether the connection is closed. Raises `WebSocketError` in the engine's own
        thread, where it would deadlock.
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
        """Wait until the connection is closed; for coroutines. Like `wait_closed()`."""
        self._complete_early()
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        notice = Notice(partial(set_threadsafe, loop, over))
        self._in_engine(partial(self._when_closed, notice))
        try:
            await over.wait()
        finally:
            if not over.is_set():
                self._in_engine(partial(self.off, "close", notice))

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close with 1000, or with 1011 after an exception, and wait for the end."""
        self._close_after(kind)
        self.wait_closed()

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close with 1000, or with 1011 after an exception, and wait for the end; `abort()` if
        cancelled."""
        self._close_after(kind)
        try:
            await self.await_closed()
        except asyncio.CancelledError:
            self.abort()
            raise

    def _close_after(self, kind: type[BaseException] | None) -> None:
        if kind is None or issubclass(kind, ConnectionClosed):
            self.close()
        else:
            self.close(CloseCode.INTERNAL_ERROR)

    # For the client, and for integrations of servers

    def _follow(self, look: Callable[[], Forwarded | None]) -> None:
        """Update `request` from `look()`, which returns None if nothing differs, until `connect()`.

        For integrations: middleware may change the server's request object, for example from the
        headers of a proxy.
        """
        if self._handling is not None and self._outcome is None:
            self._handling.look = look

    def _begin_as_client(
        self,
        version: Version,
        secret: bytes,
        subprotocol: str | None,
        negotiated: NegotiatedParameters | None = None,
    ) -> None:
        """Take the client role, after the client's handshake and before `_take_over`."""
        accepted = handshake.Accepted(version, b"", b"", negotiated, subprotocol)
        self._outcome = handshake.without_bytes(accepted)
        self._settings = self._surround_listeners(self._settings)
        assert self._handling is not None
        engine = self._handling.engine
        engine._ledger.enter_client()
        self._start_codec(engine, version, secret, client=True, negotiated=negotiated)
        self._begin_sending()

    def _add_to_response(self, fields: Iterable[tuple[str, str]]) -> None:
        """Add header fields of the application's response to the 101. Raises `ValueError` for a
        field that is not allowed in a response head."""
        handling = self._handling
        if handling is not None and isinstance(self._outcome, handshake.Accepted):
            handling.response = handshake.with_response_fields(
                handling.response, fields, handling.response_headers
            )

    def _reject(self, status: int, reason: str, fields: Iterable[tuple[str, str]]) -> None:
        """Replace the 101 by the application's response; `_write_response` adds its body.

        Called before `_take_over`, with or without a call of `connect()`. Raises `ValueError` for
        a field that is not allowed in a response head.
        """
        handling, former = self._handling, self._outcome
        if handling is None or self._state is State.CLOSED:
            return
        outcome = handshake.rejected_by_application(status, reason, fields)
        engine = handling.engine
        engine._ledger.count_refused(status)
        if isinstance(former, handshake.Accepted):
            engine._ledger.leave(self._counted_address)
            with self._codec.send_lock if self._codec is not None else contextlib.nullcontext():
                self._outcome = handshake.without_bytes(outcome)  # from now on, no frame is written
                self._discard_output()
        else:
            self._outcome = handshake.without_bytes(outcome)
            self._start_codec(engine, self._version)
        self._send_state = SendState.ENDED
        self._discard_input = True
        handling.response = outcome.response

    def _write_response(self, data: bytes, is_last: bool) -> None:
        """Send a part of the body of the response by which the application rejects the request."""
        if not isinstance(self._outcome, handshake.Refused):  # the connection was aborted before
            return
        if self.buffered_amount > self._settings.max_buffered:
            self._in_engine(partial(self._abort, "the client does not read the response"))
            return
        self._write(data)
        if is_last:
            self._in_engine(self._finish)

    def _take_over(self, connected: Stream, early: bytes = b"") -> None:
        """Pass the connection to the engine, with the `early` bytes read after the request head.

        A socket is detached; no other object may use its descriptor. An asyncio transport keeps
        carrying the bytes: the engine must run in the transport's loop, and this method must be
        called there.
        """
        handling = self._handling
        assert handling is not None
        packed = pack(handling.request)
        if isinstance(packed, Request):
            self._unpacked_request = packed
        else:
            self._packed_request = packed
        self._handling = None  # last: another thread may look at `request`
        if handling.is_inherited:
            self._abandoned()
        if self._state is State.CLOSED:  # aborted before, or this is a forked child
            close_stream(connected)
            return
        engine = handling.engine
        self._taken_over = True
        try:
            if handling.response:  # empty in the client role
                self._prepend(handling.response)
                if isinstance(self._outcome, handshake.Accepted):
                    engine._ledger.count_accepted()
            self._attach(engine, connected, early)
        except BaseException as error:
            self._fail_attach(engine, connected, error)

    def _attach(self, engine: Engine, connected: Stream, early: bytes) -> None:
        if not self._version._has_pings:
            keep_alive(_socket_of(connected), self._settings)
        if isinstance(connected, (socket.socket, Socket)):
            engine._attach(self, connected, early)
        else:
            engine._attach_transport(self, connected, early)

    def _fail_attach(self, engine: Engine, connected: Stream, error: BaseException) -> None:
        """The engine was stopped, or cannot be started: send 503 to the client and close."""
        if isinstance(self._outcome, handshake.Accepted):
            engine._ledger.count_refused(NOT_SERVED[0])
        if isinstance(connected, (socket.socket, Socket)) and not self._is_client:
            with contextlib.suppress(OSError, ValueError):
                connected.setblocking(False)
                connected.send(handshake.http_refusal(*NOT_SERVED).response)
                connected.shutdown(socket.SHUT_WR)
        close_stream(connected)
        self._taken_over = False
        self._connection_lost(str(error))
        if self._is_client or not isinstance(error, CannotStart):
            raise error

    def _complete_early(self, is_conversation: bool = False) -> None:
        """Send the 101 now if it was not sent, because the handler waits for the connection."""
        handling = self._handling
        if handling is not None and handling.handover is not None and self._outcome is not None:
            handling.handover.complete_early(is_conversation)

    @property
    def _has_listeners(self) -> bool:
        return bool(self._listeners or self._listeners_of("message"))

    # Internal

    @property
    def _counted_address(self) -> str | None:
        if self._settings.max_connections_per_address is None:
            return None
        address = self.request.remote_address
        return str(address[0]) if isinstance(address, tuple) else None

    def _is_overrun(self) -> bool:
        """Whether the messages that wait for the application exceed `max_buffered` bytes."""
        places = (self._inbox, self._backlog, self._async_listeners)
        return any(place and place.amount() > self._settings.max_buffered for place in places)

    def _when_closed(self, notice: Notice) -> None:
        """Call `notice` when the connection is closed, or now if it is closed already."""
        if self._state is State.CLOSED:
            notice()
        else:
            self._change_listeners("close", lambda present: (*present, notice))

    def _callable(self, listener: Callable[..., object]) -> Callable[..., object]:
        """Return the plain callable to register for `listener`, which may be `async def`."""
        if not is_async(listener):
            surroundings = self._surroundings
            return surrounded(listener, surroundings) if surroundings else listener
        if self._async_listeners is None:
            engine = self._handling.engine if self._handling is not None else self._engine
            loop = engine.event_loop if engine is not None else None
            if loop is None:
                raise WebSocketError(
                    "an async def listener needs an engine that runs in an event loop, but the "
                    "engine of this connection runs in a thread: use a plain function, which may "
                    "block, or call asyncio.run_coroutine_threadsafe() in it"
                )
            self._async_listeners = AsyncListenerQueue(self, self._settings.high_water, loop)
            self._async_listeners.surroundings = self._surroundings
        return QueuedListener(listener, self._async_listeners)  # type: ignore[arg-type]

    def _surround_listeners(self, settings: Settings) -> Settings:
        """Apply `around` and `keep_context` to the listeners. Returns the settings without these
        two, so that many connections can share one object."""
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
        with self._state_lock:  # other threads may change the listeners, too
            listeners = change(self._listeners_of(event))
            if event != "message":
                others = tuple(pair for pair in self._listeners if pair[0] != event)
                self._listeners = (*others, *((event, listener) for listener in listeners))
                return
            backlog = self._set_message_listeners(listeners)
        if backlog is not None:
            self._in_order(self._deliver_backlog)

    def _set_message_listeners(
        self, listeners: tuple[Callable[..., object], ...]
    ) -> Backlog | None:
        """Set the message listeners. Returns the backlog that they must receive first, or None."""
        if self._inbox is not None:
            raise WebSocketError(
                "cannot add a message listener: the messages are received by receive(), areceive() "
                "or iteration"
            )
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
            raise WebSocketError("cannot receive: the messages go to a message listener")
        if self._inbox is not None:
            raise WebSocketError(
                "messages are received either by threads or by coroutines, not both"
            )
        self._complete_early(is_conversation=True)
        self._inbox = inbox
        self._in_engine(partial(self._set_inbox, inbox))


class Notice:
    """A listener that calls a function without the event's arguments."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __call__(self, *_: object) -> None:
        self._call()


def _socket_of(connected: Stream) -> socket.socket | None:
    """Return the socket itself, or the socket of a transport; None if that has none."""
    if isinstance(connected, (socket.socket, Socket)):
        return connected
    sock: socket.socket | None = connected.get_extra_info("socket")
    return sock


def close_stream(connected: Stream) -> None:
    """Close a connection that was taken from an HTTP server but not passed to an engine."""
    if isinstance(connected, (socket.socket, Socket)):
        close_socket(connected)
    else:
        connected.abort()


def _without(
    listener: Callable[..., object], present: tuple[Callable[..., object], ...]
) -> tuple[Callable[..., object], ...]:
    """Return `present` without the first occurrence of `listener`."""
    for index, one in enumerate(present):
        if one == listener or getattr(one, "listener", None) == listener:
            return (*present[:index], *present[index + 1 :])
    return present


@lru_cache
def _shared(settings: Settings) -> Settings:
    """Return one object for all connections with equal settings."""
    return settings


def _check_response_headers(headers: Headers) -> None:
    for name, _ in headers.fields():
        lower = name.lower()
        if lower.startswith("sec-websocket-") or lower in ("upgrade", "connection"):
            raise ValueError(f"the handshake itself sets the header {name}")
