"""The cookies of a client, in a `CookieJar` of Python: sent with handshakes, set by responses."""

from __future__ import annotations

from collections.abc import Sequence
from email.message import Message
from typing import TYPE_CHECKING

from ..protocol.client import Address

if TYPE_CHECKING:
    from http.cookiejar import CookieJar
    from urllib.request import Request

MAX_COOKIES_PER_DOMAIN = 50
MAX_COOKIE_BYTES = 4096
"""The limits of RFC 6265 section 6.1. A server cannot add more cookies, nor longer ones."""


def cookie_header(jar: CookieJar, address: Address) -> str | None:
    """Return the Cookie header for a handshake with `address`, None if no cookie is for it."""
    request = _request_to(address)
    jar.add_cookie_header(request)
    return request.get_header("Cookie")


def store_cookies(jar: CookieJar, address: Address, fields: Sequence[tuple[str, str]]) -> None:
    """Store the cookies that a response of `address` sets, as far as the policy of `jar` allows."""
    request, response = _request_to(address), _Response()
    for name, value in fields:
        if name.lower() == "set-cookie":
            response.headers["Set-Cookie"] = value
    for cookie in jar.make_cookies(response, request):  # type: ignore[arg-type]
        known = {(one.path, one.name) for one in jar if one.domain == cookie.domain}
        is_new = (cookie.path, cookie.name) not in known
        is_long = len(cookie.name) + len(cookie.value or "") > MAX_COOKIE_BYTES
        if not is_long and not (is_new and len(known) >= MAX_COOKIES_PER_DOMAIN):
            jar.set_cookie_if_ok(cookie, request)


class _Response:
    """The header of a response, as `CookieJar` expects it."""

    def __init__(self) -> None:
        self.headers: Message = Message()

    def info(self) -> Message:
        return self.headers


def _request_to(address: Address) -> Request:
    """Return an HTTP request to `address`: cookies do not distinguish ws: from http:."""
    from urllib.request import Request  # imports the HTTP client of Python

    scheme = "https" if address.secure else "http"
    return Request(f"{scheme}://{address.authority}{address.target}")  # noqa: S310
