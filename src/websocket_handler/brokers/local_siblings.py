"""The Unix sockets between the processes of one directory.

Each process listens on a socket in the directory. A new process connects to all sockets that it
finds there, and each process that accepts a connection from a new one connects back. Every process
thus has a connection to every other one without watching the directory: a process cannot join
without connecting. A process sends on the connections that it has opened, and receives on those
that it has accepted. So two processes that start at once need not agree on one connection.

The connections are streams, so that one system call carries a batch of messages. SOCK_SEQPACKET
needs a call for each message, or limits a batch to the size of a packet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from selectors import EVENT_READ, BaseSelector
from weakref import WeakSet

from ..engine.forks import in_forked_child
from ..engine.native_locks import original
from .broker import BrokerError
from .local_directory import Directory, new_socket
from .local_frames import (
    HELLO,
    SUBSCRIBE,
    UNSUBSCRIBE,
    FrameReader,
    channel_frames,
    channels_of,
    frame,
)
from .local_link import Link
from .local_names import MAX_SIBLINGS, SocketNames

logger: logging.Logger = logging.getLogger("websocket_handler")

READ_BYTES = 1 << 18
"""More than the kernel stores for one Unix socket, so that one read takes everything."""

HIGH_WATER_BYTES = 1 << 22
"""Bytes queued for a sibling from which publishing waits for it."""

MAX_WAIT_S = 0.1
"""Seconds for which publishing waits for a sibling."""

CUT_OFF_AFTER_S = 1.0
"""Seconds after which a sibling that has closed its connection, but still runs, is known to have
cut this process off."""

RETRY_S = 0.1
"""Seconds until another attempt, if a sibling's queue of connections or this process's table of
descriptors is full."""

CREDENTIALS = struct.Struct("3i")  # process, user, group

Receive = Callable[[int, bytes, bytes], None]
"""Called with the kind, channel and data of a frame."""


class Sibling:
    """Another process: the connection on which it sends, and the channels that it has joined."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket: socket.socket = sock
        self.reader: FrameReader = FrameReader()
        self.name: str = ""
        self.link: Link | None = None
        self.channels: set[str] = set()

    @property
    def node(self) -> bytes | None:
        """The identity of its bus, from the name of the channel that only it joins."""
        for channel in self.channels:
            if channel.startswith("node."):
                with contextlib.suppress(ValueError):
                    return bytes.fromhex(channel[5:])
        return None


class Siblings:
    """The connections of one process to its siblings. Runs in the bus's thread."""

    def __init__(
        self,
        directory: Directory,
        prefix: str,
        max_queued: int,
        receive: Receive,
        on_end: Callable[[bytes], object],
        on_cut_off: Callable[[], object],
    ) -> None:
        """`on_end` is called with the node of a sibling that has ended, `on_cut_off` if a sibling
        has closed its connection because this process did not read."""
        self.channels: set[str] = set()
        """The channels that this process has joined."""
        self._directory = directory
        self._names = SocketNames(directory, prefix, self._warn)
        self._max_queued = max_queued
        self._receive = receive
        self._on_end = on_end
        self._on_cut_off = on_cut_off
        self._loop = asyncio.get_running_loop()
        self._links: dict[str, Link] = {}
        self._strangers: set[Link] = set()  # to siblings whose channels are not known yet
        self._siblings: dict[int, Sibling] = {}
        self._members: dict[str, set[Sibling]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._renewal: asyncio.TimerHandle | None = None
        self._warnings: set[str] = set()
        self._selector: BaseSelector = original("selectors", "DefaultSelector")()
        self._listener = new_socket()
        _all_rooms.add(self)

    # The beginning and the end

    def open(self) -> None:
        """Listen, and connect to all processes. Raises `BrokerError` if that is not possible."""
        try:
            self._names.give(self._listener)
            self._selector.register(self._listener, EVENT_READ)
            self._loop.add_reader(self._selector.fileno(), self.poll)  # type: ignore[attr-defined]
        except OSError as error:
            raise BrokerError(
                f"cannot create a socket in {self._directory.path}: {error.strerror or error}"
            ) from error
        self.connect_to_all()

    def check(self) -> None:
        """Connect to processes without a connection. Raises `BrokerError` if no process can find
        this one, because its socket has been removed."""
        try:
            if not self._directory.is_in_place():
                raise FileNotFoundError
            self._names.keep()
        except OSError as error:
            raise BrokerError(
                f"the directory {self._directory.path}, or the socket in it, has been removed"
            ) from error
        self._renew()

    def _renew_soon(self) -> None:
        if self._renewal is None:
            self._renewal = self._loop.call_later(RETRY_S, self._renew)

    def _renew(self) -> None:
        """Forget processes that have ended, remove their sockets, and connect to new ones."""
        self._renewal = None
        alive = {sibling.name for sibling in self._siblings.values()}
        for name, link in list(self._links.items()):
            if name not in alive and link.has_hung_up():
                del self._links[name]
                self._strangers.discard(link)
                link.close()
        self.connect_to_all()

    def close(self) -> None:
        self._names.withdraw()
        for timer in (*self._timers, self._renewal):
            if timer is not None:
                timer.cancel()
        for link in self._links.values():
            link.close()
        for sibling in self._siblings.values():
            sibling.socket.close()
        self._links.clear()
        self._strangers.clear()
        self._siblings.clear()
        self._members.clear()
        self._loop.remove_reader(self._selector.fileno())  # type: ignore[attr-defined]
        self._selector.close()
        self._listener.close()
        _all_rooms.discard(self)

    def abandon(self) -> None:
        """Release the parent's sockets in a forked child, which must not keep them open.

        Their descriptors are replaced by /dev/null, so that closing them later has no effect.
        """
        with open(os.devnull) as nothing:  # noqa: PTH123
            sockets = [self._listener, *(sibling.socket for sibling in self._siblings.values())]
            sockets += [link.socket for link in self._links.values()]
            for sock in sockets:
                if sock.fileno() >= 0:
                    os.dup2(nothing.fileno(), sock.fileno(), inheritable=False)

    # Connections to siblings

    def connect_to_all(self) -> None:
        """Connect to all processes to which this one has no connection."""
        for name in self._names.others():
            if name not in self._links:
                self._connect(name)

    def _warn(self, message: str) -> None:
        """Log a warning about the directory, once."""
        if message not in self._warnings:
            self._warnings.add(message)
            logger.warning(message, self._directory.path)

    def _connect(self, name: str) -> Link | None:
        """Return a new connection to a sibling, None if that is not possible (yet)."""
        try:
            sock = self._directory.connect(name)
        except ConnectionRefusedError:
            self._names.remove(name)
            return None
        except FileNotFoundError:
            return None
        except OSError:  # its queue of connections is full, or no descriptor is left
            self._renew_soon()
            return None
        if not self._is_same_user(sock):
            sock.close()
            return None
        link = self._links[name] = Link(sock, self._max_queued, self._overflowed)
        self._strangers.add(link)
        for data in channel_frames(SUBSCRIBE, sorted(self.channels)):
            link.send(data)
        link.send(frame(HELLO, b"", self._names.own.encode()))
        return link

    def _is_same_user(self, sock: socket.socket) -> bool:
        """Whether the process at the other end runs as the user of this process."""
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
        if CREDENTIALS.unpack(data)[1] == os.geteuid():
            return True
        self._warn("a process of another user connects through %s, and is refused")
        return False

    def _overflowed(self) -> None:
        self._warn("a process in %s does not read its messages; they are dropped until it does")

    def _call_later(self, delay: float, call: Callable[[], object]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            call()

        timer = self._loop.call_later(delay, run)
        self._timers.add(timer)

    # Connections from siblings

    def poll(self) -> None:
        """Process everything that has arrived. To be called before each message is sent: a
        subscription that has arrived applies to it."""
        for key, _ in self._selector.select(0):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd in self._siblings:
                self._read(self._siblings[key.fd])

    def _accept(self) -> None:
        try:
            while True:
                sock, _ = self._listener.accept()
                if len(self._siblings) >= MAX_SIBLINGS or not self._is_same_user(sock):
                    sock.close()
                    continue
                sock.setblocking(False)
                sibling = self._siblings[sock.fileno()] = Sibling(sock)
                self._selector.register(sock, EVENT_READ)
                self._read(sibling)
        except BlockingIOError:
            pass
        except OSError:  # no descriptor is left
            self._selector.unregister(self._listener)
            self._call_later(RETRY_S, self._accept_again)

    def _accept_again(self) -> None:
        self._selector.register(self._listener, EVENT_READ)

    def _read(self, sibling: Sibling) -> None:
        try:
            data = sibling.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(sibling)
            return
        try:
            for kind, channel, content in sibling.reader.feed(data):
                if kind > UNSUBSCRIBE:
                    self._receive(kind, channel, content)
                else:
                    self._control(sibling, kind, content)
        except ValueError as error:
            logger.warning("a process in %s sends %s", self._directory.path, error)
            self._lose(sibling)

    def _control(self, sibling: Sibling, kind: int, data: bytes) -> None:
        if kind == HELLO:
            self._greet(sibling, data.decode())
        elif kind == SUBSCRIBE:
            for channel in channels_of(data):
                sibling.channels.add(channel)
                self._members.setdefault(channel, set()).add(sibling)
        elif kind == UNSUBSCRIBE:
            for channel in channels_of(data):
                self._unsubscribe(sibling, channel)

    def _greet(self, sibling: Sibling, name: str) -> None:
        """Note the name of a sibling, whose channels are now known, and connect to it."""
        if not self._names.is_of_sibling(name):
            raise ValueError("an invalid name")
        sibling.name = name
        sibling.link = self._links.get(name) or self._connect(name)
        if sibling.link is not None:
            self._strangers.discard(sibling.link)

    def _unsubscribe(self, sibling: Sibling, channel: str) -> None:
        sibling.channels.discard(channel)
        members = self._members.get(channel)
        if members is not None:
            members.discard(sibling)
            if not members:
                del self._members[channel]

    def _lose(self, sibling: Sibling) -> None:
        """Forget a sibling whose connection has ended."""
        self._selector.unregister(sibling.socket)
        del self._siblings[sibling.socket.fileno()]
        sibling.socket.close()
        node = sibling.node
        for channel in list(sibling.channels):
            self._unsubscribe(sibling, channel)
        self._look_for_end(sibling)
        if node is not None and f"node.{node.hex()}" not in self._members:
            self._on_end(node)

    def _look_for_end(self, sibling: Sibling, is_last_look: bool = False) -> None:
        """Find out why a sibling has closed its connection.

        A sibling that closes one connection only still runs: it has cut this process off.
        """
        link = sibling.link or self._links.get(sibling.name)
        if link is None or link.has_hung_up():
            self._renew_soon()
        elif is_last_look:
            self._on_cut_off()
        else:
            self._call_later(CUT_OFF_AFTER_S, lambda: self._look_for_end(sibling, True))

    # Channels and messages

    def subscribe(self, channels: Sequence[str]) -> None:
        """Join channels. Messages that siblings send from now on will be received: they look for
        subscriptions before they send."""
        new = [channel for channel in channels if channel not in self.channels]
        self.channels.update(new)
        self._send_to_all(channel_frames(SUBSCRIBE, new))

    def unsubscribe(self, channels: Sequence[str]) -> None:
        self.channels.difference_update(channels)
        self._send_to_all(channel_frames(UNSUBSCRIBE, channels))

    def _send_to_all(self, frames: Iterable[bytes]) -> None:
        for data in frames:
            for link in list(self._links.values()):
                link.send(data)

    def send(self, messages: Iterable[tuple[str, int, bytes]]) -> None:
        """Send messages (channel, kind, data) to each sibling that has joined their channel.

        A sibling whose channels are not known yet receives all messages, and ignores others.
        """
        batches: dict[Link, list[bytes]] = {link: [] for link in self._strangers}
        strangers = list(batches.values())
        for channel, kind, data in messages:
            members = self._members.get(channel)
            if not members and not strangers:
                continue
            encoded = frame(kind, channel.encode(), data)
            for batch in strangers:
                batch.append(encoded)
            for sibling in members or ():
                link = sibling.link or self._links.get(sibling.name)
                if link is not None and link not in self._strangers:
                    batches.setdefault(link, []).append(encoded)
        for link, batch in batches.items():
            link.send(b"".join(batch))

    async def wait_for_slow(self) -> None:
        """Wait for siblings that read, but slower than this process sends.

        Waits at most `MAX_WAIT_S`, and never for a sibling that has read nothing for so long.
        """
        end = self._loop.time() + MAX_WAIT_S
        for link in list(self._links.values()):
            left = end - self._loop.time()
            if link.queued > HIGH_WATER_BYTES and not link.is_stalled and left > 0:
                await link.until_read(HIGH_WATER_BYTES, left)


_all_rooms: WeakSet[Siblings] = WeakSet()


@in_forked_child
def _abandon_sockets() -> None:
    for siblings in list(_all_rooms):
        siblings.abandon()
        _abandoned.append(siblings)
    _all_rooms.clear()


_abandoned: list[Siblings] = []
"""Objects of the parent process, kept in a forked child so that nothing of them is closed."""
