"""The versions of the protocol, each a value that says all that differs.

A version is told by the request alone. To add one: a file beside `rfc6455` that makes a
`Version`, and its name in `ALL_VERSIONS`; nothing else asks which version it is.
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
"""Every version this library speaks, newest first. hybi-12 stands for hybi-08 to -12, which
are one on the wire, and hixie-76 for hybi-00."""

DEFAULT_VERSIONS: tuple[Version, ...] = (RFC_6455,)
"""What is spoken unless `versions=` says otherwise."""

OTHER_NAMES = {
    **dict.fromkeys(("hybi-13", "hybi-14", "hybi-15", "hybi-16", "hybi-17"), RFC_6455),
    **dict.fromkeys(("hybi-08", "hybi-09", "hybi-10", "hybi-11"), HYBI_12),
    "hybi-00": HIXIE_76,
}
"""The drafts that another one, or the RFC, stands for."""

_DRAFT = "Sec-WebSocket-Draft"
_NEWER = ("Sec-WebSocket-Version", "Sec-WebSocket-Key")
_OLDER = ("Sec-WebSocket-Key1", "Sec-WebSocket-Key2", _DRAFT)


def choose(request: Request, versions: Iterable[Version]) -> Version | None:
    """The version of `versions` that the request asks for, if any."""
    return next((version for version in versions if version.is_asked_for(request)), None)


def find_contradiction(request: Request) -> str | None:
    """What is wrong with a request that bears the marks of two versions."""
    headers = request.headers
    older = [name for name in _OLDER if name in headers]
    if not older:
        return None
    newer = [name for name in _NEWER if name in headers]
    if newer:
        return f"the headers are those of two versions: {', '.join(newer + older)}"
    if len(headers.get_all(_DRAFT)) > 1:
        return f"there must be at most one {_DRAFT} header"
    return None


def by_name(name: str) -> Version:
    """The version called `name`: "hixie-76", "RFC 6455" …, or the one that a draft is one with
    on the wire: "hybi-10". Raises `ValueError` if there is none."""
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    for version in ALL_VERSIONS:
        if version.name == name:
            return version
    known = ", ".join(version.name for version in ALL_VERSIONS)
    raise ValueError(f"there is no version {name!r}, only {known}")


__all__ = [
    "ALL_VERSIONS",
    "DEFAULT_VERSIONS",
    "Version",
    "by_name",
    "choose",
    "find_contradiction",
]
