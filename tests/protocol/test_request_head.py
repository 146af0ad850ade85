"""The request head that http.server reads: its end, and whether its lines are valid."""

from __future__ import annotations

import http.client
import re
import socket
from io import BufferedReader, BytesIO
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from websocket_handler.servers.request_head import HeadReader, is_valid, mentions_websocket

LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")

PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"Host: a\r\n", b"Upgrade: WebSocket\r\n", b"A: b\n", b" c\r\n", b"x"]
)


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_buffered_fields_are_those_that_the_standard_library_reads(rest: bytes) -> None:
    data = b"GET / HTTP/1.1\r\n" + rest
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = BufferedReader(cast(Any, BytesIO(data)))
        head = HeadReader(cast(Any, reader), ours, 5, may_idle=False)
        assert head.readline(65537) == b"GET / HTTP/1.1\r\n"
        fields = head.buffered_fields()
        read = cast(Any, http.client)._read_headers(head.release())
    is_complete = read[-1] != b""
    assert fields == (b"".join(read) if is_complete else None)
    if fields is not None:
        assert is_valid(fields) == all(LINE.fullmatch(line) or line == b"\r\n" for line in read)
        assert mentions_websocket(fields) == (b"WebSocket" in fields)
