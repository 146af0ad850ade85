"""The private directory of local:// rooms: its place, its creation and its checks.

Every process that can enter the directory can read and send messages. So it must belong to the user
of this process, and nobody else may have rights to it. It is checked through an open descriptor:
nobody can replace it between the check and its use.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from ..engine.native_locks import original
from .broker import BrokerError


class Directory(NamedTuple):
    """An open directory. The owner closes `fd`."""

    path: Path
    fd: int

    def address(self, name: str) -> str:
        """Return the address of a socket in the directory.

        The path of a Unix socket has at most 107 bytes, so it does not contain the directory's own
        path.
        """
        return f"/proc/self/fd/{self.fd}/{name}"

    def connect(self, name: str) -> socket.socket:
        """Return a non-blocking connection to a socket in the directory.

        Raises `ConnectionRefusedError` if its process has ended, or another `OSError`.
        """
        sock = new_socket()
        try:
            sock.connect(self.address(name))
        except BaseException:
            sock.close()
            raise
        return sock

    def is_in_place(self) -> bool:
        """Whether the path still names this directory."""
        try:
            return os.path.samestat(os.fstat(self.fd), os.lstat(self.path))
        except OSError:
            return False


def new_socket() -> socket.socket:
    """Return a non-blocking Unix socket, not one of gevent's: the bus runs in a real thread."""
    sock: socket.socket = original("socket", "socket")(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock


def open_directory(name: str) -> Directory:
    """Open the directory of a name, or of an absolute path, and create it if it does not exist.

    Raises `BrokerError` if that is not possible, or if the directory is not private.
    """
    if name.startswith("/"):
        path = Path(name)
    else:
        base = _base_directory()
        os.close(_open_private(base))
        path = base / name
    return Directory(path, _open_private(path))


def _base_directory() -> Path:
    """Return the directory of this user that contains the directories of all names."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        return Path(runtime, "websocket-handler")
    return Path(f"/tmp/websocket-handler-{os.geteuid()}")  # noqa: S108  (checked when opened)


def _open_private(path: Path) -> int:
    try:
        with suppress(FileExistsError):
            path.mkdir(0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise BrokerError(f"cannot use the directory {path}: {_reason(path, error)}") from error
    status = os.fstat(fd)
    reason = ""
    if status.st_uid != os.geteuid():
        reason = f"it belongs to user {status.st_uid}, and this process runs as {os.geteuid()}"
    elif status.st_mode & 0o077:
        rights = stat.filemode(status.st_mode)
        reason = f"other users have rights to it ({rights}); remove them: chmod 700 {path}"
    if reason:
        os.close(fd)
        raise BrokerError(f"the directory {path} is not private: {reason}")
    return fd


def _reason(path: Path, error: OSError) -> str:
    if path.is_symlink():
        return "it is a symbolic link"
    if isinstance(error, FileNotFoundError):
        return f"{path.parent} does not exist, or this process cannot see it"
    return error.strerror or str(error)
