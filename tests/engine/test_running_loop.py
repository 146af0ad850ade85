"""Which callers must not wait, because they run in an event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from websocket_handler.engine.running_loop import is_in_event_loop

BESIDE_A_LOOP_IN_A_GREENLET = """
from gevent import monkey
monkey.patch_all()
import asyncio, threading
from websocket_handler.engine.running_loop import is_in_event_loop

started, seen = threading.Event(), []

async def main():
    seen.append(is_in_event_loop())
    started.set()
    while len(seen) < 2:
        await asyncio.sleep(0.01)

thread = threading.Thread(target=asyncio.run, args=[main()])
thread.start()
started.wait(10)
seen.append(is_in_event_loop())
thread.join(10)
print(seen)
"""


def test_a_coroutine_runs_in_an_event_loop_its_thread_otherwise_not() -> None:
    async def ask() -> bool:
        return is_in_event_loop()

    assert asyncio.run(ask())
    assert not is_in_event_loop()


def test_a_greenlet_beside_that_of_an_event_loop_is_outside_of_it() -> None:
    command = [sys.executable, "-c", BESIDE_A_LOOP_IN_A_GREENLET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[True, False]\n", done.stderr
