"""The private directory with the sockets on which old processes wait for new ones, and the pipes
with the facts of the connections that they move."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

VARIABLE = "WEBSOCKET_HANDLER_RUNTIME_DIR"
"""The environment variable that names the directory, which is created if it does not exist."""

PIPE_SUFFIX = ".facts"

NAME = re.compile(r"[0-9a-f]{16}(\.facts)?", re.ASCII)
"""The name of a socket, or of a pipe, in the directory: nothing else can be opened."""

MAX_STALE_FILES = 512
"""Files of processes that were killed, which one call of `remove_stale` examines at most."""


class Directory(NamedTuple):
    """The open directory."""

    descriptor: int

    def path(self, name: str) -> str:
        """Return a path of the file `name` that is short, and stays in this very directory."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a file of this library")
        return f"/proc/self/fd/{self.descriptor}/{name}"

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self.descriptor)

    def remove_stale(self) -> None:
        """Remove sockets on which no process listens any more, and pipes that none has open."""
        for name in os.listdir(self.descriptor)[:MAX_STALE_FILES]:  # noqa: PTH208 (of a descriptor)
            if NAME.fullmatch(name):
                is_stale = _is_stale_pipe if name.endswith(PIPE_SUFFIX) else _is_stale_socket
                if is_stale(self.path(name)):
                    self.remove(name)


@contextlib.contextmanager
def open_directory(create: bool = False) -> Iterator[Directory]:
    """Open the directory.

    Raises `OSError` if there is none, and `PermissionError` if another user owns it or may use it.
    """
    path = _path()
    if create:
        with contextlib.suppress(FileExistsError):
            path.mkdir(0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(f"{path} must belong to this user, with mode 0700")
        yield Directory(descriptor)
    finally:
        os.close(descriptor)


def _is_stale_socket(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
        return False


def _is_stale_pipe(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as error:
        return error.errno == errno.ENXIO  # nobody can read it
    return False


def _path() -> Path:
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir() and Path(runtime).stat().st_uid == os.geteuid():
        return Path(runtime, "websocket-handler")
    return Path(tempfile.gettempdir(), f"websocket-handler-{os.geteuid()}")
