"""The benchmark: `make bench` (everything) and `make bench-quick` (ours, the limit, picows).

Alternating rounds: in each, every contestant is measured once in every case, so that what
else the machine does meets all of them alike. Writes results.json; `report.py` reads it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from contest import (
    C_WEBSOCKET,
    CASES,
    HANDSHAKE_ALONE,
    HERE,
    IN_FRAMEWORKS,
    LIMIT,
    OTHERS,
    OURS,
    PEERS,
    PICOWS,
    Running,
    echo,
)

FIRST_PORT = 7100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours, the limit and picows alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--only", nargs="+", help="contestants in whose name one of these is")
    options = parser.parse_args()
    contestants = [LIMIT, C_WEBSOCKET, *OURS[:2], PICOWS[0]]
    if not options.quick:
        contestants = [LIMIT, C_WEBSOCKET, *OURS, *IN_FRAMEWORKS, *PICOWS, *OTHERS]
    if options.only:
        wanted = [LIMIT.name, *options.only]
        contestants = [one for one in contestants if any(part in one.name for part in wanted)]
    results: dict[str, Any] = {"about": describe_machine(), "echo": {}, "idle": {}, "handshake": {}}
    servers = [Running(one, FIRST_PORT + i) for i, one in enumerate(contestants)]
    try:
        for case in CASES:
            results["echo"][str(case)] = {
                server.contestant.name: rounds for server, rounds in measure(servers, case, options)
            }
    finally:
        for server in servers:
            server.stop()
    for number, contestant in enumerate([*contestants, HANDSHAKE_ALONE]):
        if not contestant.raw:
            results["handshake"][contestant.name], results["idle"][contestant.name] = (
                measure_connections(Running(contestant, FIRST_PORT + 100 + number))
            )
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def measure(servers: list[Running], case: Any, options: argparse.Namespace) -> list[Any]:
    rounds: list[Any] = [(server, []) for server in servers]
    for number in range(options.rounds):
        print(f"{case}, round {number + 1}", file=sys.stderr)
        for server, measured in rounds:
            measured.append(echo(server, case, options.seconds))
    return rounds


def measure_connections(server: Running) -> tuple[Any, Any]:
    """CPU a handshake in µs, and bytes of memory per idle connection."""
    print(f"{server.contestant.name}, connections", file=sys.stderr)
    try:
        handshake = server.generate("handshakes", "seconds=2")
        if server.contestant.only_handshakes:
            return handshake and handshake["cpu_us"], None
        before = server.memory()
        holder = server.hold_idle()
        if holder is None:
            return handshake and handshake["cpu_us"], None
        idle = (server.memory() - before) / server.contestant.most_connections
        holder.communicate(timeout=60)
        return handshake and handshake["cpu_us"], idle
    finally:
        server.stop()


def describe_machine() -> dict[str, str]:
    listing = subprocess.run(
        [str(PEERS / "pip"), "list", "--format=json"], capture_output=True, check=True
    )
    wanted = (HERE / "requirements.txt").read_text().split()
    versions = {
        package["name"].lower(): package["version"]
        for package in json.loads(listing.stdout)
        if package["name"].lower() in wanted
    }
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, 2 cores used, Linux {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "node": subprocess.check_output(["node", "--version"], text=True).strip(),
        "websocket-handler": importlib.metadata.version("websocket-handler"),
        **versions,
    }


main()
