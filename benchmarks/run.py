"""The benchmark: `make bench` (all servers) and `make bench-quick` (ours, the baseline, picows).

Each round measures every server once per case, so that other load on the machine affects all of
them equally. Writes results.json, which `report.py` reads.
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

from scenarios import (
    BASELINE,
    C_WEBSOCKET,
    CASES,
    HANDSHAKE_ONLY,
    HERE,
    IN_FRAMEWORKS,
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
    parser.add_argument("--quick", action="store_true", help="only ours, the baseline and picows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--only", nargs="+", help="only servers whose name contains one of these")
    options = parser.parse_args()
    programs = [BASELINE, C_WEBSOCKET, *OURS[:2], PICOWS[0]]
    if not options.quick:
        programs = [BASELINE, C_WEBSOCKET, *OURS, *IN_FRAMEWORKS, *PICOWS, *OTHERS]
    if options.only:
        wanted = [BASELINE.name, *options.only]
        programs = [one for one in programs if any(part in one.name for part in wanted)]
    results: dict[str, Any] = {"about": describe_machine(), "echo": {}, "idle": {}, "handshake": {}}
    servers = [Running(one, FIRST_PORT + i) for i, one in enumerate(programs)]
    try:
        for case in CASES:
            results["echo"][str(case)] = {
                server.program.name: rounds for server, rounds in measure(servers, case, options)
            }
    finally:
        for server in servers:
            server.stop()
    for number, program in enumerate([*programs, HANDSHAKE_ONLY]):
        if not program.raw:
            results["handshake"][program.name], results["idle"][program.name] = measure_connections(
                Running(program, FIRST_PORT + 100 + number)
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
    """Return CPU time per handshake in µs, and bytes of memory per idle connection."""
    print(f"{server.program.name}, connections", file=sys.stderr)
    try:
        handshake = server.generate("handshakes", "seconds=2")
        if server.program.only_handshakes:
            return handshake and handshake["cpu_us"], None
        before = server.memory()
        holder = server.hold_idle()
        if holder is None:
            return handshake and handshake["cpu_us"], None
        idle = (server.memory() - before) / server.program.max_connections
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
