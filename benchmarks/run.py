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
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trustme
from scenarios import (
    BASELINE,
    C_WEBSOCKET,
    CASES,
    CLIENTS,
    FEED,
    GROWTH,
    HANDSHAKE_ONLY,
    HERE,
    IN_FRAMEWORKS,
    LARGE_SERVERS,
    OTHERS,
    OURS,
    PEERS,
    PICOWS,
    TLS_CASES,
    TLS_SERVERS,
    Running,
    Server,
    client,
    echo,
    grown,
    paced,
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
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # for 10,000 connections
    programs = [BASELINE, C_WEBSOCKET, *OURS[:2], PICOWS[0]]
    if not options.quick:
        programs = [BASELINE, C_WEBSOCKET, *OURS, *IN_FRAMEWORKS, *PICOWS, *OTHERS]
    if options.only:
        wanted = [BASELINE.name, *options.only]
        programs = [one for one in programs if any(part in one.name for part in wanted)]
    results: dict[str, Any] = {"about": describe_machine(), "echo": {}, "idle": {}, "handshake": {}}
    results |= {"churn": {}, "tls": {}, "clients": {}, "growth": {}, "paced": {}}
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
        with tempfile.NamedTemporaryFile(suffix=".pem") as certificate:
            authority = trustme.CA()
            issued = authority.issue_cert("127.0.0.1")
            issued.private_key_and_cert_chain_pem.write_to_path(certificate.name)
            authority.cert_pem.write_to_path(certificate.name, append=True)  # for clients
            results["tls"] = measure_tls(options, certificate.name)
            results["clients"] = measure_clients(options, certificate.name)
        for number, program in enumerate(LARGE_SERVERS):
            if program in programs:
                name, port = program.name, FIRST_PORT + 400 + number
                results["growth"][name], results["paced"][name] = measure_large(program, port)
    options.output.write_text(json.dumps(results, indent=1) + "\n")


def measure(servers: list[Running], case: Any, options: argparse.Namespace) -> list[Any]:
    rounds: list[Any] = [(server, []) for server in servers]
    for number in range(options.rounds):
        print(f"{case}, round {number + 1}", file=sys.stderr)
        for server, measured in rounds:
            measured.append(echo(server, case, options.seconds))
    return rounds


def measure_tls(options: argparse.Namespace, certificate: str) -> dict[str, Any]:
    servers = [
        Running(secured(one, certificate), FIRST_PORT + 200 + number)
        for number, one in enumerate(TLS_SERVERS)
    ]
    try:
        return {
            str(case): {
                server.program.name: rounds for server, rounds in measure(servers, case, options)
            }
            for case in TLS_CASES
        }
    finally:
        for server in servers:
            server.stop()


def secured(program: Server, certificate: str) -> Server:
    return replace(program, environment={**program.environment, "CERTIFICATE": certificate})


def measure_clients(options: argparse.Namespace, certificate: str) -> dict[str, Any]:
    results: dict[str, Any] = {}
    kinds = {"echo": OURS[0], "feed": FEED, "echo over TLS": secured(OURS[0], certificate)}
    for number, (kind, program) in enumerate(kinds.items()):
        print(f"clients, {kind}", file=sys.stderr)
        server = Running(program, FIRST_PORT + 300 + number)
        rounds: dict[str, Any] = {name: [] for name in CLIENTS}
        try:
            for _ in range(options.rounds):
                for name, measured in rounds.items():
                    measured.append(client(name, kind.split()[0], server, options.seconds))
        finally:
            server.stop()
        results[kind] = rounds
    return results


def measure_large(program: Server, port: int) -> tuple[dict[str, Any], Any]:
    """Return the closed loops of each number of connections, and the open loop. Each has a server
    of its own, because memory of closed connections may be used again."""
    growth: dict[str, Any] = {}
    for number in GROWTH:
        print(f"{program.name}, {number} connections", file=sys.stderr)
        growth[str(number)] = alone(program, port, partial(grown, connections=number))
    return growth, alone(program, port, paced)


def alone(program: Server, port: int, measurement: Callable[[Running], Any]) -> Any:
    server = Running(program, port)
    try:
        return measurement(server)
    finally:
        server.stop()


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
