"""The TLS contexts of connections for which the caller gives none."""

from __future__ import annotations

import os
import ssl
from functools import lru_cache

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""The variables with the places of the authorities, where they are not the system's."""


def tls_context(given: ssl.SSLContext | bool | None) -> ssl.SSLContext:
    """Return the context for the options `ssl` and `proxy_ssl`."""
    if isinstance(given, ssl.SSLContext):
        return given
    if given is False:
        return _unverified_context()
    return _default_context(tuple(map(os.environ.get, AUTHORITIES)))


@lru_cache(maxsize=1)
def _default_context(_places: tuple[str | None, ...]) -> ssl.SSLContext:
    """Return the context that trusts the authorities in their places. All connections share it: to
    read the authorities takes tens of milliseconds, in which an event loop would stand still."""
    return ssl.create_default_context()


@lru_cache(maxsize=1)
def _unverified_context() -> ssl.SSLContext:
    """Return a context that accepts any certificate, and so reads no authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
