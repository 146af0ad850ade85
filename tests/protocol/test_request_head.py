"""The request head that http.server reads: its end, and whether its lines are valid."""

from __future__ import annotations

import http.client
import re
import socket
from http.server import BaseHTTPRequestHandler
from io import BufferedReader, BytesIO
from typing import Any, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from websocket_handler.servers.request_head import (
    MAX_USUAL_LINES,
    HeadReader,
    is_valid,
    mentions_websocket,
    message_of,
    parse_usual,
)

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


class StandardParser(BaseHTTPRequestHandler):
    """Parses a request with the standard library alone."""

    def __init__(self, request_line: bytes, lines: bytes) -> None:
        self.raw_requestline = request_line
        self.rfile = BufferedReader(cast(Any, BytesIO(lines)))
        self.protocol_version = "HTTP/1.1"
        self.wfile: BytesIO = BytesIO()
        self.has_succeeded = self.parse_request()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""

    def version_string(self) -> str:
        return ""


USUAL_FIELDS = [
    b"Host: a\r\n",
    b"upgrade:\t websocket \r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"Connection: close\r\n",
    b"Cookie: a=\xe9; b=\x85\xa0\t\r\n",
    b"Cookie:\r\n",
    b"Content-Length: 8\r\n",
    b"From: a\r\n",
]
OTHER_FIELDS = [
    b"Content-Type: multipart/mixed\r\n",
    b"content-type : message/rfc822\r\n",
    b"Expect: 100-continue\r\n",
    b": a\r\n",
    b"a : b\r\n",
    b" folded\r\n",
    b"a: b\rc: d\r\n",
    b"a: b\n",
]
FIELDS = st.builds(
    lambda first, other, last: b"".join([*first, *other, *last]),
    st.lists(st.sampled_from(USUAL_FIELDS), max_size=4),
    st.lists(st.sampled_from(OTHER_FIELDS), max_size=1),
    st.lists(st.sampled_from(USUAL_FIELDS), max_size=4),
)
PATHS = [b"/", b"/a?b=c", b"/%20", b"//a", b"/a b", b"/\xe9", b"/\x1c", b"*", b"a"]
REQUEST_LINES = [
    *(b"GET %b HTTP/1.1\r\n" % path for path in PATHS),
    *(b"GET / HTTP/1.0\r\n", b"GET / HTTP/1.1\n", b"GET /\r\n", b"POST / HTTP/1.1\r\n"),
    *(b"get / HTTP/1.1\r\n", b"GET / HTTP/01.1\r\n"),
]


def check_against_standard_library(request_line: bytes, lines: bytes) -> None:
    """Check the result of `parse_usual`, if it has one."""
    parsed = parse_usual(request_line, lines)
    if parsed is None:
        return
    target, message = parsed[0], message_of(parsed[1])
    standard = StandardParser(request_line, lines)
    assert standard.has_succeeded
    assert standard.wfile.getvalue() == b""  # not even a 100
    assert (standard.command, standard.request_version) == ("GET", "HTTP/1.1")
    assert standard.requestline == f"GET {target} HTTP/1.1"
    assert standard.path == target
    assert type(standard.headers) is type(message)
    assert vars(standard.headers) == vars(message)


@pytest.mark.parametrize("request_line", REQUEST_LINES)
def test_usual_request_line_is_parsed_as_by_the_standard_library(request_line: bytes) -> None:
    check_against_standard_library(request_line, b"Host: a\r\n\r\n")


@given(fields=FIELDS)
@example(fields=b"Cookie: a\t\r\n")
@example(fields=b"Content-Type: multipart/mixed\r\n")
@example(fields=b"EXPECT:100-continue\r\n")
def test_usual_fields_are_parsed_as_by_the_standard_library(fields: bytes) -> None:
    check_against_standard_library(b"GET / HTTP/1.1\r\n", fields + b"\r\n")


def test_handshake_of_a_browser_is_a_usual_request() -> None:
    lines = b"Host: a\r\nUpgrade: websocket\r\nCookie: a=b\r\n\r\n"
    parsed = parse_usual(b"GET /chat?room=1 HTTP/1.1\r\n", lines)
    assert parsed is not None
    assert parsed[0] == "/chat?room=1"
    assert parsed[1].fields() == [("Host", "a"), ("Upgrade", "websocket"), ("Cookie", "a=b")]


def test_more_fields_than_the_standard_library_accepts_are_left_to_it() -> None:
    request_line, line = b"GET / HTTP/1.1\r\n", b"a: b\r\n"
    assert parse_usual(request_line, line * MAX_USUAL_LINES + b"\r\n") is not None
    assert StandardParser(request_line, line * MAX_USUAL_LINES + b"\r\n").has_succeeded
    assert parse_usual(request_line, line * (MAX_USUAL_LINES + 1) + b"\r\n") is None
    assert not StandardParser(request_line, line * (MAX_USUAL_LINES + 1) + b"\r\n").has_succeeded
