"""The threads of a server with hundreds of clients: none belongs to a client."""

from __future__ import annotations

import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from ..support.programs import Program
from .engineio_client import connected, receive
from .servers import serving, state, wait_for_state

CLIENTS = 300
WORKERS = 8
"""The pool of gunicorn (`--threads`)."""
HANDLERS = 4
"""The pool of event handlers (`serve(threads=…)`)."""
MAX_OTHER_THREADS = 20
"""Threads beside the pool of event handlers."""
OWNERS = {
    r"MainThread": "gunicorn",
    r"ThreadPoolExecutor-0_\d+": "workers",
    r"socketio-handler-\d+": "handlers",
    r"websocket-engine-\d+": "engine",
    r"Thread-\d+": "python-engineio",  # one that looks for sessions that have timed out
}


def owners(names: list[str]) -> Counter[str]:
    """Return the number of threads of each owner. Fails if the owner of one is unknown."""
    found: Counter[str] = Counter()
    for name in names:
        (owner,) = [owner for pattern, owner in OWNERS.items() if re.fullmatch(pattern, name)]
        found[owner] += 1
    return found


def worker_threads(program: Program) -> int:
    """Return the threads of gunicorn's worker process, as the kernel counts them."""
    path = program._proc("task") / str(program.pid) / "children"
    (worker,) = path.read_text().split()
    status = program._proc("status").parent.parent / worker / "status"
    return int(re.findall(r"^Threads:\s*(\d+)", status.read_text(), re.MULTILINE)[0])


def test_threads_do_not_grow_with_clients() -> None:
    with serving("flask-gunicorn", serve={"threads": HANDLERS}) as program, ExitStack() as stack:
        lock = threading.Lock()

        def connect(_: int) -> None:
            client = connected(program)
            opened = client.__enter__()
            with lock:
                stack.push(client)
            opened.send('421["echo"]')
            assert receive(opened) == "431[[]]"

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(connect, range(CLIENTS)))
        wait_for_state(program, websockets=CLIENTS)
        names = state(program)["thread_names"]
        assert worker_threads(program) == len(names)  # none that Python does not know
        found = owners(names)
        assert found["workers"] <= WORKERS
        assert found["python-engineio"] <= 1
        assert 1 <= found["handlers"] <= HANDLERS
        assert len(names) - found["handlers"] <= MAX_OTHER_THREADS, found
