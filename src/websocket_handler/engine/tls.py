"""TLS sockets in the engine: the same connection, with OpenSSL between it and its descriptor.

The socket object stays, because OpenSSL is bound to it and to its descriptor; whoever had
it before keeps an inert one. gevent has a class of its own for these sockets, and puts it in the
place of Python's where it patches; what is beneath is the same.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import ssl
import sys
import threading
from typing import TYPE_CHECKING, Any

RECEIVE_SIZE = 1 << 16


def _python_s_own(module: Any, name: str) -> Any:
    monkey: Any = sys.modules.get("gevent.monkey")
    return getattr(module, name) if monkey is None else monkey.get_original(module.__name__, name)


if TYPE_CHECKING:
    Socket = socket.socket
    SSLSocket = ssl.SSLSocket
else:
    Socket = _python_s_own(socket, "socket")
    SSLSocket = _python_s_own(ssl, "SSLSocket")


def is_tls(sock: Any) -> bool:
    """Whether it is a TLS socket of any kind."""
    return hasattr(sock, "cipher")


def is_of_gevent(sock: Any) -> bool:
    return is_tls(sock) and hasattr(sock, "_sslobj") and hasattr(sock, "_sock")


class TlsConnection:
    """A non-blocking TLS socket, as a channel uses it. Owns the descriptor."""

    is_pollable = True

    def __init__(self, sock: SSLSocket) -> None:
        self._sock = take_from_gevent(sock) if is_of_gevent(sock) else sock
        SSLSocket.setblocking(self._sock, False)
        self.lock = threading.Lock()
        """To be held for every call: OpenSSL bears one thread at a time."""

    def fileno(self) -> int:
        return Socket.fileno(self._sock)

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
            SSLSocket.unwrap(self._sock)
        with contextlib.suppress(OSError):
            Socket.shutdown(self._sock, socket.SHUT_WR)

    def close(self) -> None:
        descriptor = Socket.detach(self._sock)
        if descriptor >= 0:
            os.close(descriptor)


def close_socket(sock: socket.socket) -> None:
    """Close a connection of either kind that was taken from a server, and given to no engine."""
    if is_tls(sock):
        TlsConnection(sock).close()  # type: ignore[arg-type]
    else:
        sock.close()


def take_from_gevent(sock: Any) -> SSLSocket:
    """The connection of one of gevent's TLS sockets as one of Python's; gevent's is left with
    a dummy, and talks into the void."""
    beneath, connection = sock._sock, sock._sslobj
    dummy, end = socket.socketpair()
    end.close()
    sock._sock = _socket.socket(dummy.family, dummy.type, dummy.proto, dummy.detach())
    sock._sslobj = _Void()
    taken = SSLSocket.__new__(SSLSocket)
    Socket.__init__(taken, beneath.family, beneath.type, beneath.proto, beneath.detach())
    taken.__dict__.update(_sslobj=connection, _context=connection.context, _connected=True)
    taken.__dict__.update(suppress_ragged_eofs=True, server_side=connection.server_side)
    taken.__dict__["_beneath"] = beneath  # to which OpenSSL's object has but a weak reference
    return taken


class _Void:
    """In place of OpenSSL's object."""

    def read(self, _size: int = 0, buffer: object = None) -> bytes | int:
        return b"" if buffer is None else 0

    def write(self, data: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def pending(self) -> int:
        return 0

    def shutdown(self) -> None:
        """The engine does that."""
