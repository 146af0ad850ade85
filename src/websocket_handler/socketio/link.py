"""The WebSocket of one Engine.IO session: from the probe of an upgrade to the end."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import Any, Protocol

from engineio import exceptions
from engineio import packet as engineio_packet

from ..settings import Settings
from ..websocket import WebSocket
from .packets import is_close, noop, send_packet

UPGRADE_TIMEOUT_S = 10.0
"""Seconds that a client has from its handshake to the end of the upgrade."""


class Stage(Enum):
    """The stages of a link."""

    PROBE = "waits for the probe of an upgrade"
    UPGRADE = "waits for the end of the upgrade"
    OPEN = "carries the packets of the session"


class Driver(Protocol):
    """The server of a link."""

    eio: Any
    settings: Settings

    def call_later(self, delay: float, call: Callable[[], object]) -> None: ...


class Link:
    """Connects a WebSocket with its session, the `Socket` of python-engineio.

    The listeners of the WebSocket pass its messages to the session. The session's outbox sends its
    packets to `send` once the upgrade is complete. During an upgrade, the link is
    `session.upgrading`, which is a bool in python-engineio.
    """

    __slots__ = ("__weakref__", "_driver", "_stage", "session", "websocket")

    def __init__(self, driver: Driver, session: Any, websocket: WebSocket) -> None:
        self._driver = driver
        self.session: Any = session
        self.websocket: WebSocket = websocket
        self._stage = Stage.OPEN

    def connect(self) -> Any:
        """Complete the handshake of the WebSocket. Returns the result of its `connect()`."""
        session = self.session
        if session.connected:
            self._stage = Stage.PROBE
            session.upgrading = self
            expire = partial(expire_upgrade, weakref.ref(self))
            self._driver.call_later(UPGRADE_TIMEOUT_S, expire)
        else:
            session.connected = session.upgraded = True
        self._listen()
        try:
            result = self.websocket.connect(settings=self._driver.settings)
        except BaseException:
            self._end_upgrade()
            raise
        if self._stage is Stage.OPEN:
            session.queue.switch_to(self)
        return result

    def send(self, packet: Any) -> None:
        """Send a packet; None and a CLOSE packet close the WebSocket."""
        if packet is not None:
            send_packet(self.websocket, packet)
        if packet is None or is_close(packet):
            self.websocket.close()

    # Listeners of the WebSocket

    def _listen(self) -> None:
        self.websocket.on("message", self._receive)
        self.websocket.on("close", self._closed)

    def _receive(self, message: str | bytes) -> None:
        if self._stage is not Stage.OPEN:
            self._receive_upgrade(message)
            return
        packet = self._decoded(message)
        if packet is None:
            self._end()
            return
        try:
            self.session.receive(packet)
        except exceptions.UnknownPacketError:
            pass  # as in python-engineio
        except exceptions.SocketIsClosedError:
            self._end()
        except Exception:
            self._driver.eio.logger.exception("Unknown receive error")
            self._end()
        if self.session.closed:  # by a CLOSE packet
            self._forget()

    def _closed(self, *_: object) -> None:
        if self._stage is Stage.OPEN:
            self._end()
        else:  # the session goes on to poll
            self._end_upgrade()

    def _end(self) -> None:
        reason = self._driver.eio.reason.TRANSPORT_CLOSE
        self.session.close(wait=False, abort=True, reason=reason)
        self._forget()

    def _forget(self) -> None:
        """Close the WebSocket and remove the session, which is closed."""
        session, sockets = self.session, self._driver.eio.sockets
        self.websocket.close()
        if sockets.get(session.sid) is session:
            sockets.pop(session.sid, None)

    # The upgrade

    def _receive_upgrade(self, message: str | bytes) -> None:
        """Take the next step: "2probe" is answered with "3probe", then "5" ends the upgrade."""
        packet = self._decoded(message)
        kind = packet.packet_type if packet is not None else None
        if self.session.closed or self.session.upgrading is not self:
            self.break_off()
        elif self._stage is Stage.PROBE and kind == engineio_packet.PING and packet.data == "probe":
            self._stage = Stage.UPGRADE
            self.send(engineio_packet.Packet(engineio_packet.PONG, data="probe"))
            self.session.queue.put_nowait(noop())  # it ends the poll that waits
        elif self._stage is Stage.UPGRADE and kind == engineio_packet.UPGRADE:
            self._complete_upgrade()
        else:
            self._driver.eio.logger.info("%s: Failed websocket upgrade", self.session.sid)
            self.break_off()

    def _complete_upgrade(self) -> None:
        session = self.session
        self._stage = Stage.OPEN
        session.upgraded = True
        self._end_upgrade()
        session.queue.switch_to(self)
        if session.closed:  # meanwhile; the last poll may have taken the None that closes
            self._forget()

    def _end_upgrade(self) -> None:
        """Let the session upgrade again, unless another link of it does already."""
        if self.session.upgrading is self:
            self.session.upgrading = False

    def break_off(self) -> None:
        """Close the WebSocket, unless the upgrade is complete. The session goes on to poll."""
        if self._stage is not Stage.OPEN:
            self._end_upgrade()
            self.websocket.close()

    def _decoded(self, message: str | bytes) -> Any:
        """Return the packet in a message; None if it is malformed."""
        self.session.queue.count_received(len(message), isinstance(message, bytes))
        try:
            return engineio_packet.Packet(encoded_packet=message)
        except Exception as error:
            self._driver.eio.logger.info("%s: Malformed packet: %s", self.session.sid, error)
            return None


def expire_upgrade(reference: weakref.ref[Link]) -> None:
    """End an upgrade that is not complete in time."""
    link = reference()
    if link is not None:
        link.break_off()
