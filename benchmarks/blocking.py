"""The impact of blocking listeners on other connections: `make bench-blocking`.

Of 100 connections, some have a listener that repeatedly sleeps for a second; the others echo 32
bytes in a closed loop. Each round measures without sleepers, with one and with sixteen, so that
other load on the machine affects all of them equally. The result is the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys

from scenarios import Case, Running, Server, echo

from websocket_handler import WebSocket, connect

PORT = 7190
CONNECTIONS = 100
SLEEPERS = (0, 1, 16)
BLOCKING = Server("blocking", (sys.executable, "servers/blocking.py", "PORT"))

Results = dict[int, list[dict[str, float]]]


def sleeper() -> WebSocket:
    """Open a connection whose listener in the server sleeps continuously."""
    websocket = connect(f"ws://127.0.0.1:{PORT}/")
    websocket.on("message", websocket.send)
    websocket.send("sleep")
    return websocket


def measure(rounds: int, seconds: float) -> Results:
    """Return `p50_us` and `p99_us` of the other connections, by number of sleepers and round."""
    results: Results = {count: [] for count in SLEEPERS}
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
                    raise RuntimeError("the measurement failed")
                results[count].append(found)
    finally:
        server.stop()
    return results


def median_ms(found: list[dict[str, float]], name: str) -> float:
    return statistics.median(each[name] for each in found) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of a measurement")
    parser.add_argument("--json", action="store_true", help="print only the medians, as JSON")
    options = parser.parse_args()
    results = measure(options.rounds, options.seconds)
    if options.json:
        names = {"p50_ms": "p50_us", "p99_ms": "p99_us"}
        print(
            json.dumps(
                {
                    count: {name: median_ms(found, key) for name, key in names.items()}
                    for count, found in results.items()
                }
            )
        )
        return
    print(f"{CONNECTIONS} connections, medians of {options.rounds} rounds")
    print("| listeners that sleep 1 s | p50 of the others | p99 of the others | p99 by round |")
    print("|---|---|---|---|")
    for count, found in results.items():
        p50, p99 = median_ms(found, "p50_us"), median_ms(found, "p99_us")
        each = ", ".join(f"{one['p99_us'] / 1000:.1f}" for one in found)
        print(f"| {count} | {p50:.1f} ms | {p99:.1f} ms | {each} |")


if __name__ == "__main__":
    main()
