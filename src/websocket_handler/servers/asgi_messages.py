"""WebSockets over the messages of an ASGI server that keeps the connection to itself.

Such a server does handshake and frames, and gives and takes messages. The engine wants
bytes: a `MessageTransport` stands between, the other end of the same protocol. That costs a
task for each WebSocket, and pings are the server's affair; all else is the same.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from ..engine import loop_engine
from ..protocol.assembly import Close, Message
from ..protocol.check import NO_CODE_RECEIVED, NORMAL_CLOSURE, is_valid_close_code
from ..protocol.frame import Opcode, write_frame
from ..protocol.message import Decoder, close_payload
from ..protocol.request import Headers, Request
from ..protocol.versions import rfc6455
from ..settings import Settings
from ..websocket import WebSocket
from .asgi import KEY, Application, Event, Receive, Scope, Send, request_of
from .forwarded import in_scope
from .transports import TransportHandOver

ASGI = replace(rfc6455.VERSION, name="ASGI", has_pings=False)
"""What is spoken with the server: no version of the protocol, but as good as one."""

NO_KEY = bytes(4)
"""A masking key that leaves everything as it is."""

OF_THE_HANDSHAKE = (
    *("upgrade", "connection", "content-length"),
    *("sec-websocket-accept", "sec-websocket-protocol"),
)

UNLIMITED = Settings(max_message_size=(1 << 62) - 1, max_fragments=(1 << 62) - 1)
HIGH_WATER = 1 << 16


async def converse(
    application: Application, scope: Scope, receive: Receive, send: Send, settings: Settings
) -> None:
    """Run an application on a `websocket` scope in which it finds a WebSocket of ours.

    The application must receive `websocket.connect` and may deny the request, or `connect()`.
    """
    can_deny = "websocket.http.response" in (scope.get("extensions") or {})
    transport = MessageTransport(receive, send, can_deny)
    hand_over = TransportHandOver(transport, loop_engine())
    websocket = WebSocket(
        with_handshake(request_of(scope)),
        replace(settings, versions=(ASGI,), ping_interval=None, compression=False),
        engine=hand_over.engine,
        server=transport,
        when_connecting=hand_over.secure,
        when_receiving=hand_over.hasten,
    )
    websocket._follow(partial(in_scope, scope))
    scope[KEY] = websocket
    carrying = asyncio.create_task(transport.carry())
    try:
        await application(scope, receive, transport.deny)
        if websocket.outcome is not None:
            hand_over.complete(websocket)
            await carrying
    except BaseException:
        if websocket.outcome is not None:
            hand_over.abandon(websocket)
        raise
    finally:
        carrying.cancel()


def with_handshake(request: Request) -> Request:
    """The request with a handshake that is in order: the server's has been already."""
    fields = request.headers.fields()
    headers = Headers(field for field in fields if not field[0].startswith(":"))
    headers["Upgrade"], headers["Connection"] = "websocket", "Upgrade"
    headers["Sec-WebSocket-Version"] = str(ASGI.number)
    headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    if "Host" not in headers:  # HTTP/2 has it as :authority
        headers["Host"] = dict(fields).get(":authority", "localhost")
    return replace(request, headers=headers, http_version="1.1")


class MessageTransport(asyncio.Transport):
    """Bytes of RFC 6455 to one side, messages of ASGI to the other."""

    def __init__(self, receive: Receive, send: Send, can_deny: bool) -> None:
        super().__init__()
        self._receive = receive
        self._send = send
        self._can_deny = can_deny
        self._protocol: Any = None
        self._head = bytearray()
        self._is_accepted = self._is_closing = self._is_disconnected = False
        self._decoder = Decoder(UNLIMITED, expect_masked=False)
        self._outgoing: deque[tuple[Event, int]] = deque()
        self._size = 0
        self._something_to_send = asyncio.Event()
        self._reading = asyncio.Event()

    async def deny(self, message: Event) -> None:
        """A response in place of the WebSocket; a bare 403 where the server has no other."""
        if self._can_deny:
            await self._send(message)
        elif message["type"] == "websocket.http.response.start":
            await self._send({"type": "websocket.close"})

    async def carry(self) -> None:
        """Carry messages both ways until the end."""
        receiving = asyncio.create_task(self._carry_in())
        try:
            await self._carry_out()
        finally:
            receiving.cancel()
            self._is_closing = True
            if self._protocol is not None:
                self._protocol.connection_lost(None)

    async def _carry_out(self) -> None:
        while not (self._is_closing and not self._outgoing):
            await self._something_to_send.wait()
            self._something_to_send.clear()
            while self._outgoing and not self._is_disconnected:
                message, size = self._outgoing.popleft()
                await self._send(message)
                self._size -= size
            if self._is_disconnected:
                self._outgoing.clear()
            if self._size <= HIGH_WATER and not self._is_closing:
                self._protocol.resume_writing()

    async def _carry_in(self) -> None:
        while not self._is_disconnected:
            await self._reading.wait()
            message = await self._receive()
            if message["type"] == "websocket.receive":
                self._protocol.data_received(frame_of(message))
            elif message["type"] == "websocket.disconnect":
                self._is_disconnected = True
                self._protocol.data_received(close_frame(message.get("code", NO_CODE_RECEIVED)))
                self._protocol.eof_received()

    # What the engine asks of a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Messages are not split, so there is no choice."""

    def get_write_buffer_size(self) -> int:
        return self._size

    def pause_reading(self) -> None:
        self._reading.clear()

    def resume_reading(self) -> None:
        self._reading.set()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._is_accepted:
            self._head += data
            head, end, data = bytes(self._head).partition(b"\r\n\r\n")
            if not end:
                return
            self._is_accepted = True
            if not self._put_answer(head.decode("latin-1"), data):
                return
        for event in self._decoder.feed(data):
            if isinstance(event, Message):
                kind = "text" if isinstance(event.data, str) else "bytes"
                self._put({"type": "websocket.send", kind: event.data}, len(event.data))
            elif isinstance(event, Close):
                code = NORMAL_CLOSURE if event.code == NO_CODE_RECEIVED else event.code
                self._put({"type": "websocket.close", "code": code, "reason": event.reason})

    def _put_answer(self, head: str, body: bytes) -> bool:
        """What the response to the handshake amounts to; returns whether it accepts."""
        status_line, *lines = head.split("\r\n")
        status = int(status_line.split()[1])
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        raw = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in fields
            if name.lower() not in OF_THE_HANDSHAKE
        ]
        if status == HTTPStatus.SWITCHING_PROTOCOLS:
            subprotocol = dict(fields).get("Sec-WebSocket-Protocol")
            self._put({"type": "websocket.accept", "subprotocol": subprotocol, "headers": raw})
        elif self._can_deny:
            kind = "websocket.http.response"
            self._put({"type": f"{kind}.start", "status": status, "headers": raw})
            self._put({"type": f"{kind}.body", "body": body})
        else:
            self._put({"type": "websocket.close"})
        return status == HTTPStatus.SWITCHING_PROTOCOLS

    def _put(self, message: Event, size: int = 0) -> None:
        self._outgoing.append((message, size))
        self._size += size
        self._something_to_send.set()
        if self._size > HIGH_WATER:
            self._protocol.pause_writing()

    def close(self) -> None:
        self._is_closing = True
        self._something_to_send.set()

    def abort(self) -> None:
        self._outgoing.clear()
        self.close()


def frame_of(message: Event) -> bytes:
    """The frame that a client would have sent."""
    text = message.get("text")
    if text is None:
        return write_frame(Opcode.BINARY, message["bytes"], key=NO_KEY)
    return write_frame(Opcode.TEXT, text.encode(), key=NO_KEY)


def close_frame(code: int) -> bytes:
    """The close frame that the server has had; none where there was none."""
    if code == NO_CODE_RECEIVED:
        return write_frame(Opcode.CLOSE, b"", key=NO_KEY)
    if not is_valid_close_code(code):
        return b""
    return write_frame(Opcode.CLOSE, close_payload(code), key=NO_KEY)
