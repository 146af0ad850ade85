"""The handshake: accepted and rejected requests, responses, and origins."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import pytest

from websocket_handler import Headers, Request
from websocket_handler.protocol.handshake import Accepted, Refused, answer, is_allowed_origin
from websocket_handler.protocol.versions import DEFAULT_VERSIONS
from websocket_handler.protocol.versions.accept import accept_value
from websocket_handler.protocol.versions.rfc6455 import VERSION

KEY = "dGhlIHNhbXBsZSBub25jZQ=="

GOOD = {
    "Host": "server.example.com",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


def request(
    changes: dict[str, str | None] | None = None,
    more: list[tuple[str, str]] | None = None,
    **words: Any,
) -> Request:
    fields = {**GOOD, **(changes or {})}
    pairs = [(name, value) for name, value in fields.items() if value is not None]
    return Request(
        **{"method": "GET", "target": "/", "headers": Headers(pairs + (more or []))} | words
    )


def test_rfc_example_handshake_is_accepted() -> None:
    assert accept_value(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def test_accepted_response_is_complete() -> None:
    outcome = answer(
        request({"Sec-WebSocket-Protocol": "chat, superchat"}),
        DEFAULT_VERSIONS,
        subprotocol="superchat",
        extra=Headers([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]),
    )
    assert isinstance(outcome, Accepted)
    assert outcome.version is VERSION
    assert outcome.response == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: superchat\r\n"
        b"Set-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"Connection": "keep-alive, Upgrade"},
        {"Connection": "keep-alive ,\tUPGRADE"},
        {"Upgrade": "WebSocket"},
        {"Content-Length": "0"},
        {"Sec-WebSocket-Protocol": "a, b"},
        {"Sec-WebSocket-Extensions": "permessage-deflate"},
        {"Origin": "http://server.example.com"},
    ],
)
def test_valid_handshakes_are_accepted(changes: dict[str, str | None]) -> None:
    assert isinstance(answer(request(changes), DEFAULT_VERSIONS), Accepted)


BAD_REQUESTS: list[Request] = [
    request({"Host": None}),
    request({"Host": ""}),
    request(more=[("Host", "other.example.com")]),
    request({"Upgrade": "h2c"}),
    request({"Host": "example.com, evil.example"}),
    request({"Host": "example.com evil.example"}),
    request({"Upgrade": None}),
    request({"Connection": None}),
    request({"Connection": "keep-alive"}),
    request({"Connection": "notupgrade"}),
    request({"Connection": "upgrade-insecure"}),
    request({"Sec-WebSocket-Key": None}),
    request({"Sec-WebSocket-Key": ""}),
    request({"Sec-WebSocket-Key": "c2hvcnQ="}),
    request({"Sec-WebSocket-Key": KEY + "===="}),
    request({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25j!Q=="}),
    request({"Sec-WebSocket-Key": "é" * 24}),
    request(more=[("Sec-WebSocket-Key", KEY)]),
    request({"Sec-WebSocket-Version": None}),
    request({"Content-Length": "5"}),
    request({"Transfer-Encoding": "chunked"}),
    request({"Sec-WebSocket-Protocol": "a b"}),
    request({"Sec-WebSocket-Protocol": "a, a"}),
    request({"X": "a\x0bb"}),
    request({"X": "a\rb"}),
    request(method="POST"),
    request(http_version="1.0"),
    request(http_version="0.9"),
    request(http_version="²"),  # a digit for str.isdigit, but not for int
    request(http_version="1." + "1" * 5000),
]

BAD_VERSIONS = [
    *(request({"Sec-WebSocket-Version": bad}) for bad in ("0", "8", "12", "14", "abc", "13, 8")),
    request(more=[("Sec-WebSocket-Version", "13")]),
]


def check_refusal(outcome: Accepted | Refused, status: HTTPStatus) -> str:
    """The head of a rejection, which must be a complete HTTP response that ends the connection."""
    assert isinstance(outcome, Refused)
    head, _, body = outcome.response.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"HTTP/1.1 {status.value} {status.phrase}"
    assert "Connection: close" in lines
    assert f"Content-Length: {len(body)}" in lines
    assert outcome.reason in body.decode()
    return "\n".join(lines)


@pytest.mark.parametrize("bad", BAD_REQUESTS)
def test_broken_handshake_gets_400(bad: Request) -> None:
    check_refusal(answer(bad, DEFAULT_VERSIONS), HTTPStatus.BAD_REQUEST)


@pytest.mark.parametrize("bad", BAD_VERSIONS)
def test_unknown_version_gets_426_with_known_versions(bad: Request) -> None:
    head = check_refusal(answer(bad, DEFAULT_VERSIONS), HTTPStatus.UPGRADE_REQUIRED)
    assert "Sec-WebSocket-Version: 13" in head.split("\n")
    assert "Upgrade: websocket" in head.split("\n")


def test_subprotocol_that_was_not_offered_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not offer"):
        answer(request({"Sec-WebSocket-Protocol": "a"}), DEFAULT_VERSIONS, subprotocol="b")


HOST = "example.com:8000"

ORIGINS = [
    (None, True),
    ("http://example.com:8000", True),
    ("http://EXAMPLE.com:8000", True),
    ("https://example.com:8000", True),
    ("http://example.com", False),
    ("http://example.com:80", False),
    ("http://example.com:8001", False),
    ("http://evil.com", False),
    ("http://example.com.evil.com:8000", False),
    ("http://evil-example.com:8000", False),
    ("http://sub.example.com:8000", False),
    ("http://example.com.:8000", False),
    ("http://user@example.com:8000", False),
    ("http://example.com:8000@evil.com", False),
    ("http://example.com:8000/", False),
    ("http://example.com:8000?x", False),
    ("http://example.com:8000#x", False),
    ("http://example.com:8000?", False),
    ("http://example.com:99999", False),
    ("http://[example.com:8000", False),
    ("ftp://example.com:8000", False),
    ("file://", False),
    ("null", False),
    ("", False),
    ("example.com:8000", False),
    ("http://xn--exmple-cua.com:8000", False),
    ("http://exämple.com:8000", False),
]


@pytest.mark.parametrize(("origin", "allowed"), ORIGINS)
def test_origin_must_be_the_same_host_by_default(origin: str | None, allowed: bool) -> None:
    asking = request({"Host": HOST, "Origin": origin})
    assert is_allowed_origin(asking) is allowed
    if not allowed:
        check_refusal(answer(asking, DEFAULT_VERSIONS), HTTPStatus.FORBIDDEN)


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("example.com", "http://example.com", True),
        ("example.com", "http://example.com:80", True),
        ("example.com:443", "https://example.com", True),
        ("example.com:80", "https://example.com", False),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]:8000", "http://[::2]:8000", False),
        ("not a host", "http://example.com", False),
    ],
)
def test_default_port_in_origin_or_host_is_equal(host: str, origin: str, allowed: bool) -> None:
    assert is_allowed_origin(request({"Host": host, "Origin": origin})) is allowed


def test_behind_tls_only_https_origin_is_accepted() -> None:
    for origin, allowed in (("https://example.com", True), ("http://example.com", False)):
        asking = request({"Host": "example.com", "Origin": origin}, scheme="https")
        assert is_allowed_origin(asking) is allowed


def test_two_origin_headers_are_rejected() -> None:
    twice = request({"Origin": "http://server.example.com"}, [("Origin", "http://evil.com")])
    assert not is_allowed_origin(twice)
    assert not is_allowed_origin(twice, {"*"})


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://app.example", True),
        ("https://APP.example:443", True),
        ("http://app.example", False),
        ("https://app.example:444", False),
        ("https://evil.app.example", False),
        ("http://server.example.com", True),
        ("null", False),
    ],
)
def test_allowed_origins_extend_the_same_host(origin: str, allowed: bool) -> None:
    assert is_allowed_origin(request({"Origin": origin}), {"https://app.example"}) is allowed


def test_star_allows_every_origin() -> None:
    for origin in ("http://evil.com", "null", "garbage"):
        assert is_allowed_origin(request({"Origin": origin}), {"*"})
