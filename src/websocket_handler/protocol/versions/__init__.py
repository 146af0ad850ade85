"""The versions of the protocol, each a value that says all that differs.

A version is told by the request alone. To add one: a file beside `rfc6455` that makes a
`Version`, and its name in `ALL_VERSIONS`; nothing else asks which version it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..request import Request
from . import rfc6455
from .version import Version

ALL_VERSIONS: tuple[Version, ...] = (rfc6455.VERSION,)
"""Every version this library speaks, newest first."""

DEFAULT_VERSIONS: tuple[Version, ...] = (rfc6455.VERSION,)
"""What is spoken unless `versions=` says otherwise."""


def choose(request: Request, versions: Iterable[Version]) -> Version | None:
    """The version of `versions` that the request asks for, if any."""
    return next((version for version in versions if version.is_asked_for(request)), None)


__all__ = ["ALL_VERSIONS", "DEFAULT_VERSIONS", "Version", "choose"]
