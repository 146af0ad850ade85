"""Ordinary HTTP requests and responses."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any, TypeAlias
from urllib.parse import urlencode

from ..errors import WebSocketError
from ..protocol.request import Headers, head

Fields: TypeAlias = Mapping[str, str] | Sequence[tuple[str, str]]
Body: TypeAlias = bytes | str | Mapping[str, str] | None


@dataclass(frozen=True)
class Response:
    """An HTTP response."""

    status: int
    headers: Headers
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the value of a JSON body."""
        return json.loads(self.body)


def encode_body(data: Body, value: Any) -> tuple[bytes, str | None]:
    """Return the bytes of a body and its Content-Type: a form if `data` is a mapping, else `data`
    itself, or `value` as JSON unless it is None. Raises `TypeError` for both, and for data of
    another type."""
    if value is not None:
        if data is not None:
            raise TypeError("a request has either data or json")
        return json.dumps(value).encode(), "application/json"
    if isinstance(data, Mapping):
        return urlencode(data).encode(), "application/x-www-form-urlencoded"
    if isinstance(data, str):
        return data.encode(), "text/plain; charset=utf-8"
    if not isinstance(data, bytes | None):
        raise TypeError(f"data is bytes, a str or a mapping, not {type(data).__name__}")
    return data or b"", None


def encode_request(
    method: str, target: str, fields: Sequence[tuple[str, str]], body: bytes
) -> bytes:
    """Return a request after whose response the server closes the connection."""
    own = [("Connection", "close")]
    if body or method in ("POST", "PUT", "PATCH"):
        own.append(("Content-Length", str(len(body))))
    return head(f"{method} {target} HTTP/1.1", [*fields, *own]) + body


class _Received:
    """Received bytes as the socket that `HTTPResponse` reads from."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


def parse_response(data: bytes, method: str) -> Response:
    """Return the response that consists of all bytes up to the end of the connection. Raises
    `WebSocketError` if they are none."""
    found = HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    try:
        found.begin()
        body = found.read()
    except HTTPException as error:
        raise WebSocketError(f"the application's response is not complete: {error!r}") from None
    return Response(found.status, Headers(found.headers.items()), body)
