"""What others feel of listeners that block: `make bench-blocking`.

Of 100 connections some have a listener that sleeps for a second, again and again; the others
echo 32 bytes in a closed loop. In each round there is a measurement without sleepers, with
one and with sixteen, so that what else the machine does meets all of them alike; the medians
of the rounds are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from contest import Case, Contestant, Running, echo

from websocket_handler import WebSocket, connect

PORT = 7190
CONNECTIONS = 100
SLEEPERS = (0, 1, 16)
BLOCKING = Contestant("blocking", (sys.executable, "servers/blocking.py", "PORT"))

Figures = dict[int, list[dict[str, float]]]


def sleeper() -> WebSocket:
    """A connection whose listener sleeps in the server all the time."""
    websocket = connect(f"ws://127.0.0.1:{PORT}/")
    websocket.on("message", websocket.send)
    websocket.send("sleep")
    return websocket


def measure(rounds: int, seconds: float) -> Figures:
    """For each number of sleepers, what each round gave: `p50_us` and `p99_us` of the others."""
    figures: Figures = {count: [] for count in SLEEPERS}
    server = Running(BLOCKING, PORT)
    try:
        for _ in range(rounds):
            for count in SLEEPERS:
                sleepers = [sleeper() for _ in range(count)]
                others = CONNECTIONS - count
                found = echo(server, Case("others", others, 1, 32), seconds)
                for websocket in sleepers:
                    websocket.abort()
                if found is None:
                    raise RuntimeError("the server did not bear it")
                figures[count].append(found)
    finally:
        server.stop()
    return figures


def median_ms(found: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in found) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--json", action="store_true", help="the medians alone, for a program")
    options = parser.parse_args()
    figures = measure(options.rounds, options.seconds)
    if options.json:
        names = {"p50_ms": "p50_us", "p99_ms": "p99_us"}
        print(
            json.dumps(
                {
                    count: {name: median_ms(found, key) for name, key in names.items()}
                    for count, found in figures.items()
                }
            )
        )
        return
    print(f"{CONNECTIONS} connections, medians of {options.rounds} rounds")
    print("| listeners that sleep 1 s | p50 of the others | p99 of the others | of each round |")
    print("|---|---|---|---|")
    for count, found in figures.items():
        p50, p99 = median_ms(found, "p50_us"), median_ms(found, "p99_us")
        each = ", ".join(f"{one['p99_us'] / 1000:.1f}" for one in found)
        print(f"| {count} | {p50:.1f} ms | {p99:.1f} ms | {each} |")


if __name__ == "__main__":
    main()
