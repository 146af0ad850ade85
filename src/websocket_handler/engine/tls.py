"""TLS sockets, of Python and of gevent.

The engine keeps the socket object, because OpenSSL is bound to it and to its descriptor; the HTTP
server keeps an inert object instead. gevent has its own class of TLS sockets, which replaces
Python's class if gevent has patched `ssl`; it wraps the same OpenSSL object.
"""

from __future__ import annotations

import _socket
import os
import socket
import ssl
import sys
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


def beneath_tls(sock: SSLSocket) -> Any:
    """Return `sock` with the methods of a plain socket. They are gevent's if `ssl` was imported
    after gevent had patched `socket`: Python's class of TLS sockets derives from gevent's then."""
    return super(SSLSocket, sock)


def close_tls(sock: SSLSocket) -> None:
    """Close a TLS socket and let go of OpenSSL's object, as `SSLSocket.close` does, whichever
    class of plain sockets is beneath it."""
    sock._sslobj = None  # type: ignore[attr-defined]
    descriptor = beneath_tls(sock).detach()
    if descriptor >= 0:
        os.close(descriptor)


def close_socket(sock: socket.socket) -> None:
    """Close a socket, plain or TLS, that was taken from an HTTP server but not attached."""
    if is_tls(sock):
        close_tls(take_from_gevent(sock) if is_of_gevent(sock) else sock)  # type: ignore[arg-type]
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
    plain = beneath_tls(taken)
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
