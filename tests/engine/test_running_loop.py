"""Detecting that a caller runs in an event loop, where it must not block."""

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


def test_running_loop_is_found_only_within_a_coroutine() -> None:
    async def ask() -> bool:
        return is_in_event_loop()

    assert asyncio.run(ask())
    assert not is_in_event_loop()


def test_greenlet_outside_of_the_event_loop_has_no_running_loop() -> None:
    command = [sys.executable, "-c", BESIDE_A_LOOP_IN_A_GREENLET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[True, False]\n", done.stderr
