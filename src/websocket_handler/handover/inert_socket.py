"""What an HTTP server is left with where its socket object itself is taken from it: the object
talks into the void and reads end of file. A socket becomes inert by its `__class__`.
"""

from __future__ import annotations

import _socket
import socket

from ..engine.tls import Socket, SSLSocket


class Void:
    """Swallows what is sent; everything that would wait, or end the connection, does nothing."""

    __slots__ = ()

    def recv(self, *_: object) -> bytes:
        return b""

    def recv_into(self, *_: object) -> int:
        return 0

    def send(self, data: object, *_: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def sendall(self, *_: object) -> None:
        """Nothing is sent."""

    def sendfile(self, *_: object) -> int:
        return 0

    def settimeout(self, *_: object) -> None:
        """Nothing waits."""

    def setblocking(self, *_: object) -> None:
        """Nothing waits."""

    def shutdown(self, *_: object) -> None:
        """The engine does that."""


class InertSocket(Void, Socket):
    """A plain socket, whose descriptor was detached from it."""

    __slots__ = ()

    @staticmethod
    def take(sock: Socket) -> Socket:
        """The connection of `sock`, which becomes inert."""
        own = socket.socket(fileno=_socket.socket.detach(sock))  # and is not closed by that
        sock.__class__ = InertSocket
        return own

    def fileno(self) -> int:
        """A descriptor of its own at its end, for those that select on it once more."""
        if super().fileno() < 0 and not self._closed:  # type: ignore[attr-defined]
            dummy = _at_its_end()
            super().__init__(dummy.family, dummy.type, dummy.proto, dummy.detach())
        return super().fileno()


class InertTlsSocket(Void, SSLSocket):
    """A TLS socket, which stays what the engine reads and writes through: `read` and `write`
    remain, for `TlsConnection`."""

    def pending(self) -> int:
        return 0

    def unwrap(self) -> Socket:
        return self

    def fileno(self) -> int:
        """As `InertSocket.fileno`."""
        dummy: socket.socket | None = self.__dict__.get("dummy")
        if dummy is None:
            dummy = self.__dict__["dummy"] = _at_its_end()
        return dummy.fileno()

    def close(self) -> None:
        dummy = self.__dict__.pop("dummy", None)
        if dummy is not None:
            dummy.close()


def _at_its_end() -> socket.socket:
    dummy, end = socket.socketpair()
    end.close()
    return dummy
