"""Dead peers found by the kernel, in versions of the protocol that have no pings."""

from __future__ import annotations

import socket

from ..settings import Settings

LONGEST = 32767
"""Seconds: the most that TCP can be asked for."""


def keep_alive(sock: socket.socket | None, settings: Settings) -> None:
    """Have the kernel find out whether the peer is dead, in the time that pings would take."""
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
        "TCP_USER_TIMEOUT": (silence + step) * 1000,  # where what we have sent is not taken
    }
    for name, value in options.items():
        if hasattr(socket, name):
            option = getattr(socket, name)
            sock.setsockopt(socket.IPPROTO_TCP, option, max(1, round(value)))
