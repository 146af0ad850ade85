"""A request's address, scheme and host as the application sees them, in WSGI and ASGI.

Middleware changes them in the environ or the scope after the server has made it, when the
server's peer is a proxy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..protocol.request import Forwarded, address_of


def in_environ(environ: Mapping[str, Any]) -> Forwarded:
    address = address_of(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"))
    return Forwarded(address, environ["wsgi.url_scheme"], environ.get("HTTP_HOST"))


def in_scope(scope: Mapping[str, Any]) -> Forwarded:
    client = scope.get("client")
    scheme = "https" if scope.get("scheme") in ("wss", "https") else "http"
    hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
    host = hosts[0].decode("latin-1") if len(hosts) == 1 else None
    return Forwarded(address_of(*client) if client else None, scheme, host)


def in_django_request(request: Any, look: Callable[[], Forwarded]) -> Forwarded:
    """With what Django's settings SECURE_PROXY_SSL_HEADER and USE_X_FORWARDED_HOST add."""
    return look()._replace(scheme=request.scheme, host=request._get_raw_host())
