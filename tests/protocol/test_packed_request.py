"""Requests packed into few bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler.protocol.packed_request import pack, unpack
from websocket_handler.protocol.request import Headers, Request

BROWSERS_FIELDS = [
    ("Host", "chat.example.com"),
    ("Connection", "Upgrade"),
    ("Pragma", "no-cache"),
    ("Cache-Control", "no-cache"),
    (
        "User-Agent",
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
            "Chrome/126.0.0.0 Safari/537.36"
        ),
    ),
    ("Upgrade", "websocket"),
    ("Origin", "https://chat.example.com"),
    ("Sec-WebSocket-Version", "13"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9"),
    ("Cookie", "session=0123456789abcdef"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
]

WORDS = st.text(st.characters(exclude_characters="\n"))
ADDRESSES = st.one_of(
    st.none(), WORDS, st.tuples(WORDS, st.integers()), st.tuples(WORDS, WORDS, st.integers())
)


@given(st.lists(st.tuples(WORDS, WORDS)), WORDS, WORDS, WORDS, ADDRESSES, WORDS)
def test_packed_request_unpacks_to_an_equal_request(
    fields: list[tuple[str, str]],
    method: str,
    target: str,
    http_version: str,
    address: object,
    scheme: str,
) -> None:
    request = Request(method, target, Headers(fields), http_version, address, scheme)
    packed = pack(request)
    assert isinstance(packed, bytes)
    unpacked = unpack(packed)
    assert unpacked.headers.fields() == fields
    assert (unpacked.method, unpacked.target, unpacked.http_version) == (
        method,
        target,
        http_version,
    )
    assert (unpacked.remote_address, unpacked.scheme) == (address, scheme)


def test_browser_request_is_packed_to_a_third() -> None:
    size = sum(len(name) + len(value) + 4 for name, value in BROWSERS_FIELDS)
    packed = pack(Request("GET", "/chat?room=1", Headers(BROWSERS_FIELDS), "1.1", ("::1", 9, 0, 0)))
    assert isinstance(packed, bytes)
    assert len(packed) <= size / 3


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", "/", Headers(), remote_address=object()),
        Request("GET", "/\n", Headers()),
        Request("GET", "/", Headers([("Folded", "a\n b")])),
    ],
)
def test_unusual_request_is_kept_unpacked(request_: Request) -> None:
    assert pack(request_) is request_
