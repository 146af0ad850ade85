"""Processes that tests started and did not end: found by a mark in their environment."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

MARK = "WEBSOCKET_HANDLER_TESTS"
"""An environment variable that every process started by this one inherits."""


def mark_children() -> None:
    """Mark every process started from now on with this process's ID."""
    os.environ[MARK] = str(os.getpid())


def marked_processes() -> dict[int, str]:
    """Returns the command line of every running process that has the mark, by process ID."""
    mark = f"{MARK}={os.getpid()}\0".encode()
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or belongs to another user
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            is_ours = mark in (process / "environ").read_bytes() + b"\0"
            if is_ours and command and "resource_tracker" not in command:
                found[int(process.name)] = command
    found.pop(os.getpid(), None)
    return found


def kill(processes: dict[int, str]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
