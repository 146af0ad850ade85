"""Connecting to the first address of a host that accepts ("Happy Eyeballs", RFC 8305)."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections import deque
from collections.abc import Sequence

from ..errors import ConnectionFailed
from .network import AddressInfo, Network

ATTEMPT_DELAY_S = 0.25
"""Seconds after which the next address is tried, while the former ones have not answered."""

MAX_ADDRESSES = 20
"""The maximum number of addresses of a host that are tried."""

PENDING = (0, errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS))


async def open_connection(
    network: Network, host: str, port: int, local_address: tuple[str, int] | None = None
) -> socket.socket:
    """Return a connected, non-blocking socket to `host`.

    Tries its addresses in turn, IPv6 and IPv4 alternately, without waiting for one that does not
    answer. Raises `ConnectionFailed` if none accepts, `TimeoutError` if none does in time.
    """
    place = f"{host}:{port}"
    try:
        found = parse_address(host, port) or await network.resolve(host, port)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        number = getattr(error, "errno", None)
        raise ConnectionFailed(f"cannot resolve the name {host}: {reason}", number) from error
    return await _race(network, Attempts(alternating(found), local_address), place)


async def open_unix_connection(
    network: Network, path: str | bytes | os.PathLike[str]
) -> socket.socket:
    """Return a connected, non-blocking socket to the Unix socket at `path`."""
    address = os.fspath(path)
    info = (socket.AF_UNIX, socket.SOCK_STREAM, 0, "", address)
    return await _race(network, Attempts([info]), os.fsdecode(address))


def parse_address(host: str, port: int) -> Sequence[AddressInfo]:
    """Return the address that `host` itself is; nothing if it is a name."""
    try:
        numeric = socket.AI_NUMERICHOST
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)
    except OSError:
        return ()


async def _race(network: Network, attempts: Attempts, place: str) -> socket.socket:
    try:
        while attempts.begin_next():
            next_start = time.monotonic() + ATTEMPT_DELAY_S
            while attempts.connecting:
                left = next_start - time.monotonic() if attempts.waiting else None
                if left is not None and left <= 0:
                    break
                await network.wait(attempts.connecting, for_writing=True, timeout=left)
                failures = len(attempts.failures)
                winner = attempts.find_connected()
                if winner is not None:
                    return winner
                if len(attempts.failures) > failures and attempts.waiting:
                    break
        raise attempts.error(place)
    finally:
        attempts.close()


class Attempts:
    """The addresses of a host: those that wait, the sockets that connect, and the failures."""

    def __init__(
        self, addresses: Sequence[AddressInfo], local_address: tuple[str, int] | None = None
    ) -> None:
        self.waiting: deque[AddressInfo] = deque(addresses[:MAX_ADDRESSES])
        self.connecting: list[socket.socket] = []
        self.failures: list[OSError] = []
        self._local_address = local_address

    def begin_next(self) -> bool:
        """Begin to connect to the next address. Returns False if there is none."""
        if not self.waiting:
            return False
        family, kind, protocol, _, address = self.waiting.popleft()
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            self.failures.append(error)
            return True
        self.connecting.append(sock)
        try:
            sock.setblocking(False)
            if self._local_address is not None:
                sock.bind(self._local_address)
            number = sock.connect_ex(address)
            if number not in PENDING:
                raise OSError(number, os.strerror(number))
        except OSError as error:
            self._drop(sock, error)
        return True

    def find_connected(self) -> socket.socket | None:
        """Return a socket that is connected, which the caller owns; drop those that failed."""
        for sock in tuple(self.connecting):
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                self._drop(sock, OSError(number, os.strerror(number)))
            elif is_connected(sock):
                self.connecting.remove(sock)
                return sock
        return None

    def error(self, place: str) -> ConnectionFailed:
        """Return the error to raise if no address has accepted."""
        if not self.failures:
            return ConnectionFailed(f"cannot connect to {place}: the name has no address")
        texts = dict.fromkeys(str(error.strerror or error) for error in self.failures)
        failure = ConnectionFailed(
            f"cannot connect to {place}: {'; '.join(texts)}", self.failures[0].errno
        )
        failure.__cause__ = self.failures[0]
        return failure

    def close(self) -> None:
        for sock in self.connecting:
            sock.close()

    def _drop(self, sock: socket.socket, error: OSError) -> None:
        self.connecting.remove(sock)
        sock.close()
        self.failures.append(error)


def is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def alternating(addresses: Sequence[AddressInfo]) -> list[AddressInfo]:
    """Return the addresses with alternating families, beginning with that of the first."""
    families: dict[int, deque[AddressInfo]] = {}
    for info in addresses:
        families.setdefault(info[0], deque()).append(info)
    ordered = []
    while any(families.values()):
        ordered += [queue.popleft() for queue in families.values() if queue]
    return ordered
