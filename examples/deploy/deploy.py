"""Deploy the chat again and again while clients use it, and print their observations.

    python deploy.py --sockets 500 --talkers 20 --deploys 10

Every talker sends a number and waits for its answer, without a break. Every other socket is asked
once at the end. A process of its own makes ordinary requests, one after the other, so that it
measures the server and not the clients. Before each deploy, it does so beside the talkers alone,
for comparison. Exits with 1 if a socket was closed, or if an answer was wrong.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from websocket_handler import WebSocketError, aconnect

HERE = Path(__file__).parent
OPENING = 50
"""Handshakes at the same time."""

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Browser:
    """A process that makes ordinary requests."""

    def __init__(self, port):
        context = multiprocessing.get_context("spawn")  # without copies of the clients' sockets
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=browse, args=[port, theirs], daemon=True)
        self._process.start()
        self._ours.recv()

    def stop(self):
        """Return the beginning and the duration of each request, and the number of failed ones."""
        self._ours.send("stop")
        times = self._ours.recv()
        self._process.join()
        return times


def browse(port, pipe):
    times, failed = [], 0
    while not pipe.poll(0.01):
        began = time.monotonic()
        try:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(REQUEST)
                while connection.recv(1 << 16):
                    pass
        except OSError:
            failed += 1
            continue
        times.append((began, time.monotonic() - began))
        if len(times) == 1:
            pipe.send("ready")
    pipe.send((times, failed))


class Clients:
    """The clients of one server."""

    def __init__(self, port):
        self.port = port
        self.sockets = []
        self.closed = self.wrong = self.answers = 0
        self.longest = 0.0
        self.pids = set()
        self.versions = set()
        self.is_over = False

    async def open(self, count):
        url = f"ws://127.0.0.1:{self.port}/"
        for begin in range(0, count, OPENING):
            opening = [aconnect(url) for _ in range(min(OPENING, count - begin))]
            self.sockets += await asyncio.gather(*opening)
        for ws in self.sockets:
            self.wrong += await ws.areceive() != "welcome"

    async def ask(self, ws, number):
        began = time.perf_counter()
        ws.send(f"/ask {number}")
        answer = await ws.areceive()
        self.longest = max(self.longest, time.perf_counter() - began)
        found, version, pid = answer.split()
        self.pids.add(int(pid))
        self.versions.add(version)
        self.wrong += found != str(number)
        self.answers += 1

    async def talk(self, ws):
        number = 0
        while not self.is_over:
            number += 1
            try:
                await self.ask(ws, number)
            except WebSocketError:
                self.closed += 1
                return
            await asyncio.sleep(0.005)


def percentile(times, share):
    return sorted(times)[int(len(times) * share)] * 1000 if times else 0.0


async def deploys(clients, master, version_file, options):
    await clients.open(options.sockets)
    gc.freeze()  # the pauses of the clients themselves are not those of the server
    talkers = [asyncio.create_task(clients.talk(ws)) for ws in clients.sockets[: options.talkers]]
    browser = Browser(clients.port)
    longest, periods = 0.0, []
    for number in range(options.deploys):
        await asyncio.sleep(options.normal)
        clients.longest = 0.0
        began = time.monotonic()
        version_file.write_text(str(number + 2))
        former, clients.pids = clients.pids, set()
        os.kill(master, signal.SIGHUP)
        end = time.monotonic() + 180
        while any(Path("/proc", str(pid)).exists() for pid in former):
            if time.monotonic() > end:
                raise SystemExit("the former workers have not ended")
            await asyncio.sleep(0.05)
        periods.append((began, time.monotonic()))
        longest = max(longest, clients.longest)
    requests, failed = browser.stop()
    clients.is_over = True
    await asyncio.gather(*talkers, return_exceptions=True)
    for ws in clients.sockets[options.talkers :]:
        try:
            await asyncio.wait_for(clients.ask(ws, 0), 10)
        except (WebSocketError, asyncio.TimeoutError):
            clients.closed += 1
    print(f"{options.deploys} deploys, {len(clients.sockets)} sockets, {clients.answers} answers")
    print(f"closed {clients.closed}, wrong answers {clients.wrong}")
    print(f"versions seen: {sorted(clients.versions, key=int)}")
    print(f"longest wait of a talking client: {longest * 1000:.0f} ms")
    print(f"{len(requests)} ordinary requests, {failed} failed")
    report_requests(requests, periods)
    return not clients.closed and not clients.wrong


def report_requests(requests, periods):
    """Print the 99th percentile of the requests beside the talkers alone, and beside deploys."""
    beside = [[t for began, t in requests if first <= began < last] for first, last in periods]
    during = [t for times in beside for t in times]
    normal = percentile(
        [t for began, t in requests if not any(a <= began < z for a, z in periods)], 0.99
    )
    ratios = [f"{percentile(times, 0.99) / normal:.1f}" for times in beside]
    seconds = [f"{last - first:.0f}" for first, last in periods]
    print(
        f"p99 of ordinary requests: {normal:.1f} ms, beside deploys {percentile(during, 0.99):.1f}"
    )
    print(f"times the normal one, by deploy: {' '.join(ratios)} (seconds: {' '.join(seconds)})")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sockets", type=int, default=500)
    parser.add_argument("--talkers", type=int, default=20)
    parser.add_argument("--deploys", type=int, default=10)
    parser.add_argument("--normal", type=float, default=6, help="seconds before each deploy")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log", default=os.devnull, help="file for the server's log")
    options = parser.parse_args()
    port = free_port()
    with tempfile.TemporaryDirectory() as directory, Path(options.log).open("w") as log:
        version_file = Path(directory, "version")
        version_file.write_text("1")
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "chat:app"]
        server = subprocess.Popen(
            [*command, "-b", f"127.0.0.1:{port}", "-w", str(options.workers)],
            cwd=HERE,
            env={**os.environ, "VERSION_FILE": str(version_file)},
            stderr=log,
        )
        clients = Clients(port)

        async def run():
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
            return await deploys(clients, server.pid, version_file, options)

        try:
            is_good = asyncio.run(run())
        finally:
            server.terminate()
            server.wait(30)
    sys.exit(not is_good)


if __name__ == "__main__":
    main()
