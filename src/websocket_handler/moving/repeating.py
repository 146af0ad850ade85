"""Repeats the request of a connection, so that the new process asks for the connection itself."""

from __future__ import annotations

import hmac
import secrets
import select
import socket
import time
from typing import Any

from ..protocol.request import head
from .arrivals import HEADER, own_names
from .description import Description
from .directory import Directory
from .facts_pipe import facts_offered
from .giving import READY_TIMEOUT_S, Answer, Owner, pass_on
from .messages import NotMoved, is_of_same_user, receive

HANDLER_TIMEOUT_S = 10.0
"""Seconds that the new application has to handle a request."""

NOT_IN_REPEATED = frozenset(("content-length", "transfer-encoding", HEADER.lower()))
"""Fields of a request that are not repeated: the third key of some versions was its body."""

NOBODY_LISTENS = Answer(0, "no process listens")


class WaitingSocket:
    """A socket on which one thread waits for the new process, one connection after the other."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._name = secrets.token_hex(8)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def __enter__(self) -> WaitingSocket:
        own_names.add(self._name)
        try:
            self._listener.bind(self._directory.path(self._name))
            self._listener.listen(8)
            self._listener.setblocking(False)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        own_names.discard(self._name)
        self._listener.close()
        self._directory.remove(self._name)

    def move(self, owner: Owner, description: Description, seconds: float) -> Answer:
        """Repeat the request, and pass the connection to the process that asks for it. That must
        happen within `seconds`."""
        address, facts, request = description
        handler_timeout = min(HANDLER_TIMEOUT_S, seconds)
        secret = secrets.token_hex(16)
        fields = [
            (name, value)
            for name, value in request.headers.fields()
            if name.lower() not in NOT_IN_REPEATED
        ]
        fields.append((HEADER, f"{self._name}:{secret}"))
        try:
            repeated = head(f"GET {request.target} HTTP/1.1", fields)
            with (
                facts_offered(self._directory, secret, facts.to_json()),
                _connect(address, seconds) as connection,
            ):
                connection.sendall(repeated)
                with self._wait(connection, secret, time.monotonic() + seconds) as sock:
                    return pass_on(sock, owner, handler_timeout)
        except (ConnectionRefusedError, FileNotFoundError):
            return NOBODY_LISTENS
        except (OSError, UnicodeEncodeError) as error:
            return Answer(0, str(error))

    def _wait(self, connection: socket.socket, secret: str, end: float) -> socket.socket:
        """Return the exchange with the process that has received the request. Raises `OSError` if
        it answers without asking for the connection, or in time."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(connection, select.POLLIN)
        while True:
            left = end - time.monotonic()
            ready = dict(poll.poll(max(left, 0) * 1000))
            if not ready:
                raise TimeoutError("no process has answered")
            if self._listener.fileno() in ready:
                sock = self._accept(secret)
                if sock is not None:
                    return sock
            elif connection.fileno() in ready:
                status = connection.recv(100).partition(b"\r\n")[0].decode("latin-1")
                raise ConnectionError(f"the answer was {status!r}")

    def _accept(self, secret: str) -> socket.socket | None:
        """Accept the exchange. Returns None if the other process may not have the connection."""
        try:
            sock = self._listener.accept()[0]
        except OSError:
            return None
        try:
            if is_of_same_user(sock):
                received = receive(sock, READY_TIMEOUT_S)
                received.close()
                shown = str(received.fields.get("secret")).encode()
                if hmac.compare_digest(shown, secret.encode()):
                    return sock
        except (NotMoved, OSError):
            pass
        sock.close()
        return None


def _connect(address: Any, seconds: float) -> socket.socket:
    """Connect to the address on which this process has accepted a client."""
    family = socket.AF_UNIX
    if isinstance(address, tuple):
        family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(seconds, 0.001))
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock
