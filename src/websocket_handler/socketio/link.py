"""The WebSocket of one Engine.IO session: from the probe of an upgrade to the end."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from typing import Any, Protocol

from engineio import exceptions
from engineio import packet as engineio_packet

from ..settings import Settings
from ..websocket import WebSocket
from .packets import Sender, is_close, noop

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
    volatile: Collection[str]

    def call_later(self, delay: float, call: Callable[[], object]) -> None: ...


class Link:
    """Connects a WebSocket with its session, the `Socket` of python-engineio.

    The listeners of the WebSocket pass its messages to the session. The session's outbox sends its
    packets to `send` once the upgrade is complete.
    """

    __slots__ = ("_driver", "_sender", "_stage", "session", "websocket")

    def __init__(self, driver: Driver, session: Any, websocket: WebSocket) -> None:
        self._driver = driver
        self.session: Any = session
        self.websocket: WebSocket = websocket
        self._sender = Sender(websocket, driver.volatile)
        self._stage = Stage.OPEN

    def connect(self) -> Any:
        """Complete the handshake of the WebSocket. Returns the result of its `connect()`."""
        session = self.session
        if session.connected:
            self._stage = Stage.PROBE
            session.upgrading = True
            self._driver.call_later(UPGRADE_TIMEOUT_S, self._upgrade_expired)
        else:
            session.connected = session.upgraded = True
        self._listen()
        try:
            result = self.websocket.connect(settings=self._driver.settings)
        except BaseException:
            session.upgrading = False
            raise
        if self._stage is Stage.OPEN:
            session.queue.switch_to(self)
        return result

    def send(self, packet: Any) -> None:
        """Send a packet; None and a CLOSE packet close the WebSocket."""
        if packet is not None:
            self._sender.send(packet)
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
            self.session.upgrading = False

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
        if self._stage is Stage.PROBE and kind == engineio_packet.PING and packet.data == "probe":
            self._stage = Stage.UPGRADE
            self._sender.send(engineio_packet.Packet(engineio_packet.PONG, data="probe"))
            self._end_poll()
        elif self._stage is Stage.UPGRADE and kind == engineio_packet.UPGRADE:
            self._stage = Stage.OPEN
            self.session.upgraded = True
            self.session.upgrading = False
            self.session.queue.switch_to(self)
        else:
            self._driver.eio.logger.info("%s: Failed websocket upgrade", self.session.sid)
            self.session.upgrading = False
            self.websocket.close()

    def _end_poll(self) -> None:
        self.session.queue.put_nowait(noop())

    def _upgrade_expired(self) -> None:
        if self._stage is not Stage.OPEN:
            self.session.upgrading = False
            self.websocket.close()

    def _decoded(self, message: str | bytes) -> Any:
        """Return the packet in a message; None if it is malformed."""
        try:
            return engineio_packet.Packet(encoded_packet=message)
        except Exception as error:
            self._driver.eio.logger.info("%s: Malformed packet: %s", self.session.sid, error)
            return None
