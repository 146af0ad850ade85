"""Parses the bytes of a response that a server writes after `connect()`."""

from __future__ import annotations

import re

from .base import Handover

MAX_HEAD_BYTES = 1 << 16
"""Size limit of a response head, in bytes. A longer one is discarded as invalid."""

STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})(?: (.*))?")


class RawResponse:
    """Passes the status and the header fields of a response on to the handover.

    If the response rejects the WebSocket, its body is passed on as well, part by part.
    """

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._head = bytearray()
        self._has_head = self._is_wanted = False

    def feed(self, data: bytes) -> None:
        """Parse the next bytes that the server has written."""
        if self._has_head:
            if self._is_wanted:
                self._handover.write(data)
            return
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if end or len(self._head) > MAX_HEAD_BYTES:
            self._has_head = True
            self._head = bytearray()
        if end:
            self._begin(head.decode("latin-1"), bytes(body))

    def end(self) -> bool:
        """Note that the server has finished. Returns whether there was a response."""
        if self._is_wanted:
            self._is_wanted = False
            self._handover.write(b"", is_last=True)
        return self._handover.is_complete

    def _begin(self, head: str, body: bytes) -> None:
        status_line, *lines = head.split("\r\n")
        found = STATUS_LINE.fullmatch(status_line)
        if found is None:
            return
        pairs = (line.partition(":") for line in lines)
        fields = [(name, value.strip(" \t")) for name, _, value in pairs]
        self._is_wanted = self._handover.begin_response(int(found[1]), fields, found[2] or "")
        if self._is_wanted:
            self._handover.write(body)
