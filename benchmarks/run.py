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
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import trustme
from scenarios import (
    BASELINE,
    C_WEBSOCKET,
    CASES,
    CLIENTS,
    FEED,
    HANDSHAKE_ONLY,
    HERE,
    IN_FRAMEWORKS,
    OTHERS,
    OURS,
    PEERS,
    PICOWS,
    TLS_CASES,
    TLS_SERVERS,
    Running,
    client,
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
    results |= {"churn": {}, "tls": {}, "clients": {}}
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
            measured = measure_connections(Running(program, FIRST_PORT + 100 + number))
            for kind, figure in zip(("handshake", "churn", "idle"), measured, strict=True):
                results[kind][program.name] = figure
    if not options.quick:
        results["tls"] = measure_tls(options)
        results["clients"] = measure_clients(options)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def measure(servers: list[Running], case: Any, options: argparse.Namespace) -> list[Any]:
    rounds: list[Any] = [(server, []) for server in servers]
    for number in range(options.rounds):
        print(f"{case}, round {number + 1}", file=sys.stderr)
        for server, measured in rounds:
            measured.append(echo(server, case, options.seconds))
    return rounds


def measure_tls(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".pem") as certificate:
        issued = trustme.CA().issue_cert("127.0.0.1")
        issued.private_key_and_cert_chain_pem.write_to_path(certificate.name)
        servers = [
            Running(
                replace(one, environment={**one.environment, "CERTIFICATE": certificate.name}),
                FIRST_PORT + 200 + number,
            )
            for number, one in enumerate(TLS_SERVERS)
        ]
        try:
            return {
                str(case): {
                    server.program.name: rounds
                    for server, rounds in measure(servers, case, options)
                }
                for case in TLS_CASES
            }
        finally:
            for server in servers:
                server.stop()


def measure_clients(options: argparse.Namespace) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for number, (kind, program) in enumerate((("echo", OURS[0]), ("feed", FEED))):
        server = Running(program, FIRST_PORT + 300 + number)
        rounds: dict[str, Any] = {name: [] for name in CLIENTS}
        try:
            for _ in range(options.rounds):
                for name, measured in rounds.items():
                    measured.append(client(name, kind, server, options.seconds))
        finally:
            server.stop()
        results[kind] = rounds
    return results


def measure_connections(server: Running) -> tuple[Any, Any, Any]:
    """Return CPU time in µs per handshake, and per connection with one message, and bytes of
    memory per idle connection."""
    print(f"{server.program.name}, connections", file=sys.stderr)
    try:
        handshake = server.generate("handshakes", "seconds=2")
        if server.program.only_handshakes:
            return handshake and handshake["cpu_us"], None, None
        churn = server.generate("handshakes", "seconds=2", "message")
        cpu = handshake and handshake["cpu_us"], churn and churn["cpu_us"]
        before = server.memory()
        holder = server.hold_idle()
        if holder is None:
            return *cpu, None
        idle = (server.memory() - before) / server.program.max_connections
        holder.communicate(timeout=60)
        return *cpu, idle
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
