"""The process that `python -m websocket_handler keep` runs: see `keeping`.

Its standard input is the socket on which the process that ends gives it connections. It has no
other input: it reads no socket of a client, and accepts nothing but the new process's requests for
the connections.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import socket
import stat
import sys
import time
from collections import deque
from typing import Any

from ..protocol.close_codes import CloseCode
from .description import Description
from .directory import open_directory
from .giving import MOVED, REFUSED_REASON, Answer, SendEnd, SendState
from .keeping import MAX_KEEP_S, START_TIMEOUT_S
from .messages import NotMoved, is_of_same_user, receive, send, to_file
from .repeating import NOBODY_LISTENS, WaitingSocket
from .state import UnknownFormat
from .taking import Taken, take

MAX_CONNECTIONS = 100_000
MAX_BYTES = 1 << 28
"""The data of all connections together: unsent, and received but not delivered."""

MAX_ATTEMPTS = 3
"""Attempts to move one connection to a process that has answered."""

RETRY_AFTER_S = 0.05
END_TIMEOUT_S = 2.0
"""Seconds that clients have to read the close frame."""


class Kept:
    """A connection that the keeper has. Implements `Owner`."""

    def __init__(self, description: Description, taken: Taken) -> None:
        self.description = description
        self.taken = taken
        self.attempts = 0
        """Attempts that a process has not completed."""

    @property
    def size(self) -> int:
        return len(self.taken.state.data) + len(self.taken.released.data)

    def suspend(self, send_state: SendState) -> None:
        send_state(self.taken.sock.fileno(), self.taken.state)

    def release(self, send_end: SendEnd) -> None:
        data = self.taken.released.data
        files = [to_file(data)] if data else []
        send_end(self.taken.released.to_json(), files)
        for file in files:
            os.close(file)

    def resume(self) -> None:
        """Nothing has changed."""

    def last_bytes(self, code: int, reason: str) -> bytes:
        """Return what is unsent, and a close frame."""
        facts = self.description.facts
        encoder = facts.version._make_encoder(False, facts.secret)
        unsent = self.taken.state.output + self.taken.released.late
        return unsent + encoder.close(code, reason)


class Ending:
    """The closing of one socket: the last bytes are sent, and what arrives is discarded. A socket
    that is closed with unread data resets the connection, and the close frame could be lost."""

    def __init__(self, sock: socket.socket, last: bytes) -> None:
        self._sock = sock
        self._unsent = memoryview(last)
        sock.setblocking(False)

    @property
    def events(self) -> int:
        return select.POLLIN | (select.POLLOUT if self._unsent else 0)

    def has_ended(self) -> bool:
        """Go on, after an event. Returns whether the peer has closed the connection, too."""
        try:
            self._send()
            while_open = bool(self._sock.recv(1 << 16))
        except BlockingIOError:
            return False
        except OSError:
            while_open = False
        if not while_open:
            self._sock.close()
        return not while_open

    def _send(self) -> None:
        if self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            if not self._unsent:
                self._sock.shutdown(socket.SHUT_WR)


class Keeper:
    """Takes connections, moves them, and closes the rest."""

    def __init__(self, seconds: float, window: float, refused_code: int) -> None:
        self._deadline = time.monotonic() + min(seconds, MAX_KEEP_S)
        self._window = min(window, MAX_KEEP_S)
        self._refused_code = refused_code
        self._kept: deque[Kept] = deque()
        self._size = 0
        self._has_answer = False
        self._ending: dict[int, Ending] = {}
        self._poll = select.poll()

    def take_all(self, giver: socket.socket) -> None:
        """Take connections until the process that ends has given all of them."""
        while (left := self._deadline - time.monotonic()) > 0:
            try:
                received = receive(giver, left)
            except NotMoved:
                return
            if received.descriptors:
                with socket.socket(fileno=received.descriptors.pop()) as exchange:
                    self._take(exchange, received.fields)
            received.close()

    def _take(self, exchange: socket.socket, fields: dict[str, Any]) -> None:
        """Take one connection, unless the process that ends keeps it."""
        try:
            description = Description.from_json(fields)
            if len(self._kept) >= MAX_CONNECTIONS or self._size > MAX_BYTES:
                send(exchange, {"kept": "the keeper has too many connections"})
                return
            kept = Kept(description, take(exchange, lambda: None))
        except (NotMoved, UnknownFormat):
            return
        self._kept.append(kept)
        self._size += kept.size

    def move_all(self) -> None:
        """Move the connections to the process that listens, until the time is over."""
        with open_directory(create=True) as directory, WaitingSocket(directory) as waiting:
            while self._kept and (left := self._deadline - time.monotonic()) > 0:
                kept = self._kept.popleft()
                try:
                    answer = waiting.move(kept, kept.description, left)
                except NotMoved as reason:
                    answer = Answer(0, str(reason))
                if answer is MOVED:
                    kept.taken.sock.close()
                else:
                    self._failed(kept, answer)
                self._has_answer |= answer.status != 0

    def _failed(self, kept: Kept, answer: Answer) -> None:
        """Close the connection, or try again after the others."""
        kept.attempts += answer.status == 0 and answer is not NOBODY_LISTENS
        if answer.is_refusal:
            self._end(kept, self._refused_code, REFUSED_REASON)
        elif answer.status or (self._has_answer and kept.attempts >= MAX_ATTEMPTS):
            self._end(kept, CloseCode.SERVICE_RESTART)
        else:
            self._kept.append(kept)
            time.sleep(RETRY_AFTER_S)

    def close_all(self) -> None:
        """Close the connections that are left with 1012, spread over the window."""
        pause = self._window / max(len(self._kept), 1)
        while self._kept:
            self._end(self._kept.popleft(), CloseCode.SERVICE_RESTART)
            time.sleep(pause)
        end = time.monotonic() + END_TIMEOUT_S
        while self._ending and (left := end - time.monotonic()) > 0:
            self._go_on(left)

    def _end(self, kept: Kept, code: int, reason: str = "") -> None:
        descriptor = kept.taken.sock.fileno()
        ending = self._ending[descriptor] = Ending(kept.taken.sock, kept.last_bytes(code, reason))
        self._poll.register(descriptor, ending.events)
        self._go_on(0)

    def _go_on(self, seconds: float) -> None:
        """Wait for an event of the sockets that are being closed."""
        for descriptor, _ in self._poll.poll(seconds * 1000):
            ending = self._ending[descriptor]
            if ending.has_ended():
                self._poll.unregister(descriptor)
                del self._ending[descriptor]
            else:
                self._poll.modify(descriptor, ending.events)


def run() -> int:
    """Run the keeper; returns the exit code of the process."""
    with contextlib.ExitStack() as stack:
        try:
            giver = stack.enter_context(_giver())
        except OSError:
            sys.stderr.write("move_connections(keep=…) starts this command; it has no other use.\n")
            return 2
        _allow_many_descriptors()
        try:
            options = receive(giver, START_TIMEOUT_S).fields
            keeper = Keeper(options["keep"], options["window"], options["refused"])
        except (NotMoved, KeyError, TypeError, ValueError):
            return 1  # the process that has started it has ended
        keeper.take_all(giver)
    try:
        keeper.move_all()
    finally:
        keeper.close_all()
    return 0


def _giver() -> socket.socket:
    """Return the socket on standard input. Raises `OSError` if it is none of `KeeperLink`."""
    if not stat.S_ISSOCK(os.fstat(0).st_mode):
        raise OSError("not a socket")
    sock = socket.socket(fileno=os.dup(0))
    is_link = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not is_link or not is_of_same_user(sock):
        sock.close()
        raise OSError("not the socket of a process of this user")
    return sock


def _allow_many_descriptors() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
