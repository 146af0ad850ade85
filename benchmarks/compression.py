"""Echoes of compressed messages, ours beside its peers and the C limit: `make bench-compression`.

JSON of three sizes, at equal settings: permessage-deflate with zlib's level 1, memory level
8, 15 window bits, no context takeover, every message compressed. A figure is the CPU time of
the server per message; the limit is a C program that echoes with the same zlib. Then the
memory that idle connections hold which have exchanged a compressed message.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from contest import BUILD, PEERS, Contestant, Running, _ours
from messages import compress, json_message

FIRST_PORT = 7300
SIZES = [256, 4 << 10, 64 << 10]
CONNECTIONS = 50


def _peer(name: str, *words: str) -> Contestant:
    return Contestant(name, (str(PEERS / "python"), *words, "compressed"))


LIMIT = Contestant("C, with the same zlib", (str(BUILD / "limit"), "PORT", "deflate"))
CONTESTANTS = [
    LIMIT,
    _ours("ours, thread", "thread", "compressed"),
    _ours("ours, asyncio", "asyncio", "compressed"),
    _ours("ours, plain Python", "thread", "compressed", WEBSOCKET_HANDLER_PURE_PYTHON="1"),
    _peer("aiohttp", "servers/aiohttp_echo.py", "PORT"),
    _peer("websockets", "servers/websockets_echo.py", "PORT", "websockets"),
]


def echo(server: Running, payload: Path, seconds: float) -> float:
    words = [f"connections={CONNECTIONS}", f"payload={payload}", f"seconds={seconds}"]
    done = server.generate("echo", *words, "warm-up=0.4", "text")
    assert done is not None, server.contestant.name
    return done["cpu_us"]


def idle_memory(contestant: Contestant, port: int, payload: Path, connections: int) -> float:
    server = Running(contestant, port)
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
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    servers = [Running(one, FIRST_PORT + i) for i, one in enumerate(CONTESTANTS)]
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            payload = Path(folder) / str(size)
            payload.write_bytes(compress(json_message(size)))
            rounds = [
                [echo(server, payload, options.seconds) for server in servers]
                for _ in range(options.rounds)
            ]
            print(f"\n{size} bytes of JSON, {payload.stat().st_size} compressed, {CONNECTIONS} × 1")
            for number, contestant in enumerate(CONTESTANTS):
                cpu = median(one[number] for one in rounds)
                limit = median(one[number] / one[0] for one in rounds)
                ours = median(one[number] / one[1] for one in rounds)
                print(f"{contestant.name:24} {cpu:8.2f} µs, {limit:5.2f} × the limit, "
                      f"{ours:5.2f} × ours in a thread")  # fmt: skip
        for server in servers:
            server.stop()
        payload = Path(folder) / "256"
        print("\nmemory of an idle connection that has exchanged one")
        for number, contestant in enumerate(CONTESTANTS[1:]):
            memory = idle_memory(contestant, FIRST_PORT + 50 + number, payload, 4000)
            print(f"{contestant.name:24} {memory:8.0f} bytes")


main()
