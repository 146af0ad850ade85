"""The head of a request as http.server reads it: in time, and line by line as it came."""

from __future__ import annotations

import math
import re
import socket
import time
from io import BufferedIOBase
from typing import Any, cast

from ..handover.socket import Reader

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
        self.lines: list[bytes] = []
        self._reader = reader
        self._block = b""  # what the reader has in its buffer,
        self._read = 0  # of which so much was read here, and is still to be read there
        self._sock = sock
        self._usual_timeout = sock.gettimeout()
        self._seconds = seconds
        self._deadline = math.inf
        self._set_at = -math.inf
        if not may_idle:
            self._deadline = time.monotonic() + seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._catch_up(), name)

    def readline(self, limit: int = -1) -> bytes:
        line = b""
        while not line.endswith(b"\n") and len(line) != limit:
            if self._read == len(self._block):
                self._catch_up()
                self._block = self._peek()
                if not self._block:
                    break
            end = self._block.find(b"\n", self._read) + 1 or len(self._block)
            if limit >= 0:
                end = min(end, self._read + limit - len(line))
            line += self._block[self._read : end]
            self._read = end
        self.lines.append(line)
        return line

    def _catch_up(self) -> BufferedIOBase:
        self._reader.read(self._read)
        self._block, self._read = b"", 0
        return self._reader

    def _peek(self) -> bytes:
        now = time.monotonic()
        if now >= self._deadline:
            raise TimeoutError("the head of the request did not come in time")
        if self._deadline < math.inf and now - self._set_at > TIMEOUT_STEP:
            self._set_at, left = now, self._deadline - now
            self._sock.settimeout(min(left, self._usual_timeout or left))
        waiting: bytes = cast(Reader, self._reader).peek(1)
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._seconds
        return waiting

    def give_back(self) -> BufferedIOBase:
        """The head is whole: the reader as it was, with the time-out that the handler gave it."""
        if self._set_at > -math.inf:
            self._sock.settimeout(self._usual_timeout)
        return self._catch_up()

    def is_valid(self) -> bool:
        """Whether each line is a header field, or the end of the head."""
        return all(FIELD_LINE.fullmatch(line) or line in (b"\r\n", b"") for line in self.lines)

    def mentions_websocket(self) -> bool:
        """Whether the head asks for a WebSocket, or would but for a bad line."""
        return b"websocket" in b"".join(self.lines).lower()
