"""A certificate authority for servers and clients on 127.0.0.1."""

from __future__ import annotations

import ssl

import trustme

AUTHORITY = trustme.CA()


def context(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Return the context of a client that trusts the authority."""
    made = ssl.create_default_context()
    AUTHORITY.configure_trust(made)
    made.maximum_version = newest
    return made
