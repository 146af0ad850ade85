"""The limits of our side that end a connection, named for errors."""

from __future__ import annotations

from ..protocol import check
from ..protocol.check import Violation
from ..protocol.close_codes import CloseCode
from ..settings import KIB, MIB, Settings

TOO_MANY_CONTROL_FRAMES = Violation(CloseCode.POLICY_VIOLATION, "too many control frames")
SLOW_CONSUMER = Violation(CloseCode.POLICY_VIOLATION, "slow consumer")

SETTING_OF_REASON = {
    check.TOO_BIG.reason: "max_message_size",
    check.TOO_MANY_FRAGMENTS.reason: "max_fragments",
    check.TOO_MANY_EMPTY.reason: "max_empty_fragments",
    TOO_MANY_CONTROL_FRAMES.reason: "max_control_frames",
    SLOW_CONSUMER.reason: "max_buffered",
}
"""The setting that a close reason of ours stands for."""

SIZES = ("max_message_size", "max_buffered")
"""The settings in bytes."""


def exceeded_limit(reason: str, settings: Settings) -> str:
    """Return our setting that a connection closed with `reason` has exceeded, with its value:
    "our max_message_size=1 MiB"; "" if it has exceeded none."""
    name = SETTING_OF_REASON.get(reason)
    if name is None:
        return ""
    value: int = getattr(settings, name)
    return f"our {name}={in_bytes(value) if name in SIZES else f'{value:,}'}"


def in_bytes(size: int) -> str:
    """Return a size in MiB or KiB if it is a multiple of that, else in bytes."""
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit:,} {name}"
    return f"{size:,} bytes"
