"""gunicorn's threaded worker writes to no descriptor that it has closed."""

from __future__ import annotations

import os
import sys

import pytest
from gunicorn.workers.gthread import PollableMethodQueue

from websocket_handler.servers.gunicorn_threads import forget_closed_pipes


def test_closed_queue_of_gunicorn_writes_to_no_other_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "gunicorn.workers.gthread")
        forget_closed_pipes()  # before the worker is imported
    forget_closed_pipes()
    queue = PollableMethodQueue()
    queue.init()
    numbers = {queue._read_fd, queue._write_fd}
    queue.close()
    other = PollableMethodQueue()  # gets the same numbers
    other.init()
    try:
        assert {other._read_fd, other._write_fd} == numbers
        queue.defer(lambda: None)
        os.write(other._write_fd, b"x")
        assert os.read(other._read_fd, 10) == b"x"
    finally:
        other.close()
