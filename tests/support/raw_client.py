"""HTTP and WebSockets by hand: a client that can send any invalid bytes, and strictly checks the
responses."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple, TypeVar

from websocket_handler.protocol.frame import FrameStart, Opcode, write_frame
from websocket_handler.protocol.versions.accept import accept_value

TIMEOUT_S = 10.0

Self = TypeVar("Self", bound="RawClient")


class Response(NamedTuple):
    """The head of an HTTP response; header names in lower case."""

    status: int
    reason: str
    headers: dict[str, list[str]]

    def header(self, name: str) -> str:
        """Returns the only header of that name."""
        (value,) = self.headers[name]
        return value


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True


def text(data: str, fin: bool = True) -> Frame:
    return Frame(Opcode.TEXT, data.encode(), fin)


def binary(data: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.BINARY, data, fin)


def more(data: bytes, fin: bool = True) -> Frame:
    return Frame(Opcode.CONTINUATION, data, fin)


def close(code: int | None = None, reason: str = "") -> Frame:
    body = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
    return Frame(Opcode.CLOSE, body)


def masked(*frames: Frame) -> bytes:
    """The frames, masked as a client must send them."""
    return b"".join(write_frame(*frame, os.urandom(4)) for frame in frames)


def request(
    target: str,
    headers: Mapping[str, str | None] | None = None,
    *,
    method: str = "GET",
    version: str = "HTTP/1.1",
) -> bytes:
    """The head of an HTTP request. Headers with the value None are omitted."""
    fields: dict[str, str | None] = {"Host": "127.0.0.1", **(headers or {})}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    return "\r\n".join([f"{method} {target} {version}", *lines, "", ""]).encode("latin-1")


class RawClient:
    """One TCP connection to a server."""

    def __init__(
        self,
        address: tuple[str, int],
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
        source: str = "",
    ) -> None:
        """`source`: the address from which to connect, if not the usual one."""
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            if source:
                self.sock.bind((source, 0))
            self.sock.connect(address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            if context is not None:
                self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        except OSError:
            self.sock.close()
            raise
        self.key = base64.b64encode(os.urandom(16)).decode()
        self._unread = bytearray()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sock.close()

    # HTTP

    def handshake(self, target: str, headers: Mapping[str, str | None] | None = None) -> bytes:
        """The head of a valid handshake, changed by `headers`."""
        sound: dict[str, str | None] = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": self.key,
        }
        return request(target, {**sound, **(headers or {})})

    def open(
        self: Self,
        target: str = "/echo",
        headers: Mapping[str, str | None] | None = None,
        early: bytes = b"",
    ) -> Self:
        """Open a WebSocket; `early` is sent together with the request."""
        self.sock.sendall(self.handshake(target, headers) + early)
        self.expect_opened()
        return self

    def expect_opened(self) -> Response:
        response = self.read_response()
        assert response.status == 101, response
        assert response.header("upgrade").lower() == "websocket"
        assert response.header("connection").lower() == "upgrade"
        assert response.header("sec-websocket-accept") == accept_value(self.key)
        return response

    def get(self, target: str, headers: Mapping[str, str | None] | None = None) -> Response:
        """Make an ordinary request; the body of the response is still unread."""
        self.sock.sendall(request(target, headers))
        return self.read_response()

    def read_response(self) -> Response:
        lines = []
        while line := self._read_line():
            lines.append(line)
        protocol, status, reason = lines[0].split(" ", 2)
        assert protocol in ("HTTP/1.0", "HTTP/1.1")
        headers: dict[str, list[str]] = {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        return Response(int(status), reason, headers)

    def read_body(self, response: Response) -> bytes:
        return self.read(int(response.header("content-length")))

    # WebSocket

    def send(self, *frames: Frame) -> None:
        self.sock.sendall(masked(*frames))

    def read_frame(self) -> Frame:
        """Returns the next frame; fails if a server may not send it."""
        start = FrameStart.read(*self.read(2))
        assert not start.reserved_bits
        assert start.opcode in list(Opcode)
        assert not start.masked
        if start.is_control:
            assert start.fin
            assert start.short_length <= 125
        if not start.length_size:
            return Frame(start.opcode, self.read(start.short_length), start.fin)
        length = int.from_bytes(self.read(start.length_size), "big")
        assert length >= (126 if start.length_size == 2 else 1 << 16)
        return Frame(start.opcode, self.read(length), start.fin)

    def expect(self, *frames: Frame) -> None:
        for frame in frames:
            found = self.read_frame()
            assert found == frame, f"{_short(found)} instead of {_short(frame)}"

    def echo(self, *frames: Frame) -> None:
        self.send(*frames)
        self.expect(*frames)

    def expect_close(self, code: int | None, reason: str | None = None) -> None:
        """The next frame must be a close frame with that code (and that reason, unless None)."""
        opcode, payload, _ = self.read_frame()
        assert opcode == Opcode.CLOSE, _short(Frame(opcode, payload))
        assert (int.from_bytes(payload[:2], "big") if payload else None) == code, payload
        if reason is not None:
            assert payload[2:].decode() == reason

    def expect_closed(self, code: int | None, reason: str | None = None) -> None:
        """Check that the server closes with that code and, once answered, ends the connection."""
        self.expect_close(code, reason)
        self.send(close(code))
        self.expect_end()

    # Bytes

    def read(self, size: int) -> bytes:
        while len(self._unread) < size:
            data = self.sock.recv(max(size - len(self._unread), 1 << 16))
            if not data:
                raise AssertionError(
                    f"the connection ended within {size} bytes: {self._unread[:200]!r}"
                )
            self._unread += data
        found = bytes(self._unread[:size])
        del self._unread[:size]
        return found

    def read_to_end(self) -> bytes:
        while data := self.sock.recv(1 << 20):
            self._unread += data
        found = bytes(self._unread)
        self._unread.clear()
        return found

    def expect_end(self) -> None:
        """Check that the server sends nothing more, and ends with FIN instead of a reset."""
        rest = self.read_to_end()
        assert rest == b"", rest[:200]

    def reset(self) -> None:
        """Disconnect with RST."""
        linger = struct.pack("ii", 1, 0)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.sock.close()

    def _read_line(self) -> str:
        while b"\r\n" not in self._unread:
            data = self.sock.recv(1 << 16)
            if not data:
                raise AssertionError(f"the connection ended within a line: {self._unread[:200]!r}")
            self._unread += data
        line = self.read(self._unread.index(b"\r\n"))
        self.read(2)
        return line.decode("latin-1")


def _short(frame: Frame) -> str:
    opcode, payload, fin = frame
    return f"(opcode {opcode}, {len(payload)} bytes {payload[:60]!r}, fin {fin})"


KEY = b"\1\2\3\4"


def raw(header: bytes, payload: bytes = b"") -> bytes:
    """A masked frame; the caller chooses every field of the header before the masking key."""
    return header + KEY + bytes(byte ^ KEY[i % 4] for i, byte in enumerate(payload))
