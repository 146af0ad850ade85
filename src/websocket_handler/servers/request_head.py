"""Reads the request head for http.server with a deadline, and keeps its lines unchanged."""

from __future__ import annotations

import math
import re
import socket
import time
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from typing import Any, cast

from ..handover.socket import Reader
from ..protocol.request import Headers

FIELD_LINES = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n)*(?:\r\n)?")
"""RFC 9112 section 5 and RFC 9110 section 5.5. The standard library also accepts other ends of
a line and of the head."""

END_OF_HEAD = re.compile(rb"\n\r?\n")
"""An empty line as the standard library finds it, with the end of the line before."""

USUAL_REQUEST_LINE = re.compile(rb"GET (/(?!/)[\x21-\x7e]*) HTTP/1\.1\r\n")
"""A request line whose meaning does not depend on the rules of the standard library."""

UNUSUAL_FIELDS = frozenset(("content-type", "expect"))
"""Fields that make the standard library do more than store them."""

MAX_USUAL_LINES = 99
MAX_USUAL_BYTES = 1 << 16
"""The limits of the standard library: of the number of fields, and here of all lines together."""

TIMEOUT_STEP_S = 0.25
"""Minimum time in seconds between two updates of the socket's time-out."""


class HeadReader:
    """A handler's reader while it reads a request head. Keeps the lines as they were received.

    Raises `TimeoutError` if the head is not complete within `seconds`; bytes that arrive do not
    extend the deadline. The time starts now, or with the first byte if the connection `may_idle`
    between requests.
    """

    def __init__(
        self, reader: BufferedIOBase, sock: socket.socket, seconds: float, may_idle: bool
    ) -> None:
        self.lines: list[bytes] = []
        self._reader = reader
        self._block = b""  # a copy of the bytes in the reader's buffer
        self._read = 0  # bytes of it that were returned, but are still in that buffer
        self._sock = sock
        self._original_timeout = sock.gettimeout()
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
            raise TimeoutError("the request head was not received in time")
        if self._deadline < math.inf and now - self._set_at > TIMEOUT_STEP_S:
            self._set_at, left = now, self._deadline - now
            self._sock.settimeout(min(left, self._original_timeout or left))
        waiting: bytes = cast(Reader, self._reader).peek(1)
        if self._deadline == math.inf:
            self._deadline = time.monotonic() + self._seconds
        return waiting

    def buffered_fields(self) -> bytes | None:
        """Return the lines after the request line, which was just read, if the buffer has all of
        them; None otherwise."""
        end = END_OF_HEAD.search(self._block, max(self._read - 1, 0))
        return self._block[self._read : end.end()] if end is not None else None

    def release(self) -> BufferedIOBase:
        """Return the original reader after the head, and restore the time-out of its socket."""
        if self._set_at > -math.inf:
            self._sock.settimeout(self._original_timeout)
        return self._catch_up()


def is_valid(lines: bytes) -> bool:
    """Return whether every line is a valid header field or the end of the head."""
    return FIELD_LINES.fullmatch(lines) is not None


def mentions_websocket(lines: bytes) -> bool:
    """Return whether the lines contain "websocket", even in an invalid line."""
    return b"websocket" in lines.lower()


def parse_usual(request_line: bytes, lines: bytes) -> tuple[str, Headers] | None:
    """Return the target and the header fields of a usual GET request, None for any other request.

    They are the same as those of the standard library, whose parser of e-mails takes a
    fifth of the instructions of a handshake.
    """
    found = USUAL_REQUEST_LINE.fullmatch(request_line)
    if found is None or len(lines) > MAX_USUAL_BYTES or not lines.endswith(b"\r\n\r\n"):
        return None
    if not is_valid(lines):
        return None
    fields = lines.decode("latin-1").split("\r\n")[:-2]
    if len(fields) > MAX_USUAL_LINES:
        return None
    parts = [field.partition(":") for field in fields]
    headers = Headers([(name, value.lstrip(" \t")) for name, _, value in parts])
    return (found[1].decode(), headers) if headers.has_none_of(UNUSUAL_FIELDS) else None


def read_usual(
    handler: BaseHTTPRequestHandler, lines: bytes, target: str, headers: Headers
) -> None:
    """Remove the lines of a usual request from the reader's buffer, and set the attributes of the
    request handler to the result of `parse_usual`."""
    handler.rfile.read(len(lines))
    handler.command, handler.path, handler.request_version = "GET", target, "HTTP/1.1"
    handler.requestline = f"GET {target} HTTP/1.1"
    handler.headers = message_of(headers)


def message_of(headers: Headers) -> HTTPMessage:
    """Return the object in which the standard library stores these fields."""
    message = HTTPMessage()
    for name, value in headers.fields():
        message.set_raw(name, value)
    message.set_payload("")
    return message
