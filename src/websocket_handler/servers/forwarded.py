"""Reads the address, scheme and host of a request as the application sees them.

Behind a proxy, middleware changes them in the WSGI environ or the ASGI scope after the server has
created it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..protocol.request import Forwarded, address_of, http_scheme


def in_environ(environ: Mapping[str, Any]) -> Forwarded:
    """Return address, scheme and host in a WSGI environ."""
    address = address_of(environ.get("REMOTE_ADDR"), environ.get("REMOTE_PORT"))
    scheme = http_scheme(environ["wsgi.url_scheme"])
    return Forwarded(address, scheme, environ.get("HTTP_HOST"))


def in_scope(scope: Mapping[str, Any]) -> Forwarded:
    """Return address, scheme and host in an ASGI scope."""
    client = scope.get("client")
    scheme = http_scheme(scope.get("scheme"))
    hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
    host = hosts[0].decode("latin-1") if len(hosts) == 1 else None
    return Forwarded(address_of(*client) if client else None, scheme, host)


def snapshot(scope: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return all of an ASGI scope that `in_scope` reads, to compare it later."""
    return scope.get("client"), scope.get("scheme"), *scope["headers"]


def in_changed_scope(scope: Mapping[str, Any], before: tuple[Any, ...]) -> Forwarded | None:
    """Return what `in_scope` returns, None if the scope is as it was `before`."""
    return None if snapshot(scope) == before else in_scope(scope)


def in_django_request(request: Any, look: Callable[[], Forwarded]) -> Forwarded:
    """Apply Django's settings SECURE_PROXY_SSL_HEADER and USE_X_FORWARDED_HOST."""
    return look()._replace(scheme=http_scheme(request.scheme), host=request._get_raw_host())
