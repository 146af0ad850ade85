"""Detects that this process is one of several workers of a server.

The rooms of one process reach only its own members. That is a mistake if the server distributes the
connections over several processes.
"""

from __future__ import annotations

import gc
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

logger: logging.Logger = logging.getLogger("websocket_handler")

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that a server handles with a method of its worker or server object."""


class Workers(NamedTuple):
    """The workers among which this process is one."""

    server: str
    number: int


def find_workers() -> Workers | None:
    """Return the workers of the server that runs this process, None if it runs only this one.

    gunicorn and uvicorn are asked for their configuration: the number of processes differs from it
    for a moment when they replace workers. Other servers start their workers with
    `multiprocessing`; the processes of this one's kind with the same parent are counted then.
    """
    configured = _configured_workers()
    if configured is None:
        configured = Workers("multiprocessing", _count_multiprocessing_siblings())
    return configured if configured.number > 1 else None


def _configured_workers() -> Workers | None:
    """Return the workers of gunicorn or uvicorn, None if this process is not one of theirs."""
    for config in _configurations():
        server = type(config).__module__.partition(".")[0]
        if server in ("gunicorn", "uvicorn"):
            is_single = bool(getattr(config, "should_reload", False))
            return Workers(server, 1 if is_single else int(getattr(config, "workers", 1)))
    return None


def _configurations() -> Iterator[object]:
    """Return objects, one of which is the configuration of the server if that is known."""
    for number in SIGNALS:
        owner = getattr(signal.getsignal(number), "__self__", None)
        yield getattr(owner, "cfg", None) or getattr(owner, "config", None)
    arbiter, config = sys.modules.get("gunicorn.arbiter"), sys.modules.get("gunicorn.config")
    if arbiter is not None and config is not None:  # its ASGI worker leaves signals to its loop
        yield from (one for one in gc.get_objects() if type(one) is config.Config)


def _count_multiprocessing_siblings() -> int:
    """Return the number of processes that `multiprocessing` has started like this one: 1 or more,
    0 if it has not started this one."""
    multiprocessing = sys.modules.get("multiprocessing")
    parent = multiprocessing.parent_process() if multiprocessing is not None else None
    if parent is None:
        return 0
    ours = _command(Path("/proc/self"))
    return sum(_command(Path("/proc", child)) == ours for child in _children(parent.pid))


def _children(pid: int | None) -> list[str]:
    """Return the ids of the processes that a process has started, as the kernel lists them."""
    try:
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return []
    return " ".join(lists).split()


def _command(process: Path) -> str:
    """Return the command line of a process, without numbers: those of descriptors differ."""
    try:
        return re.sub(r"\d+", "", (process / "cmdline").read_text())
    except OSError:
        return ""


def warn_if_one_of_several() -> None:
    """Log a warning if this process is one of several workers."""
    workers = find_workers()
    if workers is not None:
        logger.warning(
            "Rooms() serves this process only, but it is one of %d workers of %s: a message does "
            "not reach the members in the other workers. Connect them with Rooms('local://NAME') "
            "on one machine, or with the URL of a broker",
            workers.number,
            workers.server,
        )
