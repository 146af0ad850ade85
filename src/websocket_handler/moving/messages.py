"""Messages between the old and the new process: JSON and descriptors over a Unix socket.

SOCK_SEQPACKET keeps the boundaries of messages, so nothing is read in parts. Longer data travels in
a file in memory, whose descriptor is sent.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

MAX_MESSAGE_BYTES = 1 << 17
MAX_DESCRIPTORS = 2
MAX_DATA_BYTES = 1 << 26
"""The largest state of a connection: its unsent data and its incomplete message."""

CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: struct ucred


class NotMoved(Exception):
    """The connection cannot be moved, or cannot be moved now. The old process keeps it."""


class ExchangeEnded(NotMoved):
    """The other process has ended the exchange, or does not answer in time: try again."""


class Received(NamedTuple):
    """A message. The receiver owns its descriptors."""

    fields: dict[str, Any]
    descriptors: list[int]

    def close(self) -> None:
        while self.descriptors:
            os.close(self.descriptors.pop())


def is_of_same_user(sock: socket.socket) -> bool:
    """Whether the process at the other end of a Unix socket runs as the user of this one."""
    option = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    _, uid, _ = CREDENTIALS.unpack(option)
    return bool(uid == os.geteuid())


def send(sock: socket.socket, fields: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Send a message. Raises `ExchangeEnded` if the other process has ended, or does not read, and
    `NotMoved` if the message is too long."""
    data = json.dumps(fields).encode()
    if len(data) > MAX_MESSAGE_BYTES:
        raise NotMoved(f"a message of {len(data)} bytes is too long")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    try:
        sock.sendmsg([data], rights if descriptors else [])
    except OSError as error:
        raise ExchangeEnded(f"the other process: {error}") from None


def receive(sock: socket.socket, seconds: float) -> Received:
    """Return the next message. Raises `ExchangeEnded` after `seconds`, or if it is not valid."""
    descriptors = array.array("i")
    sock.settimeout(max(seconds, 0.001))
    try:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * descriptors.itemsize)
        data, rights, flags, _ = sock.recvmsg(MAX_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise ExchangeEnded(f"the other process: {error}") from None
    for level, kind, payload in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(payload) - len(payload) % descriptors.itemsize
            descriptors.frombytes(payload[:whole])
    received = Received({}, list(descriptors))
    try:
        if not data:
            raise ExchangeEnded("the other process has ended the exchange")
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ExchangeEnded("a message is too long")
        received.fields.update(json.loads(data))
    except NotMoved:
        received.close()
        raise
    except (ValueError, TypeError, RecursionError):
        received.close()
        raise ExchangeEnded("a message is not valid") from None
    return received


def to_file(data: bytes) -> int:
    """Return the descriptor of a file in memory with `data`. Raises `NotMoved` if it is too long,
    or if there is no memory."""
    if len(data) > MAX_DATA_BYTES:
        raise NotMoved(f"the connection has {len(data)} bytes of data")
    try:
        descriptor = os.memfd_create("websocket-handler", os.MFD_CLOEXEC)
    except OSError as error:
        raise NotMoved(str(error)) from None
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
    except OSError as error:
        os.close(descriptor)
        raise NotMoved(str(error)) from None
    return descriptor


def from_file(descriptor: int) -> bytes:
    """Return the data of a file from `to_file`."""
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_DATA_BYTES:
            raise NotMoved(f"the connection has {size} bytes of data")
        data, offset = bytearray(), 0
        while offset < size and (part := os.pread(descriptor, size - offset, offset)):
            data += part
            offset += len(part)
    except OSError as error:
        raise NotMoved(str(error)) from None
    return bytes(data)
