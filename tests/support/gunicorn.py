"""The worker processes of a gunicorn that a test has started."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

from .programs import Program, wait_for


def workers(program: Program) -> list[int]:
    """The process IDs of the program's children, whichever of its threads started them."""
    children: list[str] = []
    for task in Path("/proc", str(program.pid), "task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            children += (task / "children").read_text().split()
    return [int(pid) for pid in children]


def wait_for_signal_handlers(program: Program) -> None:
    """Wait until a signal to gunicorn ends all of its workers.

    A worker that gets SIGTERM before it has its own handlers runs those of its parent and goes on;
    gunicorn then waits for it for 30 s.
    """
    wait_for(lambda: all(map(has_signal_handlers, workers(program))), "workers to handle signals")


def has_signal_handlers(worker: int) -> bool:
    """Whether the worker has replaced its parent's handlers, which catch SIGHUP."""
    with contextlib.suppress(OSError):  # the worker has just ended
        status = Path("/proc", str(worker), "status").read_text()
        (caught,) = re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        return not int(caught, 16) & 1 << (signal.SIGHUP - 1)
    return False
