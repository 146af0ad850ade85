"""waitress parses bytes after a request head as the next request.

A client may send frames before it gets the 101, and parts of them would be lost if they look like
the end of a request head. So the parser is replaced by one that keeps all bytes after an upgrade.
"""

from __future__ import annotations

import sys
from typing import Any


def patch_parser() -> None:
    """Replace the parser if waitress is in use. Call it before a request is read."""
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
    """Return the bytes after the head of the channel's only request."""
    with channel.requests_lock:
        if hasattr(channel.requests[0], "early"):
            return bytes(channel.requests[0].early)
        following = channel.request  # the process's first request, read before `patch_parser()`
        return bytes(following.header_plus) if following is not None else b""
