"""One message to 1,000 members of a room: `make bench-broadcast`.

Ours beside a C program that calls send() for each, and websockets' broadcast(), plain and with
permessage-deflate (zlib's level 1, no context takeover, every message compressed), each in a
process of its own on core 0. Messages leave apart, or together: one right after the other, as
when many members write at the same time. The limit sends as many bytes as are left of the
message. The members read nothing meanwhile; what is sent fits their sockets. Figures are
medians of alternating rounds, each with new connections.
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

from contest import BUILD, HERE, PEERS, SERVER_CORE, _on_generator_core, wait_until_it_listens
from messages import compress, json_message

PORT = 7500
CASES = [
    (size, compressed, how)
    for size in (128, 4096)
    for compressed in (False, True)
    for how in ("apart", "together")
]
MEMBERS = 1000
SENT_TO_EACH = 60_000  # bytes, at most: what fits a socket that is not read


class Contestant(NamedTuple):
    name: str
    command: tuple[str, ...]
    is_limit: bool = False


CONTESTANTS = [
    Contestant("C, send() in a loop", (str(BUILD / "send_all"),), is_limit=True),
    Contestant("ours, Room.send", (sys.executable, "servers/rooms_broadcast.py")),
    Contestant(
        "websockets, broadcast()", (str(PEERS / "python"), "servers/websockets_broadcast.py")
    ),
]


def measure(
    one: Contestant, message: Path, deflated: Path, compressed: bool, how: str
) -> dict[str, float]:
    """Seconds and CPU time of one round of broadcasts."""
    wanted = ["compressed"] if compressed and not one.is_limit else []
    payload = deflated if compressed and one.is_limit else message
    server = subprocess.Popen(
        [*one.command, str(PORT), *wanted],
        cwd=HERE,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE),
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        wait_until_it_listens(server, PORT, one.name)
        options = [f"payload={deflated}"] if compressed and not one.is_limit else []
        words = [str(BUILD / "load"), "idle", str(PORT), "/", f"connections={MEMBERS}", *options]
        holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_on_generator_core
        )
        assert holder.stdout is not None
        assert holder.stdout.readline()
        count = min(200, SENT_TO_EACH // payload.stat().st_size)
        server.stdin.write(f"{count} {payload} {how}\n")
        server.stdin.flush()
        spent: dict[str, float] = json.loads(server.stdout.readline())
        assert spent["members"] == MEMBERS, spent
        holder.communicate(timeout=60)
        return {key: spent[key] / count / MEMBERS * 1e6 for key in ("seconds", "cpu")}
    finally:
        server.stdin.close()
        server.terminate()
        server.wait(20)


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
                [measure(one, message, deflated, compressed, how) for one in CONTESTANTS]
                for _ in range(options.rounds)
            ]
            print(f"\n{size} bytes{', compressed' if compressed else ''}, {how}")
            for number, one in enumerate(CONTESTANTS):
                cpu = median(spent[number]["cpu"] for spent in rounds)
                rates, costs = (
                    [spent[number][what] / spent[1][what] for spent in rounds]
                    for what in ("seconds", "cpu")
                )
                print(f"{one.name:23} {cpu:6.2f} µs CPU a delivery, {median(costs):5.2f} × ours; "
                      f"{1 / median(rates):6.3f} × our rate")  # fmt: skip


main()
