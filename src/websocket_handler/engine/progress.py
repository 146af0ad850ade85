"""The progress of a connection: counts of acknowledged and received bytes, from the system.

An unread pong, or a ping that waits behind other data, says nothing about a peer. These counts do:
they change with every byte that the peer's system acknowledges or sends, whether this process
reads it or not.
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
"""SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_RCVBUF: bytes used and allowed in the receive buffer."""


class Progress(NamedTuple):
    """The counts of one connection at one time. Only differences between two are meaningful."""

    acknowledged: int
    """Bytes accepted by the peer's system; on a Unix socket, by the peer itself."""
    unacknowledged: int
    """Bytes in the send buffer of this system."""
    received: int
    """Bytes received from the peer, read or unread."""
    can_send: bool
    """Whether the receive buffer certainly has space for more data from the peer."""
    is_tcp: bool
    """Whether `acknowledged` is from TCP: the peer's system may acknowledge before the peer
    reads."""


def unacknowledged(descriptor: int) -> int:
    """Return the bytes in the socket's send buffer, 0 if the system does not report it."""
    return _count(descriptor, "TIOCOUTQ")


def progress(descriptor: int, sent: int, received: int) -> Progress:
    """Return the progress of the connection of `descriptor` (-1 if there is none). `sent` and
    `received` are this process's own counts, used for sockets whose system keeps none."""
    waiting = unacknowledged(descriptor)
    unread = _count(descriptor, "FIONREAD")
    looked_up = _look_up_tcp(descriptor) if descriptor >= 0 else None
    if looked_up is None:
        return Progress(sent - waiting, waiting, received + unread, False, is_tcp=False)
    acknowledged, received, can_send = looked_up
    return Progress(acknowledged, waiting, received, can_send, is_tcp=True)


def _look_up_tcp(descriptor: int) -> tuple[int, int, bool] | None:
    """Return `acknowledged`, `received` and `can_send`; None for anything but TCP on Linux."""
    if not hasattr(socket, "TCP_INFO"):
        return None
    sock = _socket.socket(fileno=descriptor)  # the C class, which gevent does not patch
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
    """Return the result of the ioctl of this name, 0 if the system has none."""
    if sys.platform == "win32" or descriptor < 0:
        return 0
    try:
        answer = fcntl.ioctl(descriptor, getattr(termios, request), bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder, signed=True)
