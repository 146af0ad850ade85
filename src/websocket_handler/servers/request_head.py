"""The head of a request as http.server reads it: in time, and line by line as it came."""

from __future__ import annotations

import math
import re
import socket
import time
from io import BufferedIOBase
from typing import Any, cast

from .handover import Reader

FIELD_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")
"""RFC 9112 section 5, and RFC 9110 section 5.5. The standard library takes much else for the
end of a line, or of the head."""

TIMEOUT_STEP = 0.25
"""Seconds: how often at most a socket is told how much of the time for a head is left."""


class HeadReader:
    """A handler's reader while it reads the head of a request: keeps the lines as they came,
    and raises `TimeoutError` if the head is not whole in time, however its bytes trickle in.

    The time begins now, or with the first byte where the connection `may_idle` before.
    """

    def __init__(
        self, reader: BufferedIOBase, sock: socket.socket, seconds: float, may_idle: bool
    ) -> None:
        self.reader = reader
        self.lines: list[bytes] = []
        self._sock = sock
        self._usual_timeout = sock.gettimeout()
        self._seconds = seconds
        self._deadline = math.inf
        self._set_at = -math.inf
        if not may_idle:
            self._deadline = time.monotonic() + seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def readline(self, limit: int = -1) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n") and len(line) != limit:
            waiting = self._peek()
            if not waiting:
                break
            size = waiting.find(b"\n") + 1 or len(waiting)
            line += self.reader.read(size if limit < 0 else min(size, limit - len(line)))
        self.lines.append(bytes(line))
        return self.lines[-1]

    def _peek(self) -> bytes:
        now = time.monotonic()
        if now >= self._deadline:
            raise TimeoutError("the head of the request did not come in time")
        if self._deadline < math.inf and now - self._set_at > TIMEOUT_STEP:
            self._set_at, left = now, self._deadline - now
            self._sock.settimeout(min(left, self._usual_timeout or left))
        waiting: bytes = cast(Reader, self.reader).peek(1)
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._seconds
        return waiting

    def give_back(self) -> BufferedIOBase:
        """The head is whole: the reader as it was, with the time-out that the handler gave it."""
        if self._set_at > -math.inf:
            self._sock.settimeout(self._usual_timeout)
        return self.reader

    def is_sound(self) -> bool:
        """Whether each line is a header field, or the end of the head."""
        return all(FIELD_LINE.fullmatch(line) or line in (b"\r\n", b"") for line in self.lines)

    def may_ask(self) -> bool:
        """Whether the head asks for a WebSocket, or would but for a bad line."""
        return b"websocket" in b"".join(self.lines).lower()
