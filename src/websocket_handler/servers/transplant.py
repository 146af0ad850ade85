"""Taking a socket away from an HTTP server that does not know how to let go of it.

The server keeps its descriptor number, with the end of a dummy pair behind it: what it
still writes goes into the void, it reads end of file, and its shutdown and close do their
work on the dummy. So no server needs to be silenced, and every teardown runs.
"""

from __future__ import annotations

import io
import os
import socket

from ..engine import Engine


def transplant(sock: socket.socket, engine: Engine) -> socket.socket:
    """The connection of `sock` on a descriptor of its own; `sock` is left with a dummy.

    For servers that are not waiting for the socket in an epoll set of theirs at that
    moment: those that block on it in a thread never are. Raises `OSError` if there are no
    descriptors left; then nothing has changed.
    """
    own = socket.socket(sock.family, sock.type, sock.proto, fileno=os.dup(sock.fileno()))
    try:
        dummy, void = socket.socketpair()
    except OSError:
        own.close()
        raise
    with dummy:
        void.shutdown(socket.SHUT_WR)
        os.dup2(dummy.fileno(), sock.fileno(), inheritable=False)
    engine.discard(void)
    return own


def read_early_bytes(reader: io.BufferedIOBase, sock: socket.socket) -> bytes:
    """What came in the same segment as the request head, and sits in the server's buffer.

    Leaves `sock` non-blocking; call before `transplant`.
    """
    sock.setblocking(False)
    early = bytearray()
    while waiting := reader.peek():  # type: ignore[attr-defined]
        early += reader.read1(len(waiting))
    return bytes(early)
