"""The states of the sending direction of a connection."""

from __future__ import annotations

from enum import IntEnum


class SendState(IntEnum):
    """Decides how `send` sends a message. The native channel has the same values (channel.pxd)."""

    INDIRECT = 0
    """`send` leaves messages to `_send_slow_path`: before `connect()`, and with a codec in
    Python."""
    DIRECT = 1
    """The channel itself encodes and sends messages."""
    FRAGMENTED = 2
    """A message is being sent in fragments by the channel's codec. Only its fragments, and the
    messages that were queued behind it, are sent."""
    ENDED = 3
    """No data frame follows: the close frame was sent, or sending has failed."""
