"""The policy for members that do not read fast enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..protocol.close_codes import CloseCode
from ..protocol.message import close_payload

WhenFull = Literal["close", "drop_oldest", "drop_newest", "latest"]


@dataclass(frozen=True, slots=True)
class SlowConsumers:
    """The policy of a room for slow members.

    A member is slow while more than `Settings.high_water` bytes are unsent on its connection. The
    room then queues its messages, up to `max_backlog` bytes, and sends them when the connection's
    buffer has drained. `when_full` is the action when that queue is full:

    - `"close"`: close the member with `close_code`. The client can reconnect and catch up.
    - `"drop_oldest"`, `"drop_newest"`: drop messages to this member.
    - `"latest"`: of messages with the same `key`, queue only the newest, even before the queue is
      full; when it is full, drop the oldest. For values that replace each other, such as prices.
      Messages without a `key` replace no other message.

    With every action but `"close"`, a message larger than `max_backlog` is dropped, and the other
    queued messages are kept.
    """

    when_full: WhenFull = "close"
    max_backlog: int = 1 << 20
    """Bytes; each queued message counts its size plus 64."""
    close_code: int = CloseCode.TRY_AGAIN_LATER

    def __post_init__(self) -> None:
        if self.when_full not in get_args(WhenFull):
            raise ValueError(
                f"when_full is {self.when_full!r}, expected one of {get_args(WhenFull)}"
            )
        if self.max_backlog < 0:
            raise ValueError(f"max_backlog must not be negative, not {self.max_backlog!r}")
        close_payload(self.close_code)
