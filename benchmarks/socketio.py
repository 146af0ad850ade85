"""Socket.IO: this library beside Flask-SocketIO on gevent and AsyncServer on uvicorn:
`make bench-socketio`.

1,000 clients in JavaScript with default transports. Threads and memory are read from /proc after
all have upgraded; the CPU time of an echo is that of the server's process. Rounds of this library
and of the other alternate, and the medians are compared. Then a client that reads nothing joins,
and the delay of an emit to the others is compared with the delay without it. No round begins after
`--minutes`, and a round of clients that do not answer is given up.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple
from urllib.request import urlopen

HERE = Path(__file__).parent
FLASK = (
    "gunicorn --threads 8 --worker-connections 4000 --log-level error -b 127.0.0.1:{port} {worker} "
    "socketio_flask:app"
)
ASGI = "uvicorn --log-level error --port {port} {worker} socketio_asgi:app"
OURS = "--ws websocket_handler.servers.uvicorn:WebSocketProtocol"

PAIRS = {
    "Flask": (("ours", FLASK, "-k gthread"), ("gevent", FLASK, "-k gevent")),
    "ASGI": (("ours", ASGI, OURS), ("stock", ASGI, "")),
}
EMITS, EMIT_SIZE, EMIT_INTERVAL_S = 40, 4096, 0.1
LOAD_TIMEOUT_S = 240
"""Seconds after which the clients of one round are killed."""


class Figures(NamedTuple):
    """One round: threads of the server, bytes of memory and CPU seconds."""

    upgraded: int
    threads: int
    bytes_per_client: float
    cpu_per_echo: float


class Server:
    """A running server; its process is the youngest descendant, the worker."""

    def __init__(self, kind: str, command: str, worker: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        arguments = command.format(port=self.port, worker=worker).split()
        self._process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=HERE / "servers",
            env={**os.environ, "SOCKETIO": kind},
        )
        self._wait_until_ready()
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text()
        self.pid = int(children.split()[0]) if children.split() else self._process.pid

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + 20
        while True:
            try:
                return self.get("/socket.io/?EIO=4&transport=polling")
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def get(self, target: str) -> None:
        with urlopen(f"http://127.0.0.1:{self.port}{target}", timeout=30) as response:
            response.read()

    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    def memory(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self) -> float:
        return time.clock_gettime(~self.pid << 3 | 2)  # the process clock, as clock_getcpuclockid

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


class Load:
    """The process of the clients."""

    def __init__(self, server: Server, clients: int) -> None:
        command = ["node", str(HERE / "programs/socketio_load.js")]
        self._process = subprocess.Popen(
            [*command, f"http://127.0.0.1:{server.port}", str(clients)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._limit = threading.Timer(LOAD_TIMEOUT_S, self._process.kill)
        self._limit.daemon = True
        self._limit.start()
        self.upgraded: int = self.answer()

    def answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise TimeoutError(f"the clients have not answered within {LOAD_TIMEOUT_S} s")
        return json.loads(line)

    def command(self, text: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self._limit.cancel()
        self._process.kill()
        self._process.wait()


@contextmanager
def loaded(side: tuple[str, str, str], clients: int) -> Iterator[tuple[Server, Load, int]]:
    """Yield a server with its clients, and its memory before they came."""
    server = Server(*side)
    try:
        warm = Load(server, 20)
        warm.command("echo 20")
        warm.close()
        time.sleep(1)
        before = server.memory()
        load = Load(server, clients)
        try:
            yield server, load, before
        finally:
            load.close()
    finally:
        server.close()


def measure(side: tuple[str, str, str], clients: int, rounds: int) -> Figures:
    with loaded(side, clients) as (server, load, before):
        time.sleep(1)
        memory = (server.memory() - before) / clients
        threads = server.threads()
        load.command("echo 1")
        begin = server.cpu()
        echoes = load.command(f"echo {rounds}")
        return Figures(load.upgraded, threads, memory, (server.cpu() - begin) / echoes)


def delays(server: Server, load: Load) -> list[float]:
    """Return the milliseconds from each emit to each client."""
    load.command(f"news {EMITS}")
    for _ in range(EMITS):
        server.get(f"/emit?size={EMIT_SIZE}")
        time.sleep(EMIT_INTERVAL_S)
    found: list[float] = load.answer()
    return found


def slow_client(port: int) -> socket.socket:
    """Return a client that has connected to the main namespace and reads nothing more."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    sock.recv(4096)
    sock.sendall(b"\x81\x82\0\0\0\x0040")  # masked with zeros
    return sock


def summary(found: list[float]) -> str:
    p99 = quantiles(found, n=100)[98]
    return f"median {median(found):.1f}, p99 {p99:.1f}, max {max(found):.1f}"


def compare(framework: str, clients: int, echoes: int, rounds: int, end: float) -> None:
    """Print the figures of each side, from alternating rounds until `end`."""
    pair = PAIRS[framework]
    found: dict[str, list[Figures]] = {side[0]: [] for side in pair}
    for round_ in range(rounds):
        if round_ and time.monotonic() > end:
            break
        for side in pair:
            try:
                found[side[0]].append(measure(side, clients, echoes))
            except TimeoutError as error:
                print(f"{framework} {side[0]}: {error}", flush=True)
    cpu = {kind: median(each.cpu_per_echo for each in all_) for kind, all_ in found.items() if all_}
    for kind in cpu:
        all_ = found[kind]
        print(
            f"{framework} {kind}: {min(each.upgraded for each in all_)} upgraded, "
            f"{max(each.threads for each in all_)} threads, "
            f"{median(each.bytes_per_client for each in all_) / 1024:.1f} KiB a client, "
            f"{cpu[kind] * 1e6:.0f} us an echo ({cpu['ours'] / cpu[kind]:.2f}), "
            f"{len(all_)} rounds",
            flush=True,
        )


def compare_emits(framework: str, clients: int) -> None:
    """Print the delay of an emit, without and with a client that reads nothing."""
    with loaded(PAIRS[framework][0], clients) as (server, load, _):
        alone = delays(server, load)
        sock = slow_client(server.port)
        beside = delays(server, load)
        sock.close()
    added = median(beside) - median(alone)
    print(f"{framework} emit to {clients}, ms: {summary(alone)}")
    print(
        f"{framework} beside a client that reads nothing: {summary(beside)} (median {added:+.1f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--echoes", type=int, default=20, help="of each client in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=PAIRS, help="one framework")
    parser.add_argument("--minutes", type=float, default=12, help="for all rounds")
    chosen = parser.parse_args()
    frameworks = [chosen.only] if chosen.only else list(PAIRS)
    for framework in frameworks:
        end = time.monotonic() + 60 * chosen.minutes / len(frameworks)
        compare(framework, chosen.clients, chosen.echoes, chosen.rounds, end)
    for framework in frameworks:
        compare_emits(framework, chosen.clients)


if __name__ == "__main__":
    main()
