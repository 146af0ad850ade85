"""The versions of the protocol, one `Version` each.

The request alone determines its version. To add a version, write a module beside `rfc6455` that
defines a `Version`, and list it in `ALL_VERSIONS`; no other code branches on the version.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..request import Request
from .hixie import HIXIE_75, HIXIE_76
from .hybi01 import HYBI_01, HYBI_02, HYBI_03
from .hybi04 import HYBI_04
from .hybi05 import HYBI_05, HYBI_06
from .hybi07 import HYBI_07, HYBI_12
from .rfc6455 import VERSION as RFC_6455
from .version import Version

ALL_VERSIONS: tuple[Version, ...] = (
    RFC_6455,
    HYBI_12,
    HYBI_07,
    HYBI_06,
    HYBI_05,
    HYBI_04,
    HYBI_03,
    HYBI_02,
    HYBI_01,
    HIXIE_76,
    HIXIE_75,
)
"""All supported versions, newest first. hybi-12 covers hybi-08 to hybi-12, which are identical on
the wire; hixie-76 covers hybi-00."""

DEFAULT_VERSIONS: tuple[Version, ...] = (RFC_6455,)
"""The versions that are accepted by default."""

OTHER_NAMES = {
    **dict.fromkeys(("hybi-13", "hybi-14", "hybi-15", "hybi-16", "hybi-17"), RFC_6455),
    **dict.fromkeys(("hybi-08", "hybi-09", "hybi-10", "hybi-11"), HYBI_12),
    "hybi-00": HIXIE_76,
}
"""Drafts that are identical on the wire to a later draft or to the RFC."""

_DRAFT = "Sec-WebSocket-Draft"
_NEWER = ("Sec-WebSocket-Version", "Sec-WebSocket-Key")
_OLDER = ("Sec-WebSocket-Key1", "Sec-WebSocket-Key2", _DRAFT)
_OLDER_NAMES = frozenset(map(str.lower, _OLDER))


def choose(request: Request, versions: Iterable[Version]) -> Version | None:
    """Return the version that the request asks for, None if it is not among `versions`."""
    return next((version for version in versions if version._matches(request)), None)


def conflicting_versions(request: Request) -> str | None:
    """Return an error if the request has headers of two versions, else None."""
    headers = request.headers
    if headers.has_none_of(_OLDER_NAMES):
        return None
    older = [name for name in _OLDER if name in headers]
    newer = [name for name in _NEWER if name in headers]
    if newer:
        return f"the headers are those of two versions: {', '.join(newer + older)}"
    if len(headers.get_all(_DRAFT)) > 1:
        return f"there must be at most one {_DRAFT} header"
    return None


def by_name(name: str) -> Version:
    """Return the version called `name`, such as "hixie-76" or "RFC 6455".

    The name of a draft without a `Version` of its own ("hybi-10") returns the version that is
    identical on the wire. Raises `ValueError` for an unknown name.
    """
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    for version in ALL_VERSIONS:
        if version.name == name:
            return version
    known = ", ".join(version.name for version in ALL_VERSIONS)
    raise ValueError(f"unknown version {name!r}, expected one of {known}")


__all__ = [
    "ALL_VERSIONS",
    "DEFAULT_VERSIONS",
    "Version",
    "by_name",
    "choose",
    "conflicting_versions",
]
