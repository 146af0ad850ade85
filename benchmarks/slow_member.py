"""The impact of a room member that never reads on the other members: `make bench-slow-member`.

1,000 members receive a message of 128 bytes every 50 ms. The process of the readers measures the
time from `Room.send` to each of them, with the monotonic clock, which all processes share. Rounds
with and without a member that has stopped reading alternate. Its backlog is bounded.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median, quantiles

from websocket_handler import Delivery, Rooms, SlowConsumers, configure_server, default_engine

MEMBERS = 1000
MESSAGES, INTERVAL_S = 100, 0.05
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
HEADER = 4  # bytes of a server's frame header before a payload of 128


def connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(REQUEST)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    return sock


def read(port: int) -> None:
    """The readers' process: prints "ready" once all are connected, and the latencies at the end."""
    selector = selectors.EpollSelector()
    for _ in range(MEMBERS):
        selector.register(connect(port), selectors.EVENT_READ, bytearray())
    print("ready", flush=True)
    latencies: list[float] = []
    size = HEADER + 128
    while len(latencies) < MEMBERS * MESSAGES:
        for key, _ in selector.select():
            data: bytearray = key.data
            data += key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            now = time.monotonic()
            while len(data) >= size:
                latencies.append(now - float(data[HEADER:size]))
                del data[:size]
    cuts = quantiles(latencies, n=100)
    print(json.dumps({"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3}), flush=True)


class Server(ThreadingHTTPServer):
    request_queue_size = 4096


def one_round(stalled: bool) -> dict[str, float]:
    rooms = Rooms(slow_consumers=SlowConsumers("drop_oldest", max_backlog=100_000))
    room = rooms["all"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            websocket = self.websocket  # type: ignore[attr-defined]
            websocket.connect()
            room.add(websocket)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = configure_server(Server(("127.0.0.1", 0), Handler))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    delivery = Delivery()
    try:
        if stalled:
            sleeper = connect(server.server_port)
            while not room.send("x" * 65_536).queued:
                pass
        reader = subprocess.Popen(
            [sys.executable, __file__, "--read", str(server.server_port)],
            stdout=subprocess.PIPE,
            preexec_fn=lambda: os.sched_setaffinity(0, {1}),
        )
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"ready\n"
        while len(room) < MEMBERS + stalled:
            time.sleep(0.01)
        for _ in range(MESSAGES):
            delivery += room.send(f"{time.monotonic():128.9f}")
            time.sleep(INTERVAL_S)
        result: dict[str, float] = json.loads(reader.stdout.readline())
        reader.wait(10)
        unsent = default_engine().stats().buffered
        assert delivery.sent == MEMBERS * MESSAGES, delivery
        return {**result, "unsent": unsent, "queued": delivery.queued}
    finally:
        if stalled:
            sleeper.close()
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--read", type=int, metavar="PORT")
    options = parser.parse_args()
    if options.read:
        read(options.read)
        return
    os.sched_setaffinity(0, {0})
    rounds = [(one_round(stalled=False), one_round(stalled=True)) for _ in range(options.rounds)]
    for name, which in (("all read", 0), ("one never reads", 1)):
        p50, p99 = (
            median(one[which][percentile] for one in rounds) for percentile in ("p50", "p99")
        )
        print(f"{name:16} p50 {p50:6.2f} ms, p99 {p99:6.2f} ms")
    print(f"p99 with the member that never reads: "
          f"{median(slow['p99'] / quick['p99'] for quick, slow in rounds):.2f} × that without; "
          f"{rounds[-1][1]['unsent']} bytes are unsent to it")  # fmt: skip


main()
