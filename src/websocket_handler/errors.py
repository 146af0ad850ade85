"""Every error this library raises, as one small tree under `WebSocketError`."""

from __future__ import annotations

from .protocol.printable import printable


class WebSocketError(Exception):
    """Base of every error raised by websocket_handler."""


class ConnectionClosed(WebSocketError):
    """The connection is closing or closed, so nothing more can be sent on it.

    `code` and `reason` say why, in the terms of RFC 6455 section 7.1.5: 1005 stands for
    a close frame without a code, 1006 for a connection lost without a close frame.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"the WebSocket is closed: {self.code} {printable(self.reason)}".rstrip()


class ProtocolError(WebSocketError):
    """The peer sent what its version of the protocol does not allow.

    `code` is the close code the connection was failed with (RFC 6455 section 7.4.1)
    and `reason` the rule that was broken.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(self.reason)} ({self.code})"


class UnsupportedByVersion(WebSocketError):
    """The version of the protocol that the connection speaks has no such thing."""


class HandshakeFailed(WebSocketError):
    """A client's handshake did not lead to a WebSocket.

    `status` is that of the server's response, None if there was none to speak of;
    `headers` are its headers as (name, value) and `body` what had come of its body.
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
        self.headers = headers or []
        self.body = body

    def __str__(self) -> str:
        return printable(self.reason)


class BusUnavailable(WebSocketError):
    """The rooms' broker cannot be told: it is away, and so much waits for it that no more may
    (or nothing may, as the settings of the bus say), or the bus is closed."""
