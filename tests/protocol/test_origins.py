"""The values of `allowed_origins`, and the pages they allow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websocket_handler import Headers, Request, Settings
from websocket_handler.protocol.handshake import is_allowed_origin
from websocket_handler.protocol.origins import parse_origin

ALLOWED = [
    ("*", "https://example.com"),
    (["*"], "null"),
    (["null"], "null"),
    (["https://example.com"], "https://example.com"),
    (["https://example.com/"], "https://example.com"),
    (["HTTPS://Example.com:443"], "https://example.com"),
    (["https://example.com:443/"], "https://example.com"),
    (["wss://example.com"], "https://example.com"),
    (["ws://example.com:8080"], "http://example.com:8080"),
    (["example.com"], "https://example.com"),
    (["example.com"], "http://example.com"),
    (["example.com/"], "http://example.com"),
    (["localhost:3000"], "http://localhost:3000"),
    (["http://localhost:*"], "http://localhost:5173"),
    (["localhost:*"], "https://localhost:8443"),
    (["https://*.example.com"], "https://a.example.com"),
    (["https://*.example.com"], "https://a.b.example.com"),
    (["*.example.com"], "http://a.example.com"),
    ([".example.com"], "https://a.example.com"),
    ([".example.com"], "https://example.com"),
    (["https://*.example.com:8443"], "https://a.example.com:8443"),
    (["https://*"], "https://example.com"),
    (["https://bücher.example"], "https://xn--bcher-kva.example"),
    (["https://BÜCHER.example"], "https://xn--bcher-kva.example"),
    (["https://*.bücher.example"], "https://a.xn--bcher-kva.example"),
    (["https://straße.example"], "https://xn--strae-oqa.example"),
    (["https://xn--bcher-kva.example"], "https://xn--bcher-kva.example"),
    (["http://[::1]:3000"], "http://[::1]:3000"),
    (["http://[0:0:0:0:0:0:0:1]:3000"], "http://[::1]:3000"),
    (["[::1]:3000"], "http://[::1]:3000"),
    (["::1"], "https://[::1]"),
    (["127.0.0.1:8000"], "http://127.0.0.1:8000"),
    (["file://"], "file://"),
    (["file:///"], "file://"),
    (["capacitor://localhost"], "capacitor://localhost"),
    (["tauri://localhost"], "tauri://localhost"),
    (["app://."], "app://."),
    (["app://obsidian.md"], "app://obsidian.md"),
    (["chrome-extension://abcdefghijklmnop"], "chrome-extension://abcdefghijklmnop"),
    (["chrome-extension://*"], "chrome-extension://abcdefghijklmnop"),
]

REFUSED = [
    (["https://example.com"], "http://example.com"),
    (["https://example.com"], "https://example.com:8443"),
    (["https://example.com"], "https://a.example.com"),
    (["https://example.com"], "https://example.com.evil.example"),
    (["https://example.com"], "null"),
    (["example.com"], "app://example.com"),
    (["example.com"], "https://example.com:8443"),
    (["https://*.example.com"], "https://example.com"),
    (["https://*.example.com"], "https://.example.com"),
    (["https://*.example.com"], "http://a.example.com"),
    (["https://*.example.com"], "https://evilexample.com"),
    (["https://*.example.com"], "https://a.example.com.evil.example"),
    (["https://*.example.com"], "https://evil.example/.example.com"),
    (["https://*.example.com"], "https://evil.example?.example.com"),
    (["https://*.example.com"], "https://a.example.com:8443"),
    ([".example.com"], "https://evilexample.com"),
    (["https://*"], "http://example.com"),
    (["https://*"], "https://*"),
    (["https://*"], "null"),
    (["http://localhost:*"], "http://evil.example:80"),
    (["null"], "file://"),
    (["file://"], "null"),
    (["file://"], "file://host"),
    (["https://bücher.example"], "https://bucher.example"),
    (["https://straße.example"], "https://strasse.example"),
    (["chrome-extension://*"], "moz-extension://abcdefghijklmnop"),
    (["chrome-extension://*"], "chrome-extension://"),
    ([], "https://example.com"),
]

NO_ORIGINS = [
    "",
    " ",
    "https://",
    "https:example.com",
    "https:/example.com",
    "https://example.com/app",
    "https://example.com/?a",
    "https://example.com#a",
    "https://user@example.com",
    "https://example.com:port",
    "https://example.com:0",
    "https://example.com:65536",
    "https://example.com:",
    "https://example .com",
    " https://example.com",
    "https://example.com\n",
    "https://a.example, https://b.example",
    "https://a.example https://b.example",
    "https://exam*ple.com",
    "https://*example.com",
    "https://a.*.example.com",
    "https://**",
    "https://*.",
    r"https://.*\.example\.com",
    r"^https://example\.com$",
    "https://[::1",
    "https://[example.com]",
    "https://1::2::3",
    "app://host/path",
    "://example.com",
    "about:blank",
    ".",
    "*.",
    "example..com",
]


def is_allowed(origin: str, allowed: Any) -> bool:
    headers = Headers([("Host", "app.example"), ("Origin", origin)])
    return is_allowed_origin(
        Request("GET", "/", headers), Settings(allowed_origins=allowed).allowed_origins
    )


@pytest.mark.parametrize(("allowed", "origin"), ALLOWED)
def test_listed_origin_is_allowed(allowed: Any, origin: str) -> None:
    assert is_allowed(origin, allowed)


@pytest.mark.parametrize(("allowed", "origin"), REFUSED)
def test_unlisted_origin_is_rejected(allowed: Any, origin: str) -> None:
    assert not is_allowed(origin, allowed)


@pytest.mark.parametrize("entry", NO_ORIGINS)
def test_entry_that_is_no_origin_is_an_error_naming_it(entry: str) -> None:
    with pytest.raises(ValueError, match="in allowed_origins: ") as raised:
        Settings(allowed_origins=["https://example.com", entry])
    assert str(raised.value).startswith(repr(entry))


@pytest.mark.parametrize("entries", [[b"https://example.com"], [None], "https://example.com", 5])
def test_entries_of_another_type_are_a_type_error(entries: Any) -> None:
    with pytest.raises(TypeError):
        Settings(allowed_origins=entries)


def test_same_host_is_allowed_beside_listed_origins() -> None:
    assert is_allowed("http://app.example", ["https://example.com"])


NAMES = st.sampled_from(
    ["a", "A.example", "a_b", "1.2.3.4", "[::1]", "-", ".", "..", "a@b", "", "é"]
)
PORTS = st.sampled_from(["", ":80", ":443", ":8080", ":0", ":080", ":65536", ":", ":x", ":1:2"])
HOSTS = st.builds("{}{}".format, NAMES, PORTS)
SCHEMES = st.sampled_from(["http", "https", "HTTP", "ws", "ftp", ""])


@given(scheme=SCHEMES, page=HOSTS, host=HOSTS, is_equal=st.booleans(), tls=st.booleans())
def test_origin_of_the_own_host_is_the_same_with_and_without_a_parser(
    scheme: str, page: str, host: str, is_equal: bool, tls: bool
) -> None:
    page = host if is_equal else page
    headers = Headers([("Host", host), ("Origin", f"{scheme}://{page}")])
    request = Request("GET", "/", headers, scheme="https" if tls else "http")
    origin = parse_origin(f"{scheme}://{page}")
    is_own = (
        origin is not None
        and origin.scheme in (("https",) if tls else ("http", "https"))
        and origin == parse_origin(f"{origin.scheme}://{host}")
    )
    assert is_allowed_origin(request) == is_own
