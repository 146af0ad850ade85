"""Text from a peer in logs and `repr`: one printable line of bounded length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import ConnectionClosed, HandshakeFailed, Headers, Request
from websocket_handler.protocol.printable import printable

HOSTILE = [
    "a\nb",
    "a\rb",
    "\x1b[31mred",
    "\x9b31m",
    "\x07",
    "\x00",
    "\x7f",
    "\u202egnp.exe",
    "\u2028",
    "\u2029",
    "\u200b",
    "\ud800",
    "\U000e0041",
    "\xa0",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_printable_escapes_control_and_format_characters(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert safe.encode().decode() == safe
    assert safe != text


@pytest.mark.parametrize("text", ["", "a b", "/chat?x=%20", "grüße 😀", "'\"", "c:\\d"])
def test_printable_keeps_ordinary_text(text: str) -> None:
    assert printable(text) == text


@given(st.text(st.characters(), max_size=400))
def test_printable_is_one_bounded_line_for_any_text(text: str) -> None:
    safe = printable(text, 100)
    assert safe.isprintable()
    assert len(safe) <= 10 * 100 + 3


def test_printable_shortens_long_text_to_200_characters() -> None:
    assert printable("x" * 1_000_000) == "x" * 200 + "..."


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_errors_and_requests_print_on_one_line(text: str) -> None:
    request = Request("GET", f"/{text}", Headers([("X", text)]))
    closed = ConnectionClosed(4000, text)
    errors = [closed, HandshakeFailed(text)]
    shown = [repr(request), *map(str, errors), *map(repr, errors)]
    assert all(line.isprintable() for line in shown), shown
    assert closed.reason == text


def test_request_repr_shows_no_header_and_has_a_limit() -> None:
    request = Request("GET", "/" + "x" * 100_000, Headers([("Authorization", "secret")]))
    assert "secret" not in repr(request)
    assert len(repr(request)) < 300
