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


class Sender:
    """Sends packets to one WebSocket, and never blocks.

    Above `high_water` unsent bytes, events whose name is in `volatile` are dropped. Above
    `max_buffered` unsent bytes, the connection is closed with 1013.
    """

    __slots__ = ("_attachments_to_drop", "_volatile", "_websocket")

    def __init__(self, websocket: WebSocket, volatile: Collection[str]) -> None:
        self._websocket = websocket
        self._volatile = volatile
        self._attachments_to_drop: int = 0

    def send(self, packet: Any) -> None:
        """Send a packet of Engine.IO. Discards it if the connection is closed."""
        websocket = self._websocket
        if (self._volatile or self._attachments_to_drop) and self._is_dropped(packet):
            return
        message = prepared(packet)
        try:
            if fan_out((websocket,), message)[0]:
                return
            if websocket._send_prepared(message, websocket._settings.max_buffered):
                return
        except ConnectionClosed:
            return
        websocket.close(CloseCode.TRY_AGAIN_LATER, "slow consumer")

    def _is_dropped(self, packet: Any) -> bool:
        """Whether to drop a packet: a volatile event for a slow client, or its attachment."""
        if packet.binary:
            is_dropped = self._attachments_to_drop > 0
            self._attachments_to_drop -= is_dropped
            return is_dropped
        self._attachments_to_drop = 0
        websocket = self._websocket
        if websocket.buffered_amount <= websocket._settings.high_water:
            return False
        found = EVENT_NAME.match(packet.data) if isinstance(packet.data, str) else None
        if found is None or found[2] not in self._volatile:
            return False
        self._attachments_to_drop = int(found[1] or 0)
        return True


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
