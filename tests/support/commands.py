"""Shell commands of the documentation that serve on a port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .ports import listens
from .programs import wait_for

START_TIMEOUT_S = 30.0


def environment() -> dict[str, str]:
    """The environment of a shell in which the virtual environment is active."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def serving(command: str, folder: Path, port: int) -> Iterator[Callable[[], str]]:
    """Run a command in a folder until it serves on the port; gives a function that returns its
    log. At the end its whole process group is ended."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()
        return listens(port)

    try:
        wait_for(is_ready, f"{command} to serve", START_TIMEOUT_S)
        yield log.read_text
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ask all processes of the group to end; kill those that do not."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
