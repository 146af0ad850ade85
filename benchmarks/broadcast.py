"""Broadcast of one message to 1,000 members of a room: `make bench-broadcast`.

Compares this library with a C program that calls send() for each member, and with broadcast() of
websockets, uncompressed and with permessage-deflate (zlib level 1, no context takeover, every
message compressed). Each runs in its own process on core 0. Messages are sent apart or together:
in immediate succession, as when many members write at the same time. The C baseline sends the
compressed size. The members do not read meanwhile; all data fits in the socket buffers. Results
are medians of alternating rounds, each with new connections.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import NamedTuple

from messages import compress, json_message
from scenarios import BUILD, HERE, PEERS, SERVER_CORE, _on_generator_core, wait_until_listening

PORT = 7500
CASES = [
    (size, compressed, how)
    for size in (128, 4096)
    for compressed in (False, True)
    for how in ("apart", "together")
]
MEMBERS = 1000
MAX_BYTES_PER_MEMBER = 60_000  # fits in the buffers of a socket that is not read


class Server(NamedTuple):
    name: str
    command: tuple[str, ...]
    is_baseline: bool = False


SERVERS = [
    Server("C, send() in a loop", (str(BUILD / "send_all"),), is_baseline=True),
    Server("ours, Room.send", (sys.executable, "servers/rooms_broadcast.py")),
    Server("websockets, broadcast()", (str(PEERS / "python"), "servers/websockets_broadcast.py")),
]


def measure(
    server: Server, message: Path, deflated: Path, compressed: bool, how: str
) -> dict[str, float]:
    """Return the elapsed time and CPU time per delivery of one round of broadcasts, in µs."""
    arguments = ["compressed"] if compressed and not server.is_baseline else []
    payload = deflated if compressed and server.is_baseline else message
    process = subprocess.Popen(
        [*server.command, str(PORT), *arguments],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        wait_until_listening(process, PORT, server.name)
        options = [f"payload={deflated}"] if compressed and not server.is_baseline else []
        words = [str(BUILD / "load"), "idle", str(PORT), "/", f"connections={MEMBERS}", *options]
        holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_on_generator_core
        )
        assert holder.stdout is not None
        assert holder.stdout.readline()
        count = min(200, MAX_BYTES_PER_MEMBER // payload.stat().st_size)
        process.stdin.write(f"{count} {payload} {how}\n")
        process.stdin.flush()
        spent: dict[str, float] = json.loads(process.stdout.readline())
        assert spent["members"] == MEMBERS, spent
        holder.communicate(timeout=60)
        return {key: spent[key] / count / MEMBERS * 1e6 for key in ("seconds", "cpu")}
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        message, deflated = Path(folder, "message"), Path(folder, "deflated")
        for size, compressed, how in CASES:
            message.write_bytes(json_message(size))
            deflated.write_bytes(compress(json_message(size)))
            rounds = [
                [measure(server, message, deflated, compressed, how) for server in SERVERS]
                for _ in range(options.rounds)
            ]
            print(f"\n{size} bytes{', compressed' if compressed else ''}, {how}")
            for number, server in enumerate(SERVERS):
                cpu = median(spent[number]["cpu"] for spent in rounds)
                rates, costs = (
                    [spent[number][unit] / spent[1][unit] for spent in rounds]
                    for unit in ("seconds", "cpu")
                )
                print(f"{server.name:23} {cpu:6.2f} µs CPU per delivery, "
                      f"{median(costs):5.2f} × ours; "
                      f"{1 / median(rates):6.3f} × our rate")  # fmt: skip


main()
