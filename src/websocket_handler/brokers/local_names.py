"""The names of the sockets in the directory of local:// rooms.

A name has three parts: the prefix of the rooms, the identity of the running kernel, and a random
number. A socket gets its name only when it listens. If a connection to it is refused, its process
has ended, and its name, which no other process uses, can be removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .local_directory import Directory

MAX_SIBLINGS = 1024

TEMPORARY_S = 60.0
"""Age in seconds of a socket without its final name, from which it may be removed."""

HEX_NAME = re.compile(r"[0-9a-f]{16}")


class SocketNames:
    """The name of this process's socket, and those of other processes."""

    def __init__(self, directory: Directory, prefix: str, warn: Callable[[str], None]) -> None:
        """`warn` logs a message that contains %s in the place of the directory."""
        self._directory = directory
        self._prefix = _shortened(prefix)
        self._stem = f"{self._prefix}.{_boot_id()}"
        self._warn = warn
        self.own: str = f"{self._stem}.{os.urandom(8).hex()}"
        """The name of this process's socket."""

    def give(self, listener: socket.socket) -> None:
        """Let a socket listen, and then give it the name. Raises `OSError`."""
        temporary, directory = f"{self.own}.new", self._directory.fd
        listener.bind(self._directory.address(temporary))
        listener.listen(MAX_SIBLINGS)
        os.rename(temporary, self.own, src_dir_fd=directory, dst_dir_fd=directory)

    def keep(self) -> None:
        """Renew the age of the name, so that nothing that cleans by age removes it.

        Raises `OSError` if it has been removed.
        """
        os.utime(self.own, dir_fd=self._directory.fd)

    def withdraw(self) -> None:
        self.remove(self.own)
        self.remove(f"{self.own}.new")

    def remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._directory.fd)

    def is_of_sibling(self, name: str) -> bool:
        """Whether a process of this kernel, with this prefix, may have the name."""
        return name.startswith(f"{self._stem}.") and _is_socket_name(name)

    def others(self) -> Iterator[str]:
        """Give the names of the other processes, and remove those that no process can use."""
        for name in os.listdir(self._directory.fd):  # noqa: PTH208  (a descriptor)
            if self.is_of_sibling(name):
                if name != self.own:
                    yield name
            elif name.startswith(f"{self._stem}."):
                if name.endswith(".new") and self._age(name) > TEMPORARY_S:
                    self.remove(name)
            elif name.startswith(f"{self._prefix}.") and _is_socket_name(name):
                self._look_at_other_machine(name)

    def _look_at_other_machine(self, name: str) -> None:
        """A socket of an earlier boot is removed. A newer one belongs to another machine."""
        if self._age(name) > time.clock_gettime(time.CLOCK_BOOTTIME):
            self.remove(name)
        else:
            self._warn(
                "processes of another machine use the directory %s: Unix sockets do not connect "
                "machines, use redis:// or nats://"
            )

    def _age(self, name: str) -> float:
        """Return the age of a socket in seconds; 0 if there is no such socket."""
        try:
            status = os.stat(name, dir_fd=self._directory.fd, follow_symlinks=False)
        except OSError:
            return 0.0
        return time.time() - status.st_mtime if stat.S_ISSOCK(status.st_mode) else 0.0


def _boot_id() -> str:
    """Return the identity of the running kernel: its Unix sockets connect no other one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text()[:8]


def _shortened(prefix: str) -> str:
    """Return a prefix that fits into the path of a socket."""
    digest = hashlib.sha256(prefix.encode()).hexdigest()[:16]
    return prefix if len(prefix) <= 32 else f"{prefix[:16]}{digest}"


def _is_socket_name(name: str) -> bool:
    return name.count(".") == 2 and bool(HEX_NAME.fullmatch(name.rpartition(".")[2]))
