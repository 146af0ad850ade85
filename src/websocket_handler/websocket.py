"""The object that an application holds, from the request to the end of the connection.

A `WebSocket` is a `Channel` of the engine, which carries its bytes; here is what happens
besides: connecting, events, pings, the closing handshake and time-outs (RFC 6455 sections
5.5 and 7). Everything below "What the engine calls" runs in the engine's thread.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, overload

from .engine import Channel, Engine, default_engine
from .errors import ConnectionClosed, ProtocolError, WebSocketError
from .protocol import handshake, versions
from .protocol.check import (
    ABNORMAL_CLOSURE,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_CODE_RECEIVED,
    NORMAL_CLOSURE,
    POLICY_VIOLATION,
)
from .protocol.frame import MAX_CONTROL_PAYLOAD, Opcode
from .protocol.message import close_payload, fragments
from .protocol.request import Headers, Request
from .protocol.state import State, Step, advance
from .protocol.versions import Version
from .settings import Settings

logger = logging.getLogger("websocket_handler")

EVENTS = ("open", "message", "ping", "pong", "drain", "error", "close")

KEEPALIVE = b"keepalive"
"""The payload of the pings that only see whether the peer is alive; their pongs are no event."""

ORDINARY_CODES = (NORMAL_CLOSURE, GOING_AWAY, NO_CODE_RECEIVED)
"""Connections that end with these are logged at DEBUG, all others at INFO."""

Listener = TypeVar("Listener", bound=Callable[..., object])


class WebSocket(Channel):
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
    engine's thread. One that raises has its traceback logged and its connection closed
    with 1011; nobody else notices.
    """

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_close_code",
        "_close_reason",
        "_heard_at_ping",
        "_held",
        "_home",
        "_listeners",
        "_outcome",
        "_pong",
        "_request",
        "_response_headers",
        "_server",
        "_settings",
        "_state",
        "_subprotocol",
        "_taken_over",
        "_when_connecting",
    )

    def __init__(
        self,
        request: Request,
        settings: Settings | None = None,
        *,
        engine: Engine | None = None,
        server: object = None,
        when_connecting: Callable[[], object] | None = None,
    ) -> None:
        """For integrations of HTTP servers; an application gets its WebSocket from them.

        `engine` is the one to live in (default: that of the process), `server` whom the
        request came through. `when_connecting` is called by `connect()`, for servers whose
        socket must be secured at that moment.
        """
        self._request = request
        self._settings = settings or Settings()
        self._home = engine
        self._server = server
        self._when_connecting = when_connecting
        self._listeners: dict[str, tuple[Callable[..., object], ...]] = {}
        self._response_headers = Headers()
        self._outcome: handshake.Accepted | handshake.Refused | None = None
        self._taken_over = False
        self._state = State.CONNECTING
        self._subprotocol: str | None = None
        self._close_code = ABNORMAL_CLOSURE
        self._close_reason = ""
        self._held: list[Any] | None = None  # messages that wait for a fragmented one to end
        self._pong: bytes | None = None  # the newest ping's, while the peer is not reading
        self._heard_at_ping: float | None = None

    def __repr__(self) -> str:
        address = self._request.remote_address
        peer = "{}:{}".format(*address[:2]) if isinstance(address, tuple) else str(address)
        return f"<WebSocket {peer} {self._request.path} {self._state.value}>"

    # The request

    @property
    def request(self) -> Request:
        """The HTTP request as the server read it: path, query, headers, cookies, address."""
        return self._request

    @property
    def version(self) -> Version | None:
        """The version of the protocol the request asks for; None if it is not accepted."""
        return versions.choose(self._request, self._settings.versions)

    @property
    def subprotocols(self) -> list[str]:
        """The subprotocols the client offers, in its order of preference."""
        return handshake.offered_subprotocols(self._request)

    @property
    def response_headers(self) -> Headers:
        """Headers to add to the 101 response, cookies for example; fill before `connect()`."""
        return self._response_headers

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol in use, as given to `connect()`."""
        return self._subprotocol

    @property
    def state(self) -> State:
        """CONNECTING until the engine has the socket, then OPEN, CLOSING, CLOSED."""
        return self._state

    @property
    def outcome(self) -> handshake.Accepted | handshake.Refused | None:
        """How `connect()` answered the handshake; None before."""
        return self._outcome

    # Connecting

    def connect(self, subprotocol: str | None = None, **settings: Any) -> str:
        """Accept the WebSocket; the socket leaves the HTTP server when the handler returns.

        `subprotocol` must be one of `subprotocols`. `settings` override those of the server
        for this connection (see `Settings`). What is sent from now on waits for the
        hand-over. If the request turns out to be no sound handshake, or its origin is not
        allowed, the client gets the HTTP error instead, and `close` is emitted with 1006.

        Returns "", so that a handler can `return ws.connect()` where its framework wants a
        body; whatever the handler returns, the client does not see it.

        Raises `WebSocketError` if called twice, `ValueError` for a subprotocol that was not
        offered, a response header the handshake itself sets, or a bad setting.
        """
        if self._outcome is not None:
            raise WebSocketError("connect() was called before")
        chosen = replace(self._settings, **settings) if settings else self._settings
        _check_response_headers(self._response_headers)
        outcome = handshake.answer(
            self._request,
            chosen.versions,
            chosen.allowed_origins,
            subprotocol,
            self._response_headers,
        )
        if self._when_connecting is not None:
            self._when_connecting()
            self._when_connecting = None  # it may hold on to much of the HTTP server
        self._settings, self._subprotocol = chosen, subprotocol
        self._outcome = outcome._replace(response=b"")
        version = outcome.version if isinstance(outcome, handshake.Accepted) else chosen.versions[0]
        self._bind(self._home or default_engine(), chosen, version)
        self._write(outcome.response)
        if isinstance(outcome, handshake.Refused):
            self._finish()
        return ""

    def refuse(self, code: int, reason: str = "", **settings: Any) -> str:
        """Complete the handshake, then close at once with `code` (usually 4000 to 4999).

        It is the only refusal a script in a browser can see; an HTTP status is better for
        everyone else. Raises what `connect` and `close` raise.
        """
        close_payload(code, reason)
        self.connect(**settings)
        self.close(code, reason)
        return ""

    def take_over(self, sock: socket.socket, early: bytes = b"") -> None:
        """Give the engine the socket after `connect()`; for integrations, once the handler
        has returned.

        `early` are bytes that came with the request head. `sock` must be the only object
        that uses its descriptor; it is detached.
        """
        if self._state is State.CLOSED:  # aborted meanwhile
            sock.close()
            return
        self._taken_over = True
        (self._home or default_engine()).attach(self, sock, early)

    # Events

    @overload
    def on(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def on(self, event: str) -> Callable[[Listener], Listener]: ...
    def on(self, event: str, listener: Any = None) -> Any:
        """Call `listener` at every `event`; without `listener`, a decorator that does so.

        Several listeners are called in the order they were added. Raises `ValueError` for
        an unknown event.
        """
        _check_event(event)
        if listener is None:
            return partial(self.on, event)
        self._set_listeners(event, (*self._listeners.get(event, ()), listener))
        return listener

    @overload
    def once(self, event: str, listener: Listener) -> Listener: ...
    @overload
    def once(self, event: str) -> Callable[[Listener], Listener]: ...
    def once(self, event: str, listener: Any = None) -> Any:
        """As `on`, for the next `event` alone."""
        _check_event(event)
        if listener is None:
            return partial(self.once, event)
        self.on(event, _Once(self, event, listener))
        return listener

    def off(self, event: str, listener: Callable[..., object]) -> None:
        """No longer call `listener`, added by `on` or `once`. Unknown ones are ignored."""
        _check_event(event)
        left = list(self._listeners.get(event, ()))
        for present in left:
            if present == listener or getattr(present, "listener", None) == listener:
                left.remove(present)
                break
        self._set_listeners(event, tuple(left))

    # Sending; `send` itself and `buffered_amount` are the channel's

    def send_text_message(self, text: str) -> None:
        """As `send`, for text alone: raises `TypeError` for anything but `str`."""
        if not isinstance(text, str):
            raise TypeError(f"a text message is a str, not {type(text).__name__}")
        self.send(text)

    def send_binary_message(self, data: bytes | bytearray | memoryview) -> None:
        """As `send`, for bytes-like objects alone: raises `TypeError` for anything else."""
        self.send(bytes(memoryview(data)))

    def ping(self, payload: str | bytes = b"") -> None:
        """Ping the peer; its `pong` event brings the same payload, at most 125 bytes.

        Pings that find dead peers are sent without this (`Settings.ping_interval`). Raises
        `ValueError` for a longer payload, `ConnectionClosed` if the connection is not open.
        """
        body = payload.encode() if isinstance(payload, str) else bytes(payload)
        if len(body) > MAX_CONTROL_PAYLOAD:
            raise ValueError(f"the payload of a ping is at most {MAX_CONTROL_PAYLOAD} bytes")
        self._check_open()
        self._write_frame(Opcode.PING, body)

    def close(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        """Start the closing handshake (RFC 6455 section 7.1.2); does not wait for its end.

        What was sent before is delivered first; messages that still arrive are dropped.
        Without an answer within `Settings.close_timeout` the connection is dropped. Does
        nothing on a connection that is closing or closed. Raises `ValueError` for a code
        that may not be sent (1005, 1006 …) or a reason of more than 123 bytes.
        """
        payload = close_payload(code, reason)
        if self._outcome is None:
            raise WebSocketError("connect() has not been called; refuse() closes with a code")
        self._in_engine(partial(self._start_closing, payload))

    def abort(self) -> None:
        """Drop the connection at once, without the closing handshake; `close` brings 1006."""
        self._in_engine(partial(self._give_up, "aborted"))

    # Behind the API

    def _set_listeners(self, event: str, listeners: tuple[Callable[..., object], ...]) -> None:
        self._listeners[event] = listeners
        if event == "message":
            self._message_listener = (
                _InTurn(listeners) if listeners[1:] else next(iter(listeners), None)
            )

    def _emit(self, event: str, *arguments: object) -> None:
        for listener in self._listeners.get(event, ()):
            try:
                listener(*arguments)
            except BaseException as error:
                self._failed(error)

    def _emit_error(self, error: BaseException) -> None:
        for listener in self._listeners.get("error", ()):
            try:
                listener(error)
            except BaseException:
                logger.exception("%r: an error listener raised", self)

    def _in_engine(self, call: Callable[[], object]) -> None:
        """Change the state in one thread only: the handler's before the hand-over, the
        engine's after."""
        engine = self._engine
        if engine is None or not self._taken_over or engine.is_own_thread():
            call()
        else:
            engine.post(call)

    def _check_open(self) -> None:
        if self._outcome is None:
            raise WebSocketError("connect() has not been called")
        if self._state in (State.CLOSING, State.CLOSED):
            raise ConnectionClosed(self._close_code, self._close_reason)

    def _send_otherwise(self, message: Any) -> None:
        """`send` for whatever is not a str or bytes on a connection that is open and keeping up."""
        self._check_open()
        if self._held is not None:
            self._held.append(message)
        elif self.buffered_amount > self._settings.max_buffered:
            logger.info("%r: closing, %d bytes were not read", self, self.buffered_amount)
            self.close(POLICY_VIOLATION, "slow consumer")
            raise ConnectionClosed(POLICY_VIOLATION, "slow consumer")
        elif isinstance(message, bytearray | memoryview):
            self._write_frame(Opcode.BINARY, bytes(message))
        elif isinstance(message, Iterable) and not isinstance(message, Mapping):
            self._send_fragments(message)
        else:
            raise TypeError(
                "a message is a str, a bytes-like object, or an iterable of either, "
                f"not {type(message).__name__}"
            )

    def _send_fragments(self, pieces: Iterable[Any]) -> None:
        """One message, a frame a piece; what others send meanwhile waits for its end."""
        iterator = iter(pieces)
        first = next(iterator, None)
        if first is None:
            return
        self._held, self._sendable = [], False
        begun = False
        try:
            for opcode, payload, fin in fragments(iterator, first):
                self._check_open()
                self._write_frame(opcode, payload, fin)
                begun = True
        except BaseException:
            if begun and self._state is not State.CLOSED:  # the message can never be completed
                self.close(INTERNAL_ERROR, "message broken off")
            raise
        finally:
            held, self._held = self._held, None
            self._sendable = self._state in (State.CONNECTING, State.OPEN)
        for message in held:
            self.send(message)

    def _start_closing(self, payload: bytes) -> None:
        state = advance(self._state, Step.CLOSE_SENT)
        if state is None:
            return
        self._state = state
        self._sendable = False
        self._message_listener = None
        self._close_code = int.from_bytes(payload[:2], "big")
        self._close_reason = payload[2:].decode()
        self._write_frame(Opcode.CLOSE, payload)
        self._set_deadline(self._settings.close_timeout)

    def _settle(self, step: Step, code: int, reason: str) -> bool:
        """Whether this is what ended the connection: then `code` and `reason` stand."""
        state = advance(self._state, step)
        if state is None:
            return False
        self._state = state
        self._sendable = False
        self._close_code, self._close_reason = code, reason
        return True

    def _announce_close(self) -> None:
        level = logging.DEBUG if self._close_code in ORDINARY_CODES else logging.INFO
        logger.log(level, "%r: %d %s", self, self._close_code, self._close_reason)
        for listener in self._listeners.get("close", ()):
            try:
                listener(self._close_code, self._close_reason)
            except BaseException:
                logger.exception("%r: a close listener raised", self)
        self._listeners = {}
        self._message_listener = None
        self._held = None

    def _linger(self) -> None:
        """Send what is left and FIN, then wait for the peer's: closing with its data unread
        would reset the connection and could take our last bytes with it."""
        self._set_deadline(self._settings.close_timeout)
        self._finish()

    def _give_up(self, reason: str) -> None:
        """Drop the socket if there is one; in any case the WebSocket is over."""
        self._drop(reason)
        self._connection_lost(reason)

    # What the engine calls

    def _opened(self) -> None:
        """The engine has the socket; the response to the handshake is on its way."""
        if isinstance(self._outcome, handshake.Refused):
            self._set_deadline(self._settings.close_timeout)
            status, reason = self._outcome.status, self._outcome.reason
            self._connection_lost(f"handshake refused with {status.value}: {reason}")
        elif self._state is State.CLOSING:
            self._set_deadline(self._settings.close_timeout)
        else:
            self._state = advance(self._state, Step.OPENED) or self._state
            if self._settings.ping_interval is not None:
                self._set_deadline(self._settings.ping_interval)
            self._emit("open")

    def _ping_received(self, payload: bytes) -> None:
        if self._state is not State.OPEN:
            return
        if self._blocked:  # only the newest needs an answer (RFC 6455 section 5.5.3)
            self._pong = payload
            self._tell_when_flushed = True
        else:
            self._write_frame(Opcode.PONG, payload)
        self._emit("ping", payload)

    def _pong_received(self, payload: bytes) -> None:
        if self._state is State.OPEN and payload != KEEPALIVE:
            self._emit("pong", payload)

    def _flushed(self) -> None:
        """Everything was sent: the pong that had to wait may follow."""
        if self._pong is not None and self._state is State.OPEN:
            payload, self._pong = self._pong, None
            self._write_frame(Opcode.PONG, payload)

    def _drained(self) -> None:
        if self._state is State.OPEN:
            self._emit("drain")

    def _close_received(self, code: int, reason: str) -> None:
        if self._state is State.OPEN:
            answer = None if code == NO_CODE_RECEIVED else code
            self._write_frame(Opcode.CLOSE, close_payload(answer, reason))
        self._end(Step.CLOSE_RECEIVED, code, reason)

    def _violated(self, code: int, reason: str) -> None:
        """Fail the connection (RFC 6455 section 7.1.7)."""
        if self._state is State.OPEN:
            self._write_frame(Opcode.CLOSE, close_payload(code, reason))
        self._end(Step.LOST, code, reason, ProtocolError(code, reason))

    def _input_over(self) -> None:
        self._end(Step.LOST, ABNORMAL_CLOSURE, "the peer ended the connection without closing it")

    def _end(self, step: Step, code: int, reason: str, error: Exception | None = None) -> None:
        ended = self._settle(step, code, reason)
        self._linger()
        if error is not None:
            self._emit_error(error)
        if ended:
            self._announce_close()

    def _failed(self, error: BaseException) -> None:
        """A listener raised, or memory ran out: this connection ends, with 1011."""
        logger.error("%r: a listener raised", self, exc_info=error)
        self._emit_error(error)
        self._start_closing(close_payload(INTERNAL_ERROR, "internal error"))
        if not isinstance(error, Exception) and self._engine is not None:
            self._engine.interrupt(error)

    def _deadline_passed(self) -> None:
        if self._state is State.OPEN:
            self._keep_alive()
        elif self._state is State.CLOSING:
            self._give_up("the peer did not answer the close frame in time")
        else:
            self._drop("")

    def _keep_alive(self) -> None:
        """Ping a silent peer, and drop it if it stays silent."""
        interval = self._settings.ping_interval
        assert interval is not None
        heard = self._heard
        if heard == self._heard_at_ping:
            self._give_up("no answer to a ping")
            return
        silence = time.monotonic() - heard
        if silence < interval:
            self._set_deadline(interval - silence)
            return
        self._heard_at_ping = heard
        if not self._blocked:
            self._write_frame(Opcode.PING, KEEPALIVE)
        self._set_deadline(self._settings.ping_timeout)

    def _connection_lost(self, reason: str) -> None:
        if self._settle(Step.LOST, ABNORMAL_CLOSURE, reason):
            self._announce_close()


class _Once:
    """A listener that takes itself off before it is called."""

    def __init__(self, websocket: WebSocket, event: str, listener: Callable[..., object]) -> None:
        self._websocket = websocket
        self._event = event
        self.listener = listener

    def __call__(self, *arguments: object) -> None:
        self._websocket.off(self._event, self)
        self.listener(*arguments)


class _InTurn:
    """Several message listeners as one."""

    def __init__(self, listeners: tuple[Callable[..., object], ...]) -> None:
        self._listeners = listeners

    def __call__(self, message: str | bytes) -> None:
        for listener in self._listeners:
            listener(message)


def _check_event(event: str) -> None:
    if event not in EVENTS:
        raise ValueError(f"there is no event {event!r}, only {', '.join(EVENTS)}")


def _check_response_headers(headers: Headers) -> None:
    for name in headers:
        lower = name.lower()
        if lower.startswith("sec-websocket-") or lower in ("upgrade", "connection"):
            raise ValueError(f"the header {name} is set by the handshake itself")
