"""TCP keep-alive: the kernel detects dead peers in protocol versions that have no pings."""

from __future__ import annotations

import socket

from ..settings import Settings

LONGEST = 32767
"""Seconds: the maximum of TCP's keep-alive options."""


def keep_alive(sock: socket.socket | None, settings: Settings) -> None:
    """Make the kernel detect a dead peer within the time that keep-alive pings would take."""
    interval = settings.ping_interval
    if interval is None or sock is None:
        return
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    silence, step = (min(seconds, LONGEST) for seconds in (interval, settings.ping_timeout))
    options = {
        "TCP_KEEPIDLE": silence,
        "TCP_KEEPINTVL": step / 4,
        "TCP_KEEPCNT": 4,
        "TCP_USER_TIMEOUT": (silence + step) * 1000,  # while sent data is not acknowledged
    }
    for name, value in options.items():
        if hasattr(socket, name):
            option = getattr(socket, name)
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value)))
