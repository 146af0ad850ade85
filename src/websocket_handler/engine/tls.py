"""TLS sockets in the engine: the same connection, with OpenSSL between it and its descriptor.

The socket object stays, because OpenSSL is bound to it and to its descriptor; whoever had
it before keeps an inert one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading

RECEIVE_SIZE = 1 << 16


class TlsConnection:
    """A non-blocking TLS socket, as a channel uses it. Owns the descriptor."""

    is_pollable = True

    def __init__(self, sock: ssl.SSLSocket) -> None:
        ssl.SSLSocket.setblocking(sock, False)
        self._sock = sock
        self.lock = threading.Lock()
        """To be held for every call: OpenSSL bears one thread at a time."""

    def fileno(self) -> int:
        return socket.socket.fileno(self._sock)

    def receive(self) -> bytes | None:
        """What has arrived; b"" at the end, None if there is nothing now.

        To be called until it gives None: epoll does not see what OpenSSL has read already.
        """
        try:
            return self._sock.read(RECEIVE_SIZE) or b""
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except (OSError, ValueError):
            return b""

    def send(self, data: bytes) -> int:
        """How many bytes were taken, 0 if none can be now. Raises `OSError`."""
        try:
            return self._sock.write(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def end_output(self) -> None:
        """Say with close_notify that nothing more will come, then with FIN."""
        with contextlib.suppress(OSError, ValueError):
            ssl.SSLSocket.unwrap(self._sock)
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._sock, socket.SHUT_WR)

    def close(self) -> None:
        descriptor = socket.socket.detach(self._sock)
        if descriptor >= 0:
            os.close(descriptor)


def close_socket(sock: socket.socket) -> None:
    """Close a connection of either kind that was taken from a server, and given to no engine."""
    if isinstance(sock, ssl.SSLSocket):
        TlsConnection(sock).close()
    else:
        sock.close()


class InertTlsSocket(ssl.SSLSocket):
    """What an HTTP server is left with: it talks into the void and reads end of file.

    A socket becomes one by its `__class__`; `read` and `write` remain, for `TlsConnection`.
    """

    def recv(self, *_: object) -> bytes:
        return b""

    def recv_into(self, *_: object) -> int:
        return 0

    def send(self, data: object, *_: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def sendall(self, *_: object) -> None:
        """Nothing is sent."""

    def pending(self) -> int:
        return 0

    def settimeout(self, *_: object) -> None:
        """The engine's socket does not block."""

    def setblocking(self, *_: object) -> None:
        """The engine's socket does not block."""

    def shutdown(self, *_: object) -> None:
        """The engine does that."""

    def unwrap(self) -> socket.socket:
        return self

    def fileno(self) -> int:
        """A descriptor of its own at its end, for servers that select on it once more."""
        dummy: socket.socket | None = self.__dict__.get("dummy")
        if dummy is None:
            dummy, end = socket.socketpair()
            end.close()
            self.__dict__["dummy"] = dummy
        return dummy.fileno()

    def close(self) -> None:
        dummy = self.__dict__.pop("dummy", None)
        if dummy is not None:
            dummy.close()
