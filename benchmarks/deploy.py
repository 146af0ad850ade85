"""The cost of moving connections to a new process, beside that of reconnecting the same clients:
`make bench-deploy`.

Two processes with http.server share a port, and one replaces the other. The clients are in this
process, on plain sockets. Rounds in which the old process moves its connections alternate with
rounds in which it closes them and the clients reconnect at once. The CPU time is that of both
servers, and of the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median

from websocket_handler import WebSocket, configure_server, default_engine, move_connections

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
EMPTY_CLOSE = bytes((0x88, 0x80, 0, 0, 0, 0))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ws = WebSocket.of(self)
        assert ws is not None
        ws.on("message", ws.send)
        ws.connect()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    request_queue_size = 1000

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
        super().server_bind()


def serve(port: int, moves: bool) -> None:
    """The servers' process: prints "ready", and its CPU time of the deploy at each end."""
    server = configure_server(Server(("127.0.0.1", port), Handler))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    print("ready", flush=True)
    stop.wait()
    server.shutdown()
    server.socket.close()
    if moves:
        print(move_connections(pause=0, timeout=60), flush=True)
    else:
        default_engine().close_all(1012, timeout=60)
    sys.stdout.flush()
    os._exit(0)


def start(port: int, moves: bool) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--serve", str(port), *(["--moves"] if moves else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def cpu_of(process: subprocess.Popen[str]) -> float:
    return time.clock_gettime(~process.pid << 3 | 2)


class Client:
    """Reconnects when it is closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.reconnects = 0

    async def open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writer.write(REQUEST)
        await self._reader.readuntil(b"\r\n\r\n")

    async def live(self) -> None:
        while True:
            if await self._reader.read(2) != b"":
                self._writer.write(EMPTY_CLOSE)
                await self._reader.read()
            self._writer.close()
            await self.open()
            self.reconnects += 1


async def measure(count: int, moves: bool) -> tuple[float, float, float]:
    """Return seconds, CPU seconds of both servers and of the clients, for one deploy."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    old = start(port, moves)
    clients = [Client(port) for _ in range(count)]
    for client in clients:
        await client.open()
    new = start(port, moves)
    living = [asyncio.create_task(client.live()) for client in clients]
    await asyncio.sleep(0.2)
    before, own, began = cpu_of(old) + cpu_of(new), time.process_time(), time.perf_counter()
    old.send_signal(signal.SIGTERM)
    last = before
    while old.poll() is None or (not moves and sum(c.reconnects for c in clients) < count):
        if old.poll() is None:
            last = cpu_of(old) + cpu_of(new)
            of_old = last - cpu_of(new)
        await asyncio.sleep(0.01)
    seconds, used = time.perf_counter() - began, of_old + cpu_of(new) - before
    own = time.process_time() - own
    assert sum(client.reconnects for client in clients) == (0 if moves else count)
    for task in living:
        task.cancel()
    new.kill()
    new.wait()
    return seconds, used, own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", type=int)
    parser.add_argument("--moves", action="store_true")
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.moves)
        return
    os.environ["WEBSOCKET_HANDLER_RUNTIME_DIR"] = tempfile.mkdtemp()
    rounds: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    for _ in range(options.rounds):
        for moves in (True, False):
            rounds[moves].append(asyncio.run(measure(options.connections, moves)))
    for moves, name in ((True, "moved"), (False, "reconnected")):
        seconds, servers, clients = (median(column) for column in zip(*rounds[moves], strict=True))
        count = options.connections
        print(
            f"{name:12} {count / seconds:7.0f}/s   CPU per connection: "
            f"servers {servers / count * 1e6:5.0f} us, clients {clients / count * 1e6:5.0f} us"
        )


if __name__ == "__main__":
    main()
