"""How far a connection's bytes have come, as the operating system reports it.

A pong that lies unread, or a ping that waits behind other data, says nothing about a peer. These
counts do: they change with every byte that the peer's system acknowledges or sends, whether this
process reads it or not.
"""

from __future__ import annotations

import _socket
import socket
import struct
import sys
from typing import NamedTuple

if sys.platform != "win32":
    import fcntl
    import termios

TCP_INFO_BYTES = struct.Struct("=120xQQ")
"""tcpi_bytes_acked and tcpi_bytes_received in Linux's struct tcp_info."""

SO_MEMINFO = 55
MEMORY_USED_AND_ALLOWED = struct.Struct("=II")
"""SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_RCVBUF: what unread data takes of the receive buffer."""


class Progress(NamedTuple):
    """A look at one connection. Of two looks only the differences mean anything."""

    acknowledged: int
    """Bytes that the peer's system has taken; on a Unix socket, the peer itself."""
    unacknowledged: int
    """Bytes in the send buffer of this system."""
    received: int
    """Bytes that have come from the peer, read or unread."""
    can_send: bool
    """Whether it is certain that the receive buffer has space for what the peer may send."""
    is_tcp: bool
    """Whether the peer's system acknowledges, and may do so long before the peer reads."""


def unacknowledged(descriptor: int) -> int:
    """The bytes in the send buffer, 0 where the system does not say."""
    return _count(descriptor, "TIOCOUTQ")


def progress(descriptor: int, sent: int, received: int) -> Progress:
    """Look at the connection of `descriptor`, -1 where there is none. `sent` and `received` are
    this process's own counts, for kinds of sockets whose system keeps none."""
    waiting = unacknowledged(descriptor)
    unread = _count(descriptor, "FIONREAD")
    looked_up = _look_up_tcp(descriptor) if descriptor >= 0 else None
    if looked_up is None:
        return Progress(sent - waiting, waiting, received + unread, False, is_tcp=False)
    acknowledged, received, can_send = looked_up
    return Progress(acknowledged, waiting, received, can_send, is_tcp=True)


def _look_up_tcp(descriptor: int) -> tuple[int, int, bool] | None:
    """Bytes acknowledged and received, and whether there is space for more; None for anything
    but TCP on Linux."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    sock = _socket.socket(fileno=descriptor)  # of gevent's there is no need
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES.size)
        acknowledged, received = TCP_INFO_BYTES.unpack(info)
        memory = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMORY_USED_AND_ALLOWED.size)
        used, allowed = MEMORY_USED_AND_ALLOWED.unpack(memory)
    except (OSError, struct.error):
        return None
    finally:
        sock.detach()
    return acknowledged, received, used * 4 < allowed


def _count(descriptor: int, request: str) -> int:
    """What the ioctl of this name counts, 0 where there is none."""
    if sys.platform == "win32" or descriptor < 0:
        return 0
    try:
        answer = fcntl.ioctl(descriptor, getattr(termios, request), bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder, signed=True)
