"""The WebSocket of one session of an asynchronous server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engineio import exceptions

from .direct_events import EVENT
from .link import Link, Stage

if TYPE_CHECKING:
    from .async_driver import AsyncDriver


class AsyncLink(Link):
    """A link whose session has coroutines."""

    __slots__ = ("_receive_later",)

    _driver: AsyncDriver

    def _listen(self) -> None:
        self.websocket.on("close", self._closed_async)
        if self._driver.has_direct_events:
            self._receive_later = self.websocket._callable(self._receive_async)
            self.websocket.on("message", self._receive)
        else:
            self.websocket.on("message", self._receive_async)

    def _receive(self, message: str | bytes) -> None:
        if isinstance(message, str) and message.startswith(EVENT) and self._is_idle():
            self.session.queue.count_received(len(message))
            self._driver.handle_event(self.session, message[1:])
        else:
            self._receive_later(message)

    def _is_idle(self) -> bool:
        """Whether the next packet may be handled: no earlier one waits or is being handled."""
        queue = self.websocket._async_listeners
        return self._stage is Stage.OPEN and queue is not None and not queue.is_working

    async def _receive_async(self, message: str | bytes) -> None:
        if self._stage is not Stage.OPEN:
            self._receive_upgrade(message)
            return
        packet = self._decoded(message)
        if packet is None:
            await self._end_async()
            return
        try:
            await self.session.receive(packet)
        except exceptions.UnknownPacketError:
            pass  # as in python-engineio
        except exceptions.SocketIsClosedError:
            await self._end_async()
        except Exception:
            self._driver.eio.logger.exception("Unknown receive error")
            await self._end_async()
        if self.session.closed:  # by a CLOSE packet
            self._forget()

    async def _closed_async(self, *_: object) -> None:
        if self._stage is Stage.OPEN:
            await self._end_async()
        else:  # the session goes on to poll
            self._end_upgrade()

    async def _end_async(self) -> None:
        reason = self._driver.eio.reason.TRANSPORT_CLOSE
        await self.session.close(wait=False, abort=True, reason=reason)
        self._forget()
