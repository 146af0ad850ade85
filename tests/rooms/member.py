"""A process that publishes to a room and records the received messages; for test_outage.py.

It starts on a line on standard input, and writes its progress and finally its records to standard
output as lines of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter

from websocket_handler.bus.bus import Bus
from websocket_handler.bus.settings import History
from websocket_handler.errors import BusUnavailable

from .recorder import Recorder

ROOM = "the room"


class TimedRecorder(Recorder):
    """Also records the time of each message."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def deliver(
        self, room: str, message: str | bytes, key: str | None, offset: str | None, context: object
    ) -> None:
        super().deliver(room, message, key, offset, context)
        self.times.append(time.time())


def write(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    import logging

    logging.basicConfig(format="%(asctime)s %(process)d %(message)s")
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--history", type=int, default=0)
    parser.add_argument("--messages", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--until", type=int, help="how many to wait for; else end of input")
    options = parser.parse_args()
    recorder = TimedRecorder()
    history = History(length=options.history) if options.history else None
    bus = Bus(options.url, recorder, history=history)
    bus.join(ROOM)
    while bus.stats().rooms != 1:
        time.sleep(0.01)
    write("ready")
    sys.stdin.readline()
    stop = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.readline()
        stop.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    for number in range(options.messages):
        if stop.is_set():
            break
        text = f"{options.name} {number} {time.time():.6f}"
        while True:
            try:
                bus.publish(bus.prepare(ROOM, text))
            except BusUnavailable:
                time.sleep(0.05)
            else:
                break
        if number % 100 == 99 or options.pause:
            if not options.pause and bus.stats().queued > 5000:
                time.sleep(0.02)
            time.sleep(options.pause)
        if number % 500 == 499:
            write({"sent": number + 1, "received": len(recorder.delivered)})
    bus.flush(120)
    if options.until:
        before, since = 0, time.monotonic()
        while len(recorder.delivered) < options.until and time.monotonic() < since + 30:
            if len(recorder.delivered) > before:
                before, since = len(recorder.delivered), time.monotonic()
            time.sleep(0.01)
        time.sleep(0.5)  # for messages that would arrive twice
    else:
        stop.wait(60)
    stats = bus.stats()
    times = list(recorder.times)
    messages = recorder.messages()[: len(times)]  # messages still arrive
    write(
        {
            "name": options.name,
            "counts": Counter(map(str, messages)),
            "heard": list(zip(times, messages, strict=True)),
            "losses": [count for _, count in recorder.losses],
            "states": [state.value for state, _ in recorder.states],
            "stats": {name: str(getattr(stats, name)) for name in stats.__dataclass_fields__},
        }
    )
    bus.close(5)


if __name__ == "__main__":
    main()
