"""Ports for servers that cannot choose a free port themselves."""

from __future__ import annotations

import random
import socket

CHOICE = range(15_000, 30_000)
"""Outside of the range from which the system assigns ports to connections."""


def free_port() -> int:
    """A port on which nothing listens; random, because tests run in parallel."""
    while True:
        port = random.choice(CHOICE)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def listens(port: int, host: str = "localhost") -> bool:
    """Return whether something listens on the port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0
