"""A certificate authority for servers and clients on 127.0.0.1, and contexts that trust it."""

from __future__ import annotations

import ssl

import trustme

AUTHORITY = trustme.CA()


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a client that trusts the authority, and no other: to read the system's
    authorities takes tens of milliseconds."""
    return ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())


def context(newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """Return the context of a client that trusts the authority of this module."""
    made = trusting(AUTHORITY)
    made.maximum_version = newest
    return made
