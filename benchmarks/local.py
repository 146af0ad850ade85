"""local:// rooms beside Redis: messages per second and latency, from one process to another.

    .venv/bin/python benchmarks/local.py [--messages 100000] [--size 128] [--rounds 3]

The rounds alternate between both brokers; the figures are medians, and the ratio to Redis. The CPU
time is that of the publishing and the receiving process together, without Redis itself. The
latency is the time from `publish` in one process to `deliver` in the other, of single messages.
Both processes run on one machine with one clock.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from bus import Measured, measure_rates  # noqa: E402
from tests.rooms.brokers import STARTERS  # noqa: E402
from tests.rooms.recorder import Recorder  # noqa: E402

from websocket_handler.bus.bus import Bus  # noqa: E402
from websocket_handler.bus.settings import History  # noqa: E402

BROKERS = ("redis", "local")
SINGLE_MESSAGES = 1000
BETWEEN_S = 0.002


class Clock(Recorder):
    """Records the age of each message, which is the time at which it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.ages: list[float] = []

    def deliver(self, *arguments: object) -> None:
        self.ages.append(time.perf_counter() - float(str(arguments[1])))


def receive_single(url: str) -> None:
    """Receive single messages in the other process, and print their ages."""
    clock = Clock()
    bus = Bus(url, clock)
    bus.join("room")
    while bus.stats().rooms != 1:
        time.sleep(0.01)
    print("ready", flush=True)
    while len(clock.ages) < SINGLE_MESSAGES:
        time.sleep(0.01)
    print(*clock.ages, flush=True)
    bus.close(1)


def measure_latency(url: str) -> list[float]:
    """Return the seconds that each of `SINGLE_MESSAGES` messages took."""
    command = [sys.executable, __file__, "--receive", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        bus = Bus(url, Recorder())
        bus.start()
        while bus.stats().connects == 0:
            time.sleep(0.01)
        for _ in range(SINGLE_MESSAGES):
            bus.publish(bus.prepare("room", repr(time.perf_counter())))
            time.sleep(BETWEEN_S)
        ages = list(map(float, receiver.stdout.readline().split()))
        bus.close(1)
    return ages


def on_fresh_broker(kind: str, history: History | None, options: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        broker = STARTERS[kind](Path(folder))
        try:
            return measure_rates(broker.url, history, options.messages, options.size)
        finally:
            broker.close()


def latency_on_fresh_broker(kind: str) -> list[float]:
    with tempfile.TemporaryDirectory() as folder:
        broker = STARTERS[kind](Path(folder))
        try:
            return measure_latency(broker.url)
        finally:
            broker.close()


def compare_rates(history: History | None, options: argparse.Namespace) -> None:
    rounds: dict[str, list[Measured]] = {kind: [] for kind in BROKERS}
    for _ in range(options.rounds):
        for kind in BROKERS:
            rounds[kind].append(on_fresh_broker(kind, history, options))
    name = "history" if history else "plain"
    for title, column in (("delivered/s", 0), ("published/s", 1)):
        redis, local = (median(one[column] for one in rounds[kind]) for kind in BROKERS)
        print(
            f"{name:8} {title}: Redis {redis:9,.0f}, local {local:9,.0f}, "
            f"ratio {local / redis:.2f}",
            flush=True,
        )
    redis, local = (
        median(one.cpu_to_publish + one.cpu_to_receive for one in rounds[kind]) for kind in BROKERS
    )
    print(
        f"{name:8} CPU/message: Redis {redis:7.1f} µs, local {local:7.1f} µs, "
        f"ratio {local / redis:.2f}",
        flush=True,
    )


def compare_latencies(options: argparse.Namespace) -> None:
    ages: dict[str, list[list[float]]] = {kind: [] for kind in BROKERS}
    for _ in range(options.rounds):
        for kind in BROKERS:
            ages[kind].append(latency_on_fresh_broker(kind))
    for title, percent in (("median", 50), ("p99", 99)):
        redis, local = (
            median(quantiles(one, n=100)[percent - 1] for one in ages[kind]) * 1e6
            for kind in BROKERS
        )
        print(
            f"latency  {title:6}: Redis {redis:7,.0f} µs, local {local:7,.0f} µs, "
            f"ratio {local / redis:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--receive")
    options = parser.parse_args()
    if options.receive:
        receive_single(options.receive)
        return
    compare_latencies(options)
    compare_rates(None, options)
    compare_rates(History(length=1000), options)


if __name__ == "__main__":
    main()
