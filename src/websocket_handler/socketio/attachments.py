"""A limit on the attachments of one binary event: python-socketio keeps up to 10**10 of them."""

from __future__ import annotations

from typing import Any

ATTACHMENT_OVERHEAD = 64
"""Bytes that an attachment counts beside its content, so that empty ones are bounded too."""


def limit_attachments(server: Any, limit: int) -> None:
    """Have a Socket.IO server keep at most `limit` bytes of the attachments of an event that is not
    complete. `ValueError` is logged for each attachment above it, and the event is lost."""

    class LimitedPacket(server.packet_class):  # type: ignore[misc]
        kept = 0  # bytes

        def add_attachment(self, attachment: bytes) -> bool:
            kept = self.kept + len(attachment) + ATTACHMENT_OVERHEAD
            if kept > limit:
                raise ValueError(f"the attachments of an event exceed {limit} bytes")
            self.kept = kept
            return bool(super().add_attachment(attachment))

    server.packet_class = LimitedPacket
