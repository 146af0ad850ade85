"""The server's side of the opening handshake: the part that all versions share.

`answer` returns the response: a 101, or an HTTP error response with a readable reason. It checks,
in this order: HTTP and the upgrade headers, the origin, whether the version is supported, and the
headers of that version.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from . import permessage_deflate, versions
from .origins import allowed, scheme_of_own_origin
from .permessage_deflate import Compression, CompressionOption, NegotiatedParameters
from .request import FIELD_VALUE, Headers, Request, check_field, head, tokens
from .versions import Version
from .versions.challenge import KEY3_SIZE, KEY_HEADERS

CONNECTION_FIELDS = frozenset(("connection", "keep-alive", "proxy-connection", "upgrade"))
"""Fields about the connection to the peer, which only the handshake sets."""

FIELDS_NOT_COPIED = CONNECTION_FIELDS | {
    *("transfer-encoding", "te", "trailer"),  # about the connection, too
    *("accept-ranges", "age", "cache-control", "etag", "expires", "last-modified", "pragma"),
    *("location", "refresh", "retry-after", "vary"),  # instructions for a page
    *("proxy-authenticate", "www-authenticate", "websocket-origin", "websocket-location"),
    "websocket-protocol",
}
"""Fields of a response (and all `Content-*`) that say nothing about a WebSocket, or that only the
handshake sets. All others are added to the 101: cookies, security policies, request ids."""

HOST_SEPARATOR = re.compile(r"[, \t]")
"""Separates hosts, which must not be in the one Host: WSGI joins repeated fields."""

HTTP_VERSION = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,3}))?")


class Accepted(NamedTuple):
    """The request becomes a WebSocket of `version` once `response` is sent.

    The codec takes the `secret` and the `negotiated` compression parameters. In versions with a
    late handshake (hixie-76 to hybi-03), `response` lacks its end, which is computed from the third
    key that the client sends after the request head.
    """

    version: Version
    response: bytes
    secret: bytes = b""
    negotiated: NegotiatedParameters | None = None
    subprotocol: str | None = None
    status: HTTPStatus = HTTPStatus.SWITCHING_PROTOCOLS


class Refused(NamedTuple):
    """The handshake fails with the HTTP `response`, which closes the connection."""

    status: int
    reason: str
    response: bytes


def answer(
    request: Request,
    supported: Collection[Version],
    allowed_origins: Collection[str] | None = None,
    subprotocol: str | None = None,
    extra: Headers | None = None,
    compression: CompressionOption = False,
) -> Accepted | Refused:
    """Return the response to a handshake request.

    `supported` are the accepted versions. The origin of the request's own host is always allowed;
    `allowed_origins` adds others, and "*" allows all. `extra` are additional headers of the 101.
    `compression` are the parameters that the server accepts, False for none. Raises `ValueError`
    if the request does not offer `subprotocol`.
    """
    error = _http_error(request)
    if error is not None:
        return http_refusal(HTTPStatus.BAD_REQUEST, error)
    if not is_allowed_origin(request, allowed_origins):
        return http_refusal(HTTPStatus.FORBIDDEN, _foreign_origin(request))
    error = versions.conflicting_versions(request)
    if error is not None:
        return http_refusal(HTTPStatus.BAD_REQUEST, error)
    version = versions.choose(request, supported)
    if version is None:
        return _refuse_version(request, supported)
    error = version._validation_error(request)
    if error is not None:
        return http_refusal(HTTPStatus.BAD_REQUEST, error)
    if subprotocol is not None and subprotocol not in version._offered_subprotocols(request):
        raise ValueError(f"the request does not offer the subprotocol {subprotocol!r}")
    extra = Headers() if extra is None else extra
    negotiated = None
    if isinstance(compression, Compression) and version._is_native:
        offers = request.headers.get_all(permessage_deflate.HEADER)
        negotiated = permessage_deflate.accept(offers, _compression_for(request, compression))
        if negotiated is not None:
            extra = Headers([*extra.fields(), _extension_field(negotiated)])
    response, secret = version._build_response(request, subprotocol, extra)
    return Accepted(version, response, secret, negotiated, subprotocol)


def _compression_for(request: Request, compression: Compression) -> Compression:
    """Return the compression parameters to accept from the client of this request.

    Tornado's client ignores parameters without a value, so it cannot be asked to compress without
    context takeover.
    """
    if request.headers.get("User-Agent", "").startswith("Tornado/"):
        return replace(compression, client_no_context_takeover=False)
    return compression


@lru_cache
def _extension_field(negotiated: NegotiatedParameters) -> tuple[str, str]:
    return permessage_deflate.HEADER, str(negotiated)


def http_refusal(status: HTTPStatus, reason: str, extra: Headers | None = None) -> Refused:
    """Return an HTTP error response.

    It closes the connection, so that no later bytes are parsed as HTTP.
    """
    body = f"WebSocket handshake refused: {reason}.\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        *(f"{name}: {value}" for name, value in (extra.fields() if extra else [])),
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    start = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return Refused(status, reason, start + body)


def rejected_by_application(status: int, reason: str, fields: Iterable[tuple[str, str]]) -> Refused:
    """Return the head of the response by which the application rejects the WebSocket.

    An empty `reason` is replaced by the usual one of `status`. Raises `ValueError` if a field is
    not valid in an HTTP head.
    """
    fields = [field for field in fields if field[0].lower() not in CONNECTION_FIELDS]
    for name, value in fields:
        check_field(name, value)
    reason = reason if reason and FIELD_VALUE.fullmatch(reason) else phrase(status)
    response = head(f"HTTP/1.1 {status} {reason}", [*fields, ("Connection", "close")])
    return Refused(status, reason or "rejected by the application", response)


def with_response_fields(
    response: bytes, fields: Iterable[tuple[str, str]], present: Headers
) -> bytes:
    """Return the 101 `response` with fields of the application's response added.

    Leaves out `FIELDS_NOT_COPIED`, and fields other than cookies that `present` contains already.
    Raises `ValueError` if a field is not valid in an HTTP head.
    """
    added = []
    for name, value in fields:
        lower = name.lower()
        if lower in FIELDS_NOT_COPIED or lower.startswith(("sec-websocket-", "content-")):
            continue
        if lower != "set-cookie" and name in present:
            continue
        check_field(name, value)
        added.append(f"{name}: {value}\r\n")
    if not added:
        return response
    start, _, rest = response.partition(b"\r\n\r\n")
    return start + b"\r\n" + "".join(added).encode("latin-1") + b"\r\n" + rest


def phrase(status: int) -> str:
    """Return the reason phrase of a status, "" if it has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


@lru_cache
def _accepted(
    version: Version, negotiated: NegotiatedParameters | None, subprotocol: str | None
) -> Accepted:
    return Accepted(version, b"", b"", negotiated, subprotocol)


def without_bytes(outcome: Accepted | Refused) -> Accepted | Refused:
    """Return `outcome` without its bytes. Connections with equal outcomes share one object."""
    if isinstance(outcome, Refused):
        return outcome._replace(response=b"")
    return _accepted(outcome.version, outcome.negotiated, outcome.subprotocol)


def _http_error(request: Request) -> str | None:
    """Return the first violation of HTTP or of RFC 6455 section 4.2.1, None if there is none.

    A body of eight bytes is allowed with the keys of hixie-76, because some of its clients
    announce the third key as a body.
    """
    headers = request.headers
    if request.method != "GET":
        return "the method must be GET"
    if not _is_at_least_http_1_1(request.http_version):
        return "the request must be HTTP/1.1"
    if not FIELD_VALUE.fullmatch("".join([value for _, value in headers.fields()])):
        return "a header contains a control character"
    hosts = headers.get_all("Host")
    if len(hosts) != 1 or not hosts[0] or HOST_SEPARATOR.search(hosts[0]):
        return "there must be exactly one Host header"
    if not _has_token(headers, "Upgrade", "websocket"):
        return "the Upgrade header must be 'websocket'"
    if not _has_token(headers, "Connection", "upgrade"):
        return "the Connection header must contain 'Upgrade'"
    size = headers.get("Content-Length", "0").strip()
    has_third_key = size == str(KEY3_SIZE) and any(name in headers for name in KEY_HEADERS)
    if (size != "0" and not has_third_key) or "Transfer-Encoding" in headers:
        return "the request must not have a body"
    return None


def _refuse_version(request: Request, supported: Collection[Version]) -> Refused:
    """Return 426 with the supported versions (section 4.2.2), 400 if the request names none."""
    newest_first = [version for version in versions.ALL_VERSIONS if version in supported]
    numbers = ", ".join(str(version.number) for version in newest_first if version.number)
    asked = request.headers.get("Sec-WebSocket-Version")
    older = versions.choose(request, versions.ALL_VERSIONS)
    if asked is not None:
        status = HTTPStatus.UPGRADE_REQUIRED
        names = numbers or ", ".join(str(version) for version in newest_first)
        reason = f"unsupported WebSocket version {_printable(asked)}; supported: {names}"
    elif older is not None and older._has_late_handshake:
        status, reason = HTTPStatus.BAD_REQUEST, f"unsupported WebSocket version {older}"
    else:
        status, reason = HTTPStatus.BAD_REQUEST, "the Sec-WebSocket-Version header is missing"
    extra = Headers([("Sec-WebSocket-Version", numbers)] if numbers else [])
    if status is HTTPStatus.UPGRADE_REQUIRED:
        extra.add("Upgrade", "websocket")  # RFC 9110 section 15.5.22: MUST send Upgrade
    return http_refusal(status, reason, extra)


def is_allowed_origin(request: Request, allowed_origins: Collection[str] | None = None) -> bool:
    """Whether scripts from the request's `Origin` may connect (RFC 6455 section 10.2).

    A request without an origin, from a program other than a browser, is allowed. So is the
    request's own host: same host and port, and https if the request is known to use TLS.
    """
    origins = origins_of(request)
    if not origins:
        return True
    if len(origins) != 1:
        return False
    if allowed_origins is not None and allowed(frozenset(allowed_origins)).matches(origins[0]):
        return True
    scheme = scheme_of_own_origin(origins[0], request.headers.get("Host", ""))
    return scheme == "https" or (scheme == "http" and not request.tls)


def _foreign_origin(request: Request) -> str:
    """Return the reason of a 403: the origin, the expected host, and how to allow the origin."""
    origin = _printable(", ".join(origins_of(request)))
    host = _printable(request.headers["Host"])
    return (
        f"the origin {origin} is not allowed here, the Host of the request is {host}; "
        f"behind a proxy pass Host on, or allow it: allowed_origins=[{origin}]"
    )


def origins_of(request: Request) -> list[str]:
    """Return the origins of the request; hybi-04 to hybi-10 use `Sec-WebSocket-Origin`."""
    headers = request.headers
    return headers.get_all("Origin") + headers.get_all("Sec-WebSocket-Origin")


def _has_token(headers: Headers, name: str, token: str) -> bool:
    """Whether the list in the fields called `name` has the lower-case `token`, in any case."""
    value = headers.get(name, "").lower()
    return value == token or token in tokens((value,))


@lru_cache(maxsize=16)
def _is_at_least_http_1_1(version: str) -> bool:
    found = HTTP_VERSION.fullmatch(version)
    return found is not None and (int(found[1]), int(found[2] or 0)) >= (1, 1)


def _printable(text: str) -> str:
    """Return a header value that is safe in a log line and a response body."""
    return repr(text[:100])
