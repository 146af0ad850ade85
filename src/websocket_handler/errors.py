"""The exceptions of this library. All errors derive from `WebSocketError`."""

from __future__ import annotations

import re
from asyncio import CancelledError

from .protocol.printable import printable

READABLE = re.compile(r"text/plain|application/(.+\+)?json", re.IGNORECASE)
"""The Content-Type of a response whose body an error message shows."""


class WebSocketError(Exception):
    """The base class of all exceptions of websocket_handler."""


class ConnectionClosed(WebSocketError):
    """The connection is closing or closed, so no message can be sent.

    `code` and `reason` are those of RFC 6455 section 7.1.5. The code is 1005 if the close frame
    had none, and 1006 if the connection was lost without a close frame.

    `limit` names the limit that was exceeded: our setting and its value, or that it is a limit of
    the peer; "" if the connection was not closed because of one.
    """

    def __init__(self, code: int, reason: str = "", limit: str = "") -> None:
        code = int(code)  # a plain int also if it is given as a CloseCode
        super().__init__(code, reason, limit)
        self.code = code
        self.reason = reason
        self.limit = limit

    def __str__(self) -> str:
        text = f"the WebSocket is closed: {self.code} {printable(self.reason)}".rstrip()
        return f"{text} ({self.limit})" if self.limit else text


class ConnectionMoved(CancelledError):
    """Raised to a handler that receives messages after its connection was moved to a new process.

    The connection is still open: the handler of the same request runs again in the new process, and
    this run should end. Like `asyncio.CancelledError`, from which it derives, it is no `Exception`,
    so `except Exception` and `except ConnectionClosed` do not mistake it for the end of the
    connection. The handler need not catch it.
    """

    def __init__(self) -> None:
        super().__init__("the connection was moved to another process")

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ()


class ProtocolError(WebSocketError):
    """The peer violated its version of the protocol.

    `code` is the close code with which the connection was failed (RFC 6455 section 7.4.1), and
    `reason` names the violated rule.
    """

    def __init__(self, code: int, reason: str) -> None:
        code = int(code)
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.reason)} ({self.code})"


class UnsupportedByVersion(WebSocketError):
    """The connection's version of the protocol lacks the requested feature."""


class HandshakeFailed(WebSocketError):
    """A client's opening handshake failed.

    `status` is the HTTP status of the server's response, None if there was no valid response.
    `headers` are its header fields as (name, value), and `body` is the received part of its body,
    up to 64 KiB.
    """

    def __init__(
        self,
        reason: str,
        status: int | None = None,
        headers: list[tuple[str, str]] | None = None,
        body: bytes = b"",
    ) -> None:
        super().__init__(reason, status)
        self.reason = reason
        self.status = status
        self.headers: list[tuple[str, str]] = headers or []
        self.body = body

    def __str__(self) -> str:
        """Return the reason, and the beginning of the body if it is text or JSON."""
        text, body = printable(self.reason), ""
        if any(
            name.lower() == "content-type" and READABLE.match(kind) for name, kind in self.headers
        ):
            body = " ".join(self.body.decode(errors="replace").split())
        return f"{text}: {printable(body)}" if body else text


class ProxyFailed(HandshakeFailed):
    """The proxy refused to open a connection to the server, or broke the protocol.

    `status` is the HTTP status of the proxy's response, None for a SOCKS proxy.
    """


class ConnectionFailed(WebSocketError, OSError):
    """A client could not open a network connection, or lost it during the handshake.

    `errno` is that of the operating system, None if there was none. The cause
    (`__cause__`) is the error of the operating system, if there was one.
    """

    def __init__(self, reason: str, number: int | None = None) -> None:
        super().__init__(number, reason)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        """Let a copy, also one in another process, be made with the arguments in their order."""
        return type(self), (self.reason, self.errno), self.__dict__

    def __str__(self) -> str:
        return printable(self.reason)


class TlsFailed(ConnectionFailed):
    """TLS could not be established: the server's certificate is not valid for it, the server
    rejected the client's, or the server does not support TLS."""


class BusUnavailable(WebSocketError):
    """The message could not be queued for the broker of the rooms.

    The broker is unavailable and the queue is full (or the bus is configured to raise), or the bus
    is closed.
    """
