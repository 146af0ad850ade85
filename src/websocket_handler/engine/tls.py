"""TLS sockets in the engine: a layer that reads and writes through OpenSSL.

The engine keeps the socket object, because OpenSSL is bound to it and to its descriptor; the HTTP
server keeps an inert object instead. gevent has its own class of TLS sockets, which replaces
Python's class if gevent has patched `ssl`; it wraps the same OpenSSL object.
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
    """Whether `sock` is a TLS socket, of Python or of gevent."""
    return hasattr(sock, "cipher")


def is_of_gevent(sock: Any) -> bool:
    is_python_s = isinstance(sock, SSLSocket)
    return is_tls(sock) and not is_python_s and hasattr(sock, "_sslobj") and hasattr(sock, "_sock")


def _beneath_tls(sock: SSLSocket) -> Any:
    """Return `sock` with the methods of a plain socket. They are gevent's if `ssl` was imported
    after gevent had patched `socket`: Python's class of TLS sockets derives from gevent's then."""
    return super(SSLSocket, sock)


class TlsConnection:
    """The layer between a channel and a non-blocking TLS socket. Owns the descriptor.

    The channel calls `read(size, buffer)` and `write(data)` with `lock` held. `read` reads one
    record, for which `buffer` has enough space. OpenSSL reads no byte beyond the record from the
    socket, so epoll reports everything that follows.
    """

    is_pollable = True

    def __init__(self, sock: SSLSocket) -> None:
        self._sock = take_from_gevent(sock) if is_of_gevent(sock) else sock
        _beneath_tls(self._sock).setblocking(False)
        self.lock: threading.Lock = threading.Lock()
        """To be held for every call: an OpenSSL object may be used by one thread at a time."""
        self.reads_ahead = type(self._sock).read is not SSLSocket.read
        """Whether the class of the socket has a `read` of its own, which may hold back data that
        epoll does not report. It must be called until it raises `ssl.SSLWantReadError`."""
        stream: Any = self._sock
        if not self.reads_ahead:
            stream = stream._sslobj or stream  # None in a socket that has no TLS connection
        self.read, self.write = stream.read, stream.write

    def fileno(self) -> int:
        descriptor: int = _beneath_tls(self._sock).fileno()
        return descriptor

    def end_output(self) -> None:
        """End the sending direction: send close_notify, then FIN."""
        with contextlib.suppress(OSError, ValueError):
            SSLSocket.unwrap(self._sock)
        with contextlib.suppress(OSError):
            _beneath_tls(self._sock).shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the descriptor, and let go of OpenSSL's object, as `SSLSocket.close` does. A thread
        that has waited for the lock may still call the other methods: OpenSSL would go on to use
        the number of the descriptor, which may belong to another connection by then."""
        self._sock._sslobj = None  # type: ignore[attr-defined]
        self.read, self.write = self._sock.read, self._sock.write  # they raise `ValueError` now
        descriptor = _beneath_tls(self._sock).detach()
        if descriptor >= 0:
            os.close(descriptor)


def close_socket(sock: socket.socket) -> None:
    """Close a socket, plain or TLS, that was taken from an HTTP server but not attached."""
    if is_tls(sock):
        TlsConnection(sock).close()  # type: ignore[arg-type]
    else:
        sock.close()


def take_from_gevent(sock: Any) -> SSLSocket:
    """Return the connection of gevent's TLS socket as Python's TLS socket. gevent's object gets a
    dummy socket instead and discards later writes."""
    beneath, connection = sock._sock, sock._sslobj
    dummy, end = socket.socketpair()
    end.close()
    sock._sock = _socket.socket(dummy.family, dummy.type, dummy.proto, dummy.detach())
    sock._sslobj = ClosedTls()
    taken = SSLSocket.__new__(SSLSocket)
    plain = _beneath_tls(taken)
    plain.__init__(beneath.family, beneath.type, beneath.proto, beneath.detach())
    taken.__dict__.update(_sslobj=connection, _context=connection.context, _connected=True)
    taken.__dict__.update(suppress_ragged_eofs=True, server_side=connection.server_side)
    taken.__dict__["_beneath"] = beneath  # OpenSSL's object has only a weak reference to it
    return taken


class ClosedTls:
    """Stands in for OpenSSL's object in gevent's socket: reads nothing and discards writes."""

    def read(self, _size: int = 0, buffer: object = None) -> bytes | int:
        return b"" if buffer is None else 0

    def write(self, data: object) -> int:
        return memoryview(data).nbytes  # type: ignore[arg-type]

    def pending(self) -> int:
        return 0

    def shutdown(self) -> None:
        """Do nothing: the engine ends the connection."""
