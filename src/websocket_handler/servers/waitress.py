"""waitress reads ahead: what follows a request in one segment it takes for the next request.

The frames of a client that does not wait for the 101 are none, and would be lost where they
look like the end of a head. So its parser takes all that follows an upgrade for itself.
"""

from __future__ import annotations

import sys
from typing import Any


def prepare() -> None:
    """Have it done, if waitress is in use; to be called before a request is read."""
    module: Any = sys.modules.get("waitress.channel")
    if module is None or hasattr(module.HTTPChannel.parser_class, "early"):
        return

    class Parser(module.HTTPChannel.parser_class):  # type: ignore[misc]
        early = b""

        def received(self, data: bytes) -> int:
            consumed: int = super().received(data)
            if not self.completed or self.headers.get("UPGRADE", "").lower() != "websocket":
                return consumed
            self.early = data[consumed:]
            return len(data)

    module.HTTPChannel.parser_class = Parser


def early_bytes(channel: Any) -> bytes:
    """What came after the head of the channel's only request."""
    with channel.requests_lock:
        if hasattr(channel.requests[0], "early"):
            return bytes(channel.requests[0].early)
        following = channel.request  # the first request of all, read before `prepare`
        return bytes(following.header_plus) if following is not None else b""
