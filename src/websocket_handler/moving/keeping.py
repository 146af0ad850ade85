"""The keeper: a process that has the connections while no process listens.

The process that ends starts it, and gives it each connection with the exchange of a move. The
keeper asks the next process for each of them, as the old process would have done. It does not read
the sockets: what the peers send waits in the kernel.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from .description import Description
from .giving import Answer, Owner, give
from .messages import NotMoved, receive, send

VARIABLE = "WEBSOCKET_HANDLER_KEEP"
"""The environment variable with the default of `keep`, in seconds."""

MAX_KEEP_S = 60.0

START_TIMEOUT_S = 15.0
"""Seconds that the keeper has to start, and to reply."""

_started: list[subprocess.Popen[bytes]] = []
"""Keepers, which outlive this process."""


def seconds_to_keep(keep: float | None) -> float:
    """Return the value of `keep`. Raises `ValueError` if it is not between 0 and 60 seconds."""
    seconds = float(os.environ.get(VARIABLE) or 0) if keep is None else keep
    if not 0 <= seconds <= MAX_KEEP_S:
        raise ValueError(f"keep is {seconds:g}: it must be between 0 and {MAX_KEEP_S:g} seconds")
    return seconds


class KeeperLink:
    """Gives connections to a keeper, one after the other."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def start(cls, seconds: float, window: float, refused_code: int) -> KeeperLink:
        """Start a keeper. Raises `OSError` if that is not possible."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                _started.append(_start(theirs))
            send(ours, {"keep": seconds, "window": window, "refused": refused_code})
        except (NotMoved, OSError) as error:
            ours.close()
            raise OSError(f"the keeper has not started: {error}") from None
        return cls(ours)

    def close(self) -> None:
        """The keeper has all connections: it may move them."""
        self._sock.close()

    def move(self, owner: Owner, description: Description, seconds: float) -> Answer:
        """Give a connection to the keeper. Raises `NotMoved` if this process keeps it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:  # an exchange that fails does not confuse the next one
            with theirs:
                send(self._sock, description.to_json(), [theirs.fileno()])
            asked = receive(ours, min(seconds, START_TIMEOUT_S))
            asked.close()
            if "take" not in asked.fields:
                raise NotMoved(str(asked.fields.get("kept", "the keeper does not take it")))
            return give(ours, owner)


def _start(stdin: socket.socket) -> subprocess.Popen[bytes]:
    """Start a keeper in a session of its own: signals for this process's group do not end it."""
    if not sys.executable:
        raise OSError("sys.executable is empty")
    return subprocess.Popen(
        [sys.executable, "-m", "websocket_handler", "keep"],
        stdin=stdin.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
