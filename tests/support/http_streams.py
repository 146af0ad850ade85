"""WebSockets in a stream of HTTP/2 (RFC 8441) and of HTTP/3 (RFC 9220)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import h2.connection
import h2.events
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent

from .tls import AUTHORITY

TIMEOUT_S = 10


def handshake(scheme: str, port: int) -> dict[str, str]:
    return {
        ":method": "CONNECT",
        ":protocol": "websocket",
        ":scheme": scheme,
        ":authority": f"localhost:{port}",
        ":path": "/echo",
        "sec-websocket-version": "13",
    }


def masked_frame(text: str) -> bytes:
    """A text frame of a client, with a mask of zeros."""
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text.encode()


def text_of(frame: bytes) -> str:
    """The text of an unmasked frame."""
    assert frame[:2] == bytes([0x81, len(frame) - 2])
    return frame[2:].decode()


def echo_over_http2(port: int, text: str) -> str:
    """Open a WebSocket in an HTTP/2 stream (RFC 8441), send a text message, return the answer."""
    protocol = h2.connection.H2Connection()
    received = b""
    with socket.create_connection(("localhost", port), TIMEOUT_S) as sock:

        def events() -> list[h2.events.Event]:
            sock.sendall(protocol.data_to_send())
            found: list[h2.events.Event] = protocol.receive_data(sock.recv(65536))
            return found

        protocol.initiate_connection()
        while not any(isinstance(one, h2.events.RemoteSettingsChanged) for one in events()):
            pass
        stream = protocol.get_next_available_stream_id()
        protocol.send_headers(stream, list(handshake("http", port).items()))
        is_open = False
        while not received.endswith(text.encode()):
            for event in events():
                if isinstance(event, h2.events.ResponseReceived):
                    is_open = (b":status", b"200") in list(event.headers)
                    assert is_open, event.headers
                    protocol.send_data(stream, masked_frame(text))
                elif isinstance(event, h2.events.DataReceived):
                    received += event.data
    return text_of(received)


class Http3Client(QuicConnectionProtocol):
    """Opens one WebSocket, and collects the status and the bytes that it receives."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.http = H3Connection(self._quic)
        self.stream = self._quic.get_next_available_stream_id()
        self.status = b""
        self.received = b""
        self.progress = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        for one in self.http.handle_event(event):
            if isinstance(one, HeadersReceived):
                self.status = dict(one.headers)[b":status"]
            elif isinstance(one, DataReceived):
                self.received += one.data
            self.progress.set()

    def open(self, port: int) -> None:
        head = handshake("https", port).items()
        fields = [(name.encode(), value.encode()) for name, value in head]
        self.http.send_headers(self.stream, fields)
        self.transmit()

    def send(self, data: bytes) -> None:
        self.http.send_data(self.stream, data, end_stream=False)
        self.transmit()

    async def until(self, has_arrived: Callable[[], bool]) -> None:
        while not has_arrived():
            await asyncio.wait_for(self.progress.wait(), TIMEOUT_S)
            self.progress.clear()


async def echo_over_http3(port: int, text: str) -> str:
    """Open a WebSocket in an HTTP/3 stream, send a text message, return the answer."""
    options = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_REQUIRED)
    options.load_verify_locations(cadata=AUTHORITY.cert_pem.bytes())
    async with connect(
        "localhost", port, configuration=options, create_protocol=Http3Client
    ) as client:
        assert isinstance(client, Http3Client)
        client.open(port)
        await client.until(lambda: bool(client.status))
        assert client.status == b"200"
        client.send(masked_frame(text))
        await client.until(lambda: client.received.endswith(text.encode()))
    return text_of(client.received)
