"""The facts of a connection that moves, in a named pipe of the private directory.

The old process writes them before it repeats the request. So the new process never waits for it
before the application handles the request: that would block an event loop with all its connections.
A pipe keeps its data in memory, also where the directory is on a disk. The first reader takes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from .directory import PIPE_SUFFIX, Directory
from .messages import MAX_MESSAGE_BYTES, NotMoved

DEFAULT_PIPE_BYTES = 1 << 16


@contextlib.contextmanager
def facts_offered(directory: Directory, secret: str, fields: dict[str, Any]) -> Iterator[None]:
    """Have the facts in a pipe that a process finds if it knows the secret.

    Raises `NotMoved` if they are too long, and `OSError` if there can be no pipe.
    """
    data = json.dumps(fields).encode()
    name = _name_for(secret)
    os.mkfifo(directory.path(name), 0o600)
    try:
        # The pipe keeps its data while this descriptor is open
        descriptor = os.open(directory.path(name), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _write(descriptor, data)
            yield
        finally:
            os.close(descriptor)
    finally:
        directory.remove(name)


def take_facts(directory: Directory, secret: str) -> dict[str, Any]:
    """Return the facts for a secret, and remove them. Does not block.

    Raises `OSError` if no process offers them or another one has taken them, and `NotMoved` if they
    are not valid.
    """
    path = directory.path(_name_for(secret))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISFIFO(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError("not a pipe of this user")
        data = os.read(descriptor, MAX_MESSAGE_BYTES)
    finally:
        os.close(descriptor)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise NotMoved("the facts are not valid")
    return fields


def _name_for(secret: str) -> str:
    """Return the name of the pipe. A hash: names of files do not show secrets, and the time of the
    look-up reveals no part of one."""
    return hashlib.sha256(secret.encode()).hexdigest()[:16] + PIPE_SUFFIX


def _write(descriptor: int, data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise NotMoved(f"facts of {len(data)} bytes are too long")
    if len(data) > DEFAULT_PIPE_BYTES:
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, MAX_MESSAGE_BYTES)
    if os.write(descriptor, data) != len(data):
        raise NotMoved("a pipe has too little space for the facts")
