"""The test's end of a connection: writes and reads bytes, with a limit for every wait."""

from __future__ import annotations

import socket
from collections.abc import Callable

from .waiting import Waits

RECEIVE_SIZE = 1 << 18


class Stream:
    """A non-blocking socket. `on_data` is called with received bytes, and with b"" at the end."""

    def __init__(self, sock: socket.socket, waits: Waits, on_data: Callable[[bytes], None]) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._waits = waits
        self._unsent = bytearray()
        self.on_data: Callable[[bytes], None] = on_data
        self.is_reading: bool = True
        self.has_ended: bool = False

    async def write(self, data: bytes, until: float) -> bool:
        """Send bytes, and meanwhile read those that arrive: both ends may send at the same time.
        Returns False if the application has not read all of them by `until`."""
        self.write_now(data)
        while self._unsent and not self.has_ended:
            if not await self._waits.ready(self._sock, self.is_reading, True, until):
                return False
            if self.is_reading:
                self.read_now()
            self.write_now(b"")
        return True

    def write_now(self, data: bytes) -> None:
        """Send as many bytes as possible without waiting; `write` sends the rest."""
        self._unsent += data
        try:
            while self._unsent and not self.has_ended:
                del self._unsent[: self._sock.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:  # the application has closed; its data can still be read
            self._unsent.clear()

    async def read(self, until: float) -> bool:
        """Wait for bytes and read them. Returns False if none have arrived by `until`."""
        if not await self._waits.ready(self._sock, True, False, until):
            return False
        self.read_now()
        return True

    def read_now(self) -> None:
        """Read once, without waiting."""
        if self.has_ended:
            return
        try:
            data = self._sock.recv(RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.on_data(data)
        else:
            on_data = self.on_data
            self.close()
            on_data(b"")

    def end_output(self) -> None:
        """Send no more; the application reads the end of the connection."""
        if not self.has_ended:
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.has_ended = True
        self.on_data = _ignore  # leaves no cycle of references to the garbage collector
        self._sock.close()


def _ignore(_: bytes) -> None:
    """Take the place of `on_data` when no more data can arrive."""
