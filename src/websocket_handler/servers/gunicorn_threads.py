"""Keeps the end of gunicorn's threaded worker away from the descriptors of WebSockets.

The worker closes the pipe by which request threads wake it, and keeps the numbers of its ends. A
handler that returns later, while `worker_exit` closes or moves WebSockets, writes a zero byte to
the old number, which may be the descriptor of a socket by then.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

NO_DESCRIPTOR = -1
"""Writing to it fails with EBADF, which the worker ignores."""


def forget_closed_pipes() -> None:
    """Make gunicorn's threaded worker forget the descriptors that it closes, if it is in use."""
    module: Any = sys.modules.get("gunicorn.workers.gthread")
    queue = getattr(module, "PollableMethodQueue", None)
    if queue is not None:
        _forget_when_closed(queue)


@functools.cache
def _forget_when_closed(queue: Any) -> None:
    close = queue.close

    def close_and_forget(self: Any) -> None:
        closed = copy.copy(self)
        self._read_fd = self._write_fd = NO_DESCRIPTOR
        close(closed)

    queue.close = close_and_forget
