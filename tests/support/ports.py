"""Ports for servers that cannot be told to choose one."""

from __future__ import annotations

import random
import socket

CHOICE = range(15_000, 30_000)
"""None of those that the system gives to connections, which one could lose to."""


def free_port() -> int:
    """One that nobody listens on; at random, because tests run at the same time."""
    while True:
        port = random.choice(CHOICE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
