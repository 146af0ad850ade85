"""Requests packed into few bytes."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler.protocol import packed_request
from websocket_handler.protocol.packed_request import COOKIES, pack, unpack
from websocket_handler.protocol.request import Forwarded, Headers, Request

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


LETTERS = st.text(st.characters(min_codepoint=32, max_codepoint=126))
KEYS = st.one_of(
    LETTERS, st.binary(min_size=14, max_size=18).map(lambda key: b64encode(key).decode())
)
HOSTS = st.one_of(
    LETTERS, st.ip_addresses().map(str), st.sampled_from(["127.1", "::ffff:192.0.2.1"])
)
PORTS = st.one_of(st.integers(-1, 1 << 16), st.booleans(), LETTERS)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(sorted(packed_request.KEY_FIELDS)), KEYS),
            st.tuples(st.sampled_from(["Cookie", "Host", "X-Id"]), st.one_of(LETTERS, KEYS)),
            st.tuples(st.just("Cookie"), st.lists(st.sampled_from(COOKIES)).map("a; ".join)),
        ),
        max_size=6,
    ),
    KEYS,
    st.one_of(st.tuples(HOSTS, PORTS), st.tuples(HOSTS)),
)
def test_compact_request_unpacks_to_an_equal_request(
    fields: list[tuple[str, str]], target: str, address: tuple[object, ...]
) -> None:
    fields = [*fields, ("X-Long", "x" * packed_request.MIN_COMPACT_CHARACTERS)]
    packed = pack(Request("GET", target, Headers(fields), "1.1", address))
    assert isinstance(packed, bytes)
    unpacked = unpack(packed)
    assert unpacked.headers.fields() == fields
    assert unpacked.target == target
    assert list(map(repr, unpacked.remote_address)) == list(map(repr, address))  # type: ignore[call-overload]


def test_every_ascii_character_and_every_frequent_word_has_a_symbol() -> None:
    text = "".join(map(chr, range(32, 127))) + "".join(f"\n{one}; {one}" for one in COOKIES)
    assert packed_request._from_six_bits(packed_request._six_bits(text)) == text


@pytest.mark.parametrize(
    ("cookie", "most"),
    [
        ("session=" + "0123456789abcdef" * 6, 112),
        ("csrftoken=" + "aB3" * 10 + "; sessionid=" + "k9" * 16 + "; lang=en", 96),
        ("a=" + "\xe9" * 98, 232),
    ],
)
def test_browser_request_is_packed_to_few_bytes(cookie: str, most: int) -> None:
    fields = [(name, cookie if name == "Cookie" else value) for name, value in BROWSERS_FIELDS]
    packed = pack(Request("GET", "/chat?room=1", Headers(fields), "1.1", ("192.0.2.1", 40000)))
    assert isinstance(packed, bytes)
    assert len(packed) <= most
    assert unpack(packed).headers.fields() == fields


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


def test_connections_share_the_fields_that_do_not_differ() -> None:
    addresses = [("192.0.2.1", port) for port in range(2)]
    requests = [
        Request("GET", f"/{port}", Headers([*BROWSERS_FIELDS, ("X-Id", str(port))]), "1.1", address)
        for port, address in enumerate(addresses)
    ]
    before = len(packed_request._shared_texts)
    packed = [pack(request) for request in requests]
    assert len(packed_request._shared_texts) <= before + 1
    for one, request in zip(packed, requests, strict=True):
        assert isinstance(one, bytes)
        assert len(one) < 110
        assert unpack(one).headers.fields() == request.headers.fields()
        assert unpack(one).remote_address == request.remote_address


@pytest.mark.parametrize("limit", ["MAX_SHARED_TEXTS", "MAX_SHARED_CHARACTERS"])
@pytest.mark.parametrize("received", [None, Forwarded(("192.0.2.1", 1), "http", "a.example")])
def test_text_beyond_the_limits_is_not_shared(
    monkeypatch: pytest.MonkeyPatch, limit: str, received: Forwarded | None
) -> None:
    monkeypatch.setattr(packed_request, limit, 0)
    fields = [*BROWSERS_FIELDS, ("Accept", limit)]
    before = list(packed_request._shared_texts)
    packed = pack(Request("GET", "/", Headers(fields), received=received))
    assert packed_request._shared_texts == before
    assert isinstance(packed, bytes)
    unpacked = unpack(packed)
    assert (unpacked.target, unpacked.received) == ("/", received)
    assert unpacked.headers.fields() == fields
