"""The packets of Engine.IO on their way to a WebSocket: framed once, and recognised if volatile."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from engineio import packet as engineio_packet

from ..engine import fan_out
from ..errors import ConnectionClosed
from ..protocol.close_codes import CloseCode
from ..protocol.prepared import PreparedMessage
from ..websocket import WebSocket

EVENT_NAME = re.compile(r'(?:2|5(\d+)-)(?:/[^,]*,)?\["((?:[^"\\]|\\.)*)"')
"""The start of an event of Socket.IO without an acknowledgement: its number of attachments, if it
has any, and its name in JSON."""

PACKET_OVERHEAD_BYTES = 1024
"""Bytes that a queued packet counts beside its content, so that short ones are bounded, too."""


def send_packet(websocket: WebSocket, packet: Any) -> None:
    """Send a packet of Engine.IO, and never block. Discards it if the connection is closed. Above
    `max_buffered` unsent bytes, closes the connection with 1013."""
    message = prepared(packet)
    try:
        if fan_out((websocket,), message)[0]:
            return
        if websocket._send_prepared(message, websocket._settings.max_buffered):
            return
    except ConnectionClosed:
        return
    websocket.close(CloseCode.TRY_AGAIN_LATER, "slow consumer")


def attachments_if_volatile(packet: Any, volatile: Collection[str]) -> int | None:
    """Return the number of attachments of a packet; None unless it is an event whose name is in
    `volatile`."""
    found = EVENT_NAME.match(packet.data) if isinstance(packet.data, str) else None
    if found is None or found[2] not in volatile:
        return None
    return int(found[1] or 0)


def size_of(packet: Any) -> int:
    """Return the bytes that a packet counts while it is queued."""
    if packet is None:
        return 0
    data = packet.data if isinstance(packet.data, str | bytes) else packet.encode()
    return PACKET_OVERHEAD_BYTES + len(data)


def prepared(packet: Any) -> PreparedMessage:
    """Return a packet as a message. It is encoded and framed once for all its recipients.

    The packet's own cache is not used for binary packets: it may hold the base64 form, which is
    for clients that poll.
    """
    message: PreparedMessage | None = getattr(packet, "prepared", None)
    if message is None:
        message = PreparedMessage(packet.data if packet.binary else packet.encode())
        packet.prepared = message
    return message


def is_close(packet: Any) -> bool:
    return bool(packet.packet_type == engineio_packet.CLOSE)


def noop() -> Any:
    """Return a packet that only ends a poll."""
    return engineio_packet.Packet(engineio_packet.NOOP)


def is_noop(packet: Any) -> bool:
    return packet is not None and packet.packet_type == engineio_packet.NOOP
