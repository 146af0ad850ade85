"""Echoes of compressed messages: this library, other servers and a C baseline.

Run it with `make bench-compression`. It sends JSON of three sizes with equal settings:
permessage-deflate with zlib level 1, memory level 8, 15 window bits, no context takeover, every
message compressed. A result is the CPU time of the server per message; the baseline is a C program
that echoes with the same zlib. Then it measures the memory of idle connections that have exchanged
a compressed message.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from messages import compress, json_message
from scenarios import BUILD, PEERS, Running, Server, _ours

FIRST_PORT = 7300
SIZES = [256, 4 << 10, 64 << 10]
CONNECTIONS = 50


def _peer(name: str, *words: str) -> Server:
    return Server(name, (str(PEERS / "python"), *words, "compressed"))


BASELINE = Server("C, with the same zlib", (str(BUILD / "limit"), "PORT", "deflate"))
SERVERS = [
    BASELINE,
    _ours("ours, thread", "thread", "compressed"),
    _ours("ours, asyncio", "asyncio", "compressed"),
    _ours("ours, pure Python", "thread", "compressed", WEBSOCKET_HANDLER_PURE_PYTHON="1"),
    _peer("aiohttp", "servers/aiohttp_echo.py", "PORT"),
    _peer("websockets", "servers/websockets_echo.py", "PORT", "websockets"),
]


def echo(server: Running, payload: Path, seconds: float) -> float:
    words = [f"connections={CONNECTIONS}", f"payload={payload}", f"seconds={seconds}"]
    done = server.generate("echo", *words, "warm-up=0.4", "text")
    assert done is not None, server.program.name
    return done["cpu_us"]


def idle_memory(program: Server, port: int, payload: Path, connections: int) -> float:
    server = Running(program, port)
    try:
        before = server.memory()
        words = server._generator("idle", f"connections={connections}", "message")
        holder = subprocess.Popen(
            [*words, f"payload={payload}", "text"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        assert holder.stdout.readline()
        memory = (server.memory() - before) / connections
        holder.communicate(timeout=60)
        return memory
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="duration of a measurement")
    options = parser.parse_args()
    servers = [Running(one, FIRST_PORT + i) for i, one in enumerate(SERVERS)]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            payload = Path(folder) / str(size)
            payload.write_bytes(compress(json_message(size)))
            rounds = [
                [echo(server, payload, options.seconds) for server in servers]
                for _ in range(options.rounds)
            ]
            print(f"\n{size} bytes of JSON, {payload.stat().st_size} compressed, {CONNECTIONS} × 1")
            for number, program in enumerate(SERVERS):
                cpu = median(one[number] for one in rounds)
                baseline = median(one[number] / one[0] for one in rounds)
                ours = median(one[number] / one[1] for one in rounds)
                print(f"{program.name:24} {cpu:8.2f} µs, {baseline:5.2f} × the baseline, "
                      f"{ours:5.2f} × ours in a thread")  # fmt: skip
        for server in servers:
            server.stop()
        payload = Path(folder) / "256"
        print("\nmemory of an idle connection that has exchanged a message")
        for number, program in enumerate(SERVERS[1:]):
            memory = idle_memory(program, FIRST_PORT + 50 + number, payload, 4000)
            print(f"{program.name:24} {memory:8.0f} bytes")


main()
