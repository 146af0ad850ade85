"""WebSockets over the messages of an ASGI server that does not expose the connection.

Such a server handles the handshake and the frames, and exchanges messages with the application. The
engine reads and writes bytes, so a `MessageTransport` translates between both. It needs asyncio
tasks for each WebSocket. The server sends the pings. Everything else works as on a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from ..engine import loop_engine
from ..handover.base import Handover
from ..handover.transport import TransportHandover
from ..protocol.assembly import Close, Message
from ..protocol.check import is_valid_close_code
from ..protocol.close_codes import CloseCode
from ..protocol.frame import Opcode, write_frame
from ..protocol.message import Decoder, close_payload
from ..protocol.request import Headers, Request
from ..protocol.versions import rfc6455
from ..settings import Settings
from ..websocket import WebSocket
from .asgi import KEY, Application, Receive, Scope, Send, disconnect, request_of
from .asgi_calls import Event
from .forwarded import in_scope

logger: logging.Logger = logging.getLogger("websocket_handler")

ASGI = replace(rfc6455.VERSION, name="ASGI", _has_pings=False)
"""The version between the engine and a `MessageTransport`: RFC 6455 without pings."""

NO_KEY = bytes(4)
"""The masking key that leaves the payload unchanged."""

HANDSHAKE_FIELDS = (
    *("upgrade", "connection"),
    *("sec-websocket-accept", "sec-websocket-protocol"),
)

UNLIMITED = Settings(max_message_size=(1 << 62) - 1, max_fragments=(1 << 62) - 1)
HIGH_WATER = 1 << 16
MAX_DENIAL_PART_BYTES = 1 << 20
"""Of a response in place of the WebSocket, this much is sent in one message: granian takes no
second one."""


async def run_over_asgi_messages(
    application: Application, scope: Scope, receive: Receive, send: Send, settings: Settings
) -> None:
    """Run an application on a `websocket` scope, with a `WebSocket` in it.

    The application must receive `websocket.connect`. Then it may deny the request, or call
    `connect()` on the WebSocket.
    """
    can_deny = "websocket.http.response" in (scope.get("extensions") or {})
    transport = MessageTransport(receive, send, can_deny)
    handover = TransportHandover(transport, loop_engine(), server=transport)
    websocket = WebSocket(
        with_handshake(request_of(scope)),
        replace(settings, versions=(ASGI,), ping_interval=None, compression=False),
        handover=handover,
    )
    websocket._follow(partial(in_scope, scope))
    scope[KEY] = transport.websocket = websocket
    carrying = asyncio.create_task(transport.carry())
    try:
        await _run(application, scope, transport.receive, transport.deny, handover)
        if handover.is_detached:
            await carrying
    finally:
        carrying.cancel()


async def _run(
    application: Application, scope: Scope, receive: Receive, send: Send, handover: Handover
) -> None:
    """Run the application to its end, and complete or abort the handover."""
    try:
        await application(scope, receive, send)
        handover.complete()
    except Exception as error:
        if not handover.is_detached:
            raise
        logger.error("%r: the ASGI application raised", handover.websocket, exc_info=error)
        if not handover.is_complete:  # otherwise a task after the response failed
            handover.abort()
    except BaseException:
        handover.abort()
        raise


def with_handshake(request: Request) -> Request:
    """Return the request with a valid handshake. The server has checked the client's."""
    fields = request.headers.fields()
    headers = Headers(field for field in fields if not field[0].startswith(":"))
    headers["Upgrade"], headers["Connection"] = "websocket", "Upgrade"
    headers["Sec-WebSocket-Version"] = str(ASGI.number)
    headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    if "Host" not in headers:  # in HTTP/2 it is :authority
        headers["Host"] = dict(fields).get(":authority", "localhost")
    return replace(request, headers=headers, http_version="1.1")


class MessageTransport(asyncio.Transport):
    """A transport that reads and writes RFC 6455 frames, and carries them as ASGI messages."""

    def __init__(self, receive: Receive, send: Send, can_deny: bool) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._can_deny = can_deny
        self._protocol: Any = None
        self.websocket: WebSocket | None = None
        self._head, self._denial_body = bytearray(), bytearray()
        self._is_accepted = self._is_denied = self._is_closing = self._is_disconnected = False
        self._decoder = Decoder(UNLIMITED, expect_masked=False)
        self._outgoing: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._something_to_send = asyncio.Event()
        self._reading = asyncio.Event()
        self._wanted = asyncio.Event()  # set if the engine or the application can receive
        self._disconnected = asyncio.Event()
        self._connect_received = False
        self._carrier: asyncio.Task[None] | None = None
        self._is_sending = self._is_aborted = False

    async def receive(self) -> Event:
        """Return `websocket.connect`, then wait for the disconnect of the client.

        For an application that has not decided yet.
        """
        if not self._connect_received:
            self._connect_received = True
            return await self._receive()
        self._wanted.set()
        await self._disconnected.wait()
        return disconnect(CloseCode.ABNORMAL_CLOSURE, "")

    async def deny(self, message: Event) -> None:
        """Send a response that rejects the WebSocket, or 403 if the server supports no other."""
        if not self._can_deny:
            if message["type"] == "websocket.http.response.start":
                await self._send({"type": "websocket.close"})
            return
        if message["type"] == "websocket.http.response.body":
            self._denial_body += message.get("body", b"")
            if message.get("more_body", False) and len(self._denial_body) < MAX_DENIAL_PART_BYTES:
                return
            message = {**message, "body": bytes(self._denial_body)}
            self._denial_body.clear()
        await self._send(message)

    async def carry(self) -> None:
        """Carry messages in both directions until either side ends or fails."""
        receiving = asyncio.create_task(self._carry_in())
        self._carrier = asyncio.current_task()
        try:
            await self._carry_out()
        except asyncio.CancelledError:
            if not self._is_aborted:
                raise
        except OSError as error:  # ASGI 2.4: the peer has disconnected
            logger.debug("%r: %r", self.websocket, error)
        except Exception as error:
            self._log_failure(error)
            with contextlib.suppress(Exception):
                await self._send_close(
                    {"type": "websocket.close", "code": CloseCode.INTERNAL_ERROR}
                )
        finally:
            receiving.cancel()
            self._is_closing = True
            self._disconnected.set()
            if self._protocol is not None:
                self._protocol.connection_lost(None)

    async def _carry_out(self) -> None:
        while not (self._is_closing and not self._outgoing):
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._outgoing and not self._is_disconnected:
                message, size = self._outgoing.popleft()
                is_close = message["type"] == "websocket.close"
                await (self._send_close if is_close else self._pass_on)(message)
                self._size -= size
            if self._is_disconnected:
                self._outgoing.clear()
            if self._size <= HIGH_WATER and not self._is_closing:
                self._protocol.resume_writing()

    async def _pass_on(self, message: Event) -> None:
        """Pass a message to the server. It may wait for the peer without a limit."""
        self._is_sending = True
        try:
            await self._send(message)
        finally:
            self._is_sending = False

    async def _send_close(self, message: Event) -> None:
        """Close with the code, or without it if the server rejects it.

        daphne accepts only 1000 and 3000 to 4999.
        """
        try:
            await self._pass_on(message)
        except OSError:
            raise
        except Exception as error:
            code = message.get("code")
            logger.info("%r: the server rejects the close code %s: %r", self.websocket, code, error)
            await self._pass_on({"type": "websocket.close"})

    async def _carry_in(self) -> None:
        try:
            while not self._is_disconnected:
                await self._wanted.wait()
                await self._take(await self._receive())
        except Exception as error:
            self._log_failure(error)
            self._disconnected.set()
            await self._reading.wait()
            self._fail()

    async def _take(self, message: Event) -> None:
        if message["type"] == "websocket.receive":
            frame = frame_of(message)
            await self._reading.wait()
            self._protocol.data_received(frame)
        elif message["type"] == "websocket.disconnect":
            self._is_disconnected = True
            frame = close_frame(message.get("code"), message.get("reason"))
            self._disconnected.set()
            await self._reading.wait()
            self._end_input(frame)

    def _fail(self) -> None:
        """Close with 1011, as if the peer had replied: nothing more can be received."""
        if self.websocket is not None:
            self.websocket.close(CloseCode.INTERNAL_ERROR, "internal error")
        self._end_input(close_frame(CloseCode.INTERNAL_ERROR, None))

    def _end_input(self, frame: bytes) -> None:
        self._protocol.data_received(frame)
        self._protocol.eof_received()

    def _log_failure(self, error: Exception) -> None:
        logger.error("%r: the ASGI server's messages failed", self.websocket, exc_info=error)

    # The methods of a transport that the engine uses

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Do nothing: messages are not split, so the limits are fixed."""

    def get_write_buffer_size(self) -> int:
        return self._size

    def pause_reading(self) -> None:
        self._reading.clear()
        self._wanted.clear()

    def resume_reading(self) -> None:
        self._reading.set()
        self._wanted.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._is_denied:
            self._add_denial_body(data)
            return
        if not self._is_accepted:
            self._head += data
            head, end, data = bytes(self._head).partition(b"\r\n\r\n")
            if not end:
                return
            self._is_accepted = self._put_answer(head.decode("latin-1"))
            if not self._is_accepted:
                self._is_denied = True
                self._add_denial_body(data)
                return
        for event in self._decoder.feed(data):
            if isinstance(event, Message):
                kind = "text" if isinstance(event.data, str) else "bytes"
                self._put({"type": "websocket.send", kind: event.data}, len(event.data))
            elif isinstance(event, Close):
                code = (
                    CloseCode.NORMAL_CLOSURE
                    if event.code == CloseCode.NO_CODE_RECEIVED
                    else event.code
                )
                self._put({"type": "websocket.close", "code": code, "reason": event.reason})

    def _put_answer(self, head: str) -> bool:
        """Queue the message for a response to the handshake. Returns whether it is a 101."""
        status_line, *lines = head.split("\r\n")
        status = int(status_line.split()[1])
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        raw = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fields
            if name.lower() not in HANDSHAKE_FIELDS
        ]
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            subprotocol = dict(fields).get("Sec-WebSocket-Protocol")
            self._put({"type": "websocket.accept", "subprotocol": subprotocol, "headers": raw})
        elif self._can_deny:
            kind = "websocket.http.response.start"
            self._put({"type": kind, "status": status, "headers": raw})
        else:
            self._put({"type": "websocket.close"})
        return status == HTTPStatus.SWITCHING_PROTOCOLS

    def _add_denial_body(self, data: bytes | bytearray | memoryview) -> None:
        """Collect the body, because not every server accepts it in parts."""
        self._denial_body += data
        self._size += len(data)

    def _put(self, message: Event, size: int = 0) -> None:
        self._outgoing.append((message, size))
        self._size += size
        self._something_to_send.set()
        if self._size > HIGH_WATER:
            self._protocol.pause_writing()

    def close(self) -> None:
        if self._is_denied and self._can_deny and not self._is_closing:
            body = bytes(self._denial_body)
            self._put({"type": "websocket.http.response.body", "body": body})
        self._is_closing = True
        self._something_to_send.set()

    def abort(self) -> None:
        """Drop the rest, but for a whole response in place of the WebSocket: the server ends
        the connection after that."""
        if not (self._is_denied and self._is_closing):
            self._outgoing.clear()
            if self._is_sending and self._carrier is not None:  # the peer may never read
                self._is_aborted = True
                self._carrier.cancel()
        self.close()


def frame_of(message: Event) -> bytes:
    """Return a message as the frame that the client has sent."""
    text = message.get("text")
    if text is None:
        return write_frame(Opcode.BINARY, message["bytes"], key=NO_KEY)
    return write_frame(Opcode.TEXT, text.encode(), key=NO_KEY)


def close_frame(code: int | None, reason: str | None) -> bytes:
    """Return the close frame that the server has received; empty if there was none.

    daphne reports None for a close frame without a code.
    """
    if code is None or code == CloseCode.NO_CODE_RECEIVED:
        return write_frame(Opcode.CLOSE, b"", key=NO_KEY)
    if not is_valid_close_code(code):
        return b""
    return write_frame(Opcode.CLOSE, close_payload(code, reason or ""), key=NO_KEY)
