"""Inert sockets: the objects that an HTTP server keeps after its connection was taken.

An inert socket discards everything that is sent and reads end of file. A socket object becomes
inert when its `__class__` is changed.
"""

from __future__ import annotations

import socket
from typing import Any

from ..engine.tls import Socket, SSLSocket


class DiscardingSocket:
    """Discards all sent bytes. Methods that would wait or end the connection have no effect."""

    __slots__ = ()

    def recv(self, *_: object) -> bytes:
        return b""

    def recv_into(self, *_: object) -> int:
        return 0

    def send(self, data: object, *_: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def sendall(self, *_: object) -> None:
        """Send nothing."""

    def sendfile(self, *_: object) -> int:
        return 0

    def settimeout(self, *_: object) -> None:
        """Do nothing; no method of this class waits."""

    def setblocking(self, *_: object) -> None:
        """Do nothing; no method of this class waits."""

    def shutdown(self, *_: object) -> None:
        """Do nothing; the engine shuts the connection down."""


class InertSocket(DiscardingSocket, Socket):
    """A plain socket without its descriptor, which was detached."""

    __slots__ = ()

    @staticmethod
    def take(sock: Socket) -> Socket:
        """Return the connection of `sock` and make `sock` inert."""
        base: Any = super(Socket, sock)  # its attributes are integers: no `Enum` is looked up
        kind = base.family, base.type, base.proto
        own = socket.socket(*kind, fileno=base.detach())  # does not close it
        sock.__class__ = InertSocket
        return own

    def fileno(self) -> int:
        """Return a descriptor that reads end of file, for a server that selects on it again."""
        if super().fileno() < 0 and not self._closed:  # type: ignore[attr-defined]
            dummy = _ended_socket()
            super().__init__(dummy.family, dummy.type, dummy.proto, dummy.detach())
        return super().fileno()


class InertTlsSocket(DiscardingSocket, SSLSocket):
    """A TLS socket that is inert for the server.

    The engine goes on to use the object: `TlsConnection` reads and writes through it.
    """

    def pending(self) -> int:
        return 0

    def unwrap(self) -> Socket:
        return self

    def fileno(self) -> int:
        """Return a descriptor that reads end of file, like `InertSocket.fileno`."""
        dummy: socket.socket | None = self.__dict__.get("dummy")
        if dummy is None:
            dummy = self.__dict__["dummy"] = _ended_socket()
        return dummy.fileno()

    def close(self) -> None:
        dummy = self.__dict__.pop("dummy", None)
        if dummy is not None:
            dummy.close()


def _ended_socket() -> socket.socket:
    dummy, end = socket.socketpair()
    end.close()
    return dummy
