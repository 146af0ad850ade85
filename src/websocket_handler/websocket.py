"""The object that an application holds, from the request to the end of the connection.

Connecting, listening, receiving, closing; sending is in `sending`, what happens to a connection
by itself in `connection`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar, overload

from .connection import ORDINARY_CODES
from .engine import Engine, default_engine
from .engine.tls import Socket, close_socket
from .errors import ConnectionClosed, WebSocketError
from .inbox import LoopInbox, ThreadInbox
from .listeners import Awaited, InTurn, Once, Turns, check_event, is_async, surrounded
from .protocol import handshake, versions
from .protocol.check import NORMAL_CLOSURE
from .protocol.message import close_payload
from .protocol.packed_request import pack, unpack
from .protocol.permessage_deflate import Agreement
from .protocol.request import Forwarded, Headers, Request
from .protocol.state import State
from .protocol.versions import Version
from .sending import SendingConnection, tell
from .servers.lookup import websocket_of
from .settings import Settings
from .surroundings import Surroundings
from .tcp_keep_alive import keep_alive

logger = logging.getLogger("websocket_handler")

Listener = TypeVar("Listener", bound=Callable[..., object])

Connected: TypeAlias = socket.socket | asyncio.Transport
"""A connection as it comes from an HTTP server."""


class Handling:
    """What matters to a WebSocket until the handler has returned, and is forgotten then."""

    __slots__ = (
        "_home",
        "answer",
        "look",
        "response_headers",
        "when_connecting",
        "when_receiving",
    )

    def __init__(
        self,
        home: Engine | None,
        when_connecting: Callable[[], object] | None,
        when_receiving: Callable[[WebSocket], object] | None,
        answer: Callable[[int], Any] | None,
    ) -> None:
        self._home = home
        self.when_connecting = when_connecting
        self.when_receiving = when_receiving
        self.answer = answer
        self.response_headers = Headers()
        self.look: Callable[[], Forwarded] | None = None

    @property
    def engine(self) -> Engine:
        return self._home or default_engine()


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
        "_handling",
        "_request",
        "_server",
        "_turns",
    )

    def __init__(
        self,
        request: Request,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        server: object = None,
        when_connecting: Callable[[], object] | None = None,
        when_receiving: Callable[[WebSocket], object] | None = None,
        answer: Callable[[int], Any] | None = None,
    ) -> None:
        """For integrations of HTTP servers; an application gets its WebSocket from them.

        `engine` is the one to live in (default: that of the process), `server` whom the
        request came through. `when_connecting` is called by `connect()`, for servers whose
        socket must be secured at that moment; `when_receiving` if the handler itself waits
        for messages after that, for the hand-over that otherwise follows its return.
        `answer` makes of the status what `connect()` returns, where "" will not do.
        """
        super().__init__(settings or Settings())
        self._request: Request | bytes = request  # packed once the handler has returned
        self._handling: Handling | None = Handling(engine, when_connecting, when_receiving, answer)
        self._server = server
        self._turns: Turns | None = None

    def __repr__(self) -> str:
        request = self.request
        address = request.remote_address
        peer = "{}:{}".format(*address[:2]) if isinstance(address, tuple) else str(address)
        return f"<WebSocket {peer} {request.path} {self._state.value}>"

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
        return version.offered_subprotocols(request)

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
        if isinstance(self._outcome, handshake.Accepted) and self._outcome.agreement is not None:
            return str(self._outcome.agreement)
        return ""

    @property
    def state(self) -> State:
        """CONNECTING until the engine has the socket, then OPEN, CLOSING, CLOSED."""
        return self._state

    @property
    def outcome(self) -> handshake.Accepted | handshake.Refused | None:
        """How `connect()` answered the handshake; None before."""
        return self._outcome

    @property
    def latency(self) -> float | None:
        """Seconds from the last ping to its pong, whether `ping()` sent it or the engine, to
        see whether the peer is alive; None before the first pong."""
        return self._latency if self._latency >= 0 else None

    # Connecting

    def connect(self, subprotocol: str | None = None, **settings: Any) -> Any:
        """Accept the WebSocket; the socket leaves the HTTP server when the handler returns.

        `subprotocol` must be one of `subprotocols`. `settings` override those of the server
        for this connection (see `Settings`). What is sent from now on waits for the
        hand-over. If the request turns out to be no sound handshake, or its origin is not
        allowed, the client gets the HTTP error instead, and nothing of what the handler
        sends; `close` is emitted with 1006.

        Returns something that the server's handlers may return: "" under most, a response
        under aiohttp. Whatever the handler returns, the client does not see it.

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
        if handling.when_connecting is not None:
            handling.when_connecting()
            handling.when_connecting = None  # it may hold on to much of the HTTP server
        self._settings = _shared(self._surround_listeners(chosen))
        engine = handling.engine
        if isinstance(outcome, handshake.Accepted):
            why_not = engine.ledger.enter(chosen, self._counted_address)
            outcome = handshake.refuse(*why_not) if why_not else outcome
        if isinstance(outcome, handshake.Refused):
            engine.ledger.count_refused(outcome.status)
        self._outcome = handshake.to_be_kept(outcome)
        secret, agreement = b"", None
        if isinstance(outcome, handshake.Accepted):
            secret, agreement = outcome.secret, outcome.agreement
        self._speak(engine, self._version, secret, agreement=agreement)
        self._write(outcome.response)
        if isinstance(outcome, handshake.Refused):
            self._sendable = False
            self._finish()
        return "" if handling.answer is None else handling.answer(int(outcome.status))

    def refuse(self, code: int, reason: str = "", **settings: Any) -> Any:
        """Complete the handshake, then close at once with `code` (usually 4000 to 4999).

        It is the only refusal a script in a browser can see; an HTTP status is better for
        everyone else. Returns what `connect` does, raises what `connect` and `close` raise.
        """
        close_payload(code, reason)
        answer = self.connect(**settings)
        self.close(code, reason)
        return answer

    def _follow(self, look: Callable[[], Forwarded]) -> None:
        """Have `request` show until `connect()` what `look` returns; for integrations, whose
        servers' request objects may be changed by middleware."""
        if self._handling is not None and self._outcome is None:
            self._handling.look = look

    def begin_as_client(
        self,
        version: Version,
        secret: bytes,
        subprotocol: str | None,
        agreement: Agreement | None = None,
    ) -> None:
        """Be the client's end, after its handshake; for the client, before `take_over`."""
        accepted = handshake.Accepted(version, b"", b"", agreement, subprotocol)
        self._outcome = handshake.to_be_kept(accepted)
        self._settings = self._surround_listeners(self._settings)
        assert self._handling is not None
        engine = self._handling.engine
        engine.ledger.enter_client()
        self._speak(engine, version, secret, client=True, agreement=agreement)

    def respond(self, response: bytes) -> None:
        """Be refused with an HTTP response, of which `write_response` may bring more; for
        integrations that answer by themselves, before `take_over`."""
        self._outcome = handshake.refused_by_application(response)
        assert self._handling is not None
        engine = self._handling.engine
        engine.ledger.count_refused(self._outcome.status)
        self._speak(engine, self._version)
        self._deaf = True
        self._write(response)

    def write_response(self, data: bytes, is_last: bool) -> None:
        """More of the response to a refused handshake."""
        self._write(data)
        if is_last:
            self._in_engine(self._finish)

    def take_over(self, connected: Connected, early: bytes = b"") -> None:
        """Give the engine the connection after `connect()`; for integrations, once the
        handler has returned.

        `early` are bytes that came with the request head. A socket must be the only object
        that uses its descriptor; it is detached. An asyncio transport goes on to carry the
        bytes; its loop is where the engine must live, and this be called.
        """
        if self._state is State.CLOSED:  # aborted meanwhile
            close_connected(connected)
            return
        assert self._handling is not None
        engine = self._handling.engine
        self._handling = None
        self._taken_over = True
        if isinstance(self._request, Request):
            self._request = pack(self._request)
        if isinstance(connected, (socket.socket, Socket)):
            if not self._version.has_pings:
                keep_alive(connected, self._settings)
            engine.attach(self, connected, early)
        else:
            engine.attach_transport(self, connected, early)

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
        self._set_listeners(event, (*self._listeners_of(event), self._callable(listener)))
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
        left = list(self._listeners_of(event))
        for present in left:
            if present == listener or getattr(present, "listener", None) == listener:
                left.remove(present)
                break
        self._set_listeners(event, tuple(left))

    # Receiving less

    def pause(self) -> None:
        """Read nothing more, until `resume()`; the peer is held back once the buffers of both
        systems are full.

        Messages that were read already may still come. Meanwhile pings are not answered, and
        a peer that has died is not noticed. Closing reads on. From any thread.
        """
        self._in_engine(partial(self._pause, True))

    def resume(self) -> None:
        """Read on after `pause()`. From any thread."""
        self._in_engine(partial(self._pause, False))

    # Receiving without listeners

    def receive(self, timeout: float | None = None) -> Any:
        """The next message, str or bytes; for threads, which wait up to `timeout` seconds.

        Called in the handler itself, after `connect()`, the hand-over happens now. Raises
        `TimeoutError`; `ConnectionClosed` once the connection is over and every message was
        taken; `WebSocketError` if messages go to listeners or coroutines, or in the
        engine's own thread, which would wait for itself.
        """
        inbox = self._inbox
        if not isinstance(inbox, ThreadInbox):
            inbox = ThreadInbox(self, self._settings.high_water)
            self._receive_through(inbox)
        self._check_not_in_engine("receive()")
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
                if closed.code in ORDINARY_CODES:
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
            is_home = self._engine is not None and self._engine.home_loop is loop
            inbox = LoopInbox(self, self._settings.high_water, loop, is_home, ORDINARY_CODES)
            self._receive_through(inbox)
        return inbox

    # Closing

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake (RFC 6455 section 7.1.2); does not wait for its end.

        What was sent before is delivered first; messages that still arrive are dropped.
        Without an answer within `Settings.close_timeout` the connection is dropped. Does
        nothing on a connection that is closing or closed. Raises `ValueError` for a code
        that may not be sent (1005, 1006 …) or a reason of more than 123 bytes.
        """
        close_payload(code, reason)
        if self._outcome is None:
            raise WebSocketError("connect() has not been called; refuse() closes with a code")
        self._in_engine(partial(self._start_closing, code, reason))

    def abort(self) -> None:
        """Drop the connection at once, without the closing handshake; `close` brings 1006."""
        self._in_engine(partial(self._give_up, "aborted"))

    # Waiting for the end

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the end; for threads. Returns whether it has come.

        Raises `WebSocketError` in the engine's own thread, which would wait for itself.
        """
        self._check_not_in_engine("wait_closed()")
        over = threading.Event()
        self._in_engine(partial(self._when_closed, over.set))
        return over.wait(timeout)

    async def await_closed(self) -> None:
        """Wait for the end; for coroutines."""
        loop = asyncio.get_running_loop()
        over = asyncio.Event()
        self._in_engine(partial(self._when_closed, partial(tell, loop, over)))
        await over.wait()

    def __enter__(self) -> WebSocket:
        return self

    def __exit__(self, *_: object) -> None:
        """Close with 1000 and wait for the end."""
        self.close()
        self.wait_closed()

    async def __aenter__(self) -> WebSocket:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close with 1000 and wait for the end."""
        self.close()
        await self.await_closed()

    # Behind the API

    @property
    def _counted_address(self) -> str | None:
        if self._settings.max_connections_per_address is None:
            return None
        address = self.request.remote_address
        return str(address[0]) if isinstance(address, tuple) else None

    def _when_closed(self, notice: Callable[[], object]) -> None:
        """Have `notice` called at the end, or now if that has come."""
        if self._state is State.CLOSED:
            notice()
        else:
            self._set_listeners("close", (*self._listeners_of("close"), lambda *_: notice()))

    def _callable(self, listener: Callable[..., object]) -> Callable[..., object]:
        """The listener in a form that only has to be called."""
        if not is_async(listener):
            surroundings = self._surroundings
            return surrounded(listener, surroundings) if surroundings else listener
        if self._turns is None:
            engine = self._handling.engine if self._handling is not None else self._engine
            loop = engine.home_loop if engine is not None else None
            if loop is None:
                raise WebSocketError("an async def listener needs an engine in an event loop")
            self._turns = Turns(self, self._settings.high_water, loop)
            self._turns.surroundings = self._surroundings
        return Awaited(listener, self._turns)  # type: ignore[arg-type]

    def _surround_listeners(self, settings: Settings) -> Settings:
        """Have listeners called as `around` and `keep_context` say; returns the other settings,
        which many connections share."""
        surroundings = Surroundings.of(settings)
        if surroundings is None:
            return settings
        self._surroundings = surroundings
        self._listeners = tuple(
            (event, surrounded(listener, surroundings)) for event, listener in self._listeners
        )
        if self._message_listener is not None:
            self._message_listener = surrounded(self._message_listener, surroundings)
        if self._turns is not None:
            self._turns.surroundings = surroundings
        return replace(settings, around=None, keep_context=False)

    def _listeners_of(self, event: str) -> tuple[Callable[..., object], ...]:
        if event != "message":
            return tuple(listener for name, listener in self._listeners if name == event)
        if self._inbox is not None or self._backlog is not None or self._message_listener is None:
            return ()
        if isinstance(self._message_listener, InTurn):
            return self._message_listener.listeners
        return (self._message_listener,)

    def _set_listeners(self, event: str, listeners: tuple[Callable[..., object], ...]) -> None:
        if event != "message":
            others = tuple(pair for pair in self._listeners if pair[0] != event)
            self._listeners = (*others, *((event, listener) for listener in listeners))
            return
        if self._inbox is not None:
            raise WebSocketError("messages go to who receives them; there can be no listener")
        chosen = InTurn(listeners) if listeners[1:] else next(iter(listeners), None)
        if self._backlog is None:
            if self._takes_messages():
                self._message_listener = chosen
        else:
            self._in_engine(partial(self._hear, chosen))

    def _receive_through(self, inbox: LoopInbox | ThreadInbox) -> None:
        if self._outcome is None:
            raise WebSocketError("connect() has not been called")
        if self._listeners_of("message"):
            raise WebSocketError("messages go to a listener; nobody else can receive them")
        if self._inbox is not None:
            raise WebSocketError("either threads or coroutines receive the messages, not both")
        if self._handling is not None and self._handling.when_receiving is not None:
            self._handling.when_receiving(self)
        self._inbox = inbox
        self._in_engine(partial(self._hear_inbox, inbox))


def close_connected(connected: Connected) -> None:
    """Close a connection that was taken from a server, and given to no engine."""
    if isinstance(connected, (socket.socket, Socket)):
        close_socket(connected)
    else:
        connected.abort()


@lru_cache
def _shared(settings: Settings) -> Settings:
    """One object for all connections with the same settings."""
    return settings


def _check_response_headers(headers: Iterable[str]) -> None:
    for name in headers:
        lower = name.lower()
        if lower.startswith("sec-websocket-") or lower in ("upgrade", "connection"):
            raise ValueError(f"the header {name} is set by the handshake itself")
