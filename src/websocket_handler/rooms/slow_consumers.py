"""What becomes of messages to members that do not keep up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..protocol.close_codes import CloseCode
from ..protocol.message import close_payload

WhenFull = Literal["close", "drop_oldest", "drop_newest", "latest"]


@dataclass(frozen=True, slots=True)
class SlowConsumers:
    """What a room does with a member that is behind: that has not read what was sent to it, so
    that more than `Settings.high_water` waits in its connection.

    Messages for it are kept by the room then, up to `max_backlog` bytes, and follow when it
    has caught up. `when_full` says what happens beyond:

    - `"close"`: it is closed with `close_code`; it may come back, and catch up.
    - `"drop_oldest"`, `"drop_newest"`: it misses messages.
    - `"latest"`: of messages with the same `key`, only the newest is kept from the start; when
      it is full all the same, the oldest is dropped. For figures that replace each other.
      Messages without a `key` replace none.

    A message that is larger than `max_backlog` is itself dropped, and none for it.
    """

    when_full: WhenFull = "close"
    max_backlog: int = 1 << 20
    """Bytes, with 64 more for each message."""
    close_code: int = CloseCode.TRY_AGAIN_LATER

    def __post_init__(self) -> None:
        if self.when_full not in get_args(WhenFull):
            raise ValueError(f"when_full is one of {get_args(WhenFull)}, not {self.when_full!r}")
        if self.max_backlog < 0:
            raise ValueError(f"max_backlog cannot be {self.max_backlog!r}")
        close_payload(self.close_code)
