"""Messages per second through every kind of broker, from one process to another.

    .venv/bin/python benchmarks/bus.py [--messages 50000] [--size 128]

Measures Redis, NATS and local:// rooms, without and with a history. Each server is started on a
free port of 127.0.0.1 and stopped again. The rate is measured from the first `publish` to the last
`deliver`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.rooms.brokers import STARTERS  # noqa: E402
from tests.rooms.recorder import Recorder  # noqa: E402

from websocket_handler.bus.bus import Bus  # noqa: E402
from websocket_handler.bus.settings import History  # noqa: E402

BETWEEN_LOOKS = 1000
"""The messages between two looks at the length of the queue, which cost as much as a message."""


class Counter(Recorder):
    """Counts deliveries."""

    count = 0

    def deliver(self, *_: object) -> None:
        self.count += 1


def receive(url: str, history: History | None, messages: int) -> None:
    """Receive `messages` messages in the other process."""
    counter = Counter()
    bus = Bus(url, counter, history=history)
    bus.join("room")
    while bus.stats().rooms != 1:
        time.sleep(0.01)
    print("ready", flush=True)
    begun = time.process_time()
    while counter.count < messages:
        time.sleep(0.001)
    used = time.process_time() - begun
    print(f"{time.time()} {used}", flush=True)
    bus.close(1)


class Measured(NamedTuple):
    """Rates in messages per second, and CPU time per message in µs."""

    delivered: float
    published: float
    called: float
    cpu_to_publish: float
    cpu_to_receive: float


def measure_rates(url: str, history: History | None, messages: int, size: int) -> Measured:
    """Publish messages from this process to another one, which this function starts."""
    command = [sys.executable, __file__, "--receive", url, "--messages", str(messages)]
    command += ["--history"] if history else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        bus = Bus(url, Recorder(), history=history)
        bus.start()
        while bus.stats().connects == 0:
            time.sleep(0.01)
        prepared = bus.prepare("room", "x" * size)
        used, began = time.process_time(), time.time()
        for number in range(messages):
            if number % BETWEEN_LOOKS == 0:
                while bus.stats().queued > 50_000:
                    time.sleep(0.001)
            bus.publish(prepared)
        called = time.time()
        bus.flush(60)
        flushed, used = time.time(), time.process_time() - used
        ended, theirs = map(float, receiver.stdout.readline().split())
        bus.close(1)
    rates = [messages / (end - began) for end in (ended, flushed, called)]
    return Measured(*rates, used / messages * 1e6, theirs / messages * 1e6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--receive")
    parser.add_argument("--history", action="store_true")
    options = parser.parse_args()
    kept = History(length=1000)
    if options.receive:
        receive(options.receive, kept if options.history else None, options.messages)
        return
    for kind, starter in STARTERS.items():
        for history in (None, kept):
            with tempfile.TemporaryDirectory() as folder:
                broker = starter(Path(folder))
                try:
                    found = measure_rates(broker.url, history, options.messages, options.size)
                finally:
                    broker.close()
            print(
                f"{kind:6} {'history' if history else 'plain':8} {found.delivered:9,.0f} "
                f"delivered/s, {found.published:9,.0f} published/s, {found.called:9,.0f} calls/s; "
                f"CPU per message: {found.cpu_to_publish:.1f} µs to publish, "
                f"{found.cpu_to_receive:.1f} µs to receive",
                flush=True,
            )


if __name__ == "__main__":
    main()
