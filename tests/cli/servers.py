"""Servers that answer a handshake as a test wants it, with or without TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping

from websocket_handler import Settings
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.frame import write_frame
from websocket_handler.protocol.message import Decoder
from websocket_handler.protocol.versions.accept import accept_value

from ..support.raw_client import Frame, binary, close, text

TIMEOUT_S = 20.0

Respond = Callable[[socket.socket, bytes], object]
"""Takes a connection and the head of its request; the connection is closed afterwards."""


@contextlib.contextmanager
def serving(respond: Respond, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """Serve each connection in a thread; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept_all, args=(listening, respond, context), daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()


def accept_all(listening: socket.socket, respond: Respond, context: ssl.SSLContext | None) -> None:
    while True:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(sock, respond, context), daemon=True).start()


def serve(sock: socket.socket, respond: Respond, context: ssl.SSLContext | None) -> None:
    sock.settimeout(TIMEOUT_S)
    with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
        stack.enter_context(sock)
        if context is not None:
            sock = stack.enter_context(context.wrap_socket(sock, server_side=True))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                return
            head += byte
        respond(sock, head)


def header(head: bytes, name: str) -> str:
    """Return the value of a header of a request, "" if it has none."""
    for line in head.decode().split("\r\n")[1:]:
        found, _, value = line.partition(": ")
        if found.lower() == name.lower():
            return value
    return ""


def response(status: str, body: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    fields = {"Content-Length": str(len(body.encode())), "Connection": "close", **(headers or {})}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items())]
    return ("\r\n".join([*lines, "", ""]) + body).encode()


def answering(status: str, body: str = "", headers: Mapping[str, str] | None = None) -> Respond:
    """A server that answers each request with this response."""
    return lambda sock, _: sock.sendall(response(status, body, headers))


def upgrade(head: bytes, *leave_out: str, version: str = "HTTP/1.1") -> bytes:
    """The 101 that accepts a handshake, without the headers to leave out."""
    fields = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Accept": accept_value(header(head, "Sec-WebSocket-Key")),
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if name not in leave_out]
    return "\r\n".join([f"{version} 101 Switching Protocols", *lines, "", ""]).encode()


def frame(one: Frame) -> bytes:
    """An unmasked frame, as a server sends it."""
    return write_frame(*one)


def sending(*frames: Frame) -> Respond:
    """A server that accepts, sends frames, and waits until the peer ends the connection."""

    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head) + b"".join(map(frame, frames)))
        while sock.recv(1 << 16):
            pass

    return respond


def replying(*frames: Frame) -> Respond:
    """Like `sending`, but the frames follow the first bytes from the peer."""

    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        sock.recv(1 << 16)
        sock.sendall(b"".join(map(frame, frames)))
        while sock.recv(1 << 16):
            pass

    return respond


def echoing(count: int) -> Respond:
    """A server that echoes this number of messages, and then closes with 1000."""

    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        decoder = Decoder(Settings(), expect_masked=True)
        left = count
        while left > 0 and (data := sock.recv(1 << 16)):
            messages = [one.data for one in decoder.feed(data) if isinstance(one, Message)]
            echoes = [text(one) if isinstance(one, str) else binary(one) for one in messages]
            sock.sendall(b"".join(map(frame, echoes)))
            left -= len(messages)
        sock.sendall(frame(close(1000)))
        while sock.recv(1 << 16):
            pass

    return respond
