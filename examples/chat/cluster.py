"""Three servers of the chat behind haproxy, and a Redis between them, all on 127.0.0.1.

Needs redis-server and haproxy, and in Python what with_fastapi.py needs and
`websocket-handler[redis]`. Each server is uvicorn, which is one process: what happens when a
server dies is seen by `kill -9` of one number. haproxy passes an upgraded connection through
by itself, takes requests in turn to those servers that answer, and needs no root, no files.

Ctrl-C, SIGTERM or a closed terminal ends them all.
"""

import argparse
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import urlopen

SERVERS = 3
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 30.0
"""Seconds for something to start."""

PROXY = """
defaults
    mode http
    balance roundrobin
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout tunnel 60s  # of an open WebSocket, which is pinged after 20 s of silence
    retries 3
    option redispatch 1
    option httpchk GET /
    default-server check inter 500ms fall 1 rise 1
listen chat
    bind 127.0.0.1:{port}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="the chat on three servers behind haproxy")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    port = free_port(parser.parse_args().port)
    for number in ENDINGS:
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        TemporaryDirectory() as folder,
        cluster(port, Path(folder)) as processes,
    ):
        print(f"http://127.0.0.1:{port}/ is ready; Ctrl-C ends it", flush=True)
        watch(processes)


@contextlib.contextmanager
def cluster(port: int, folder: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        redis = free_port()
        processes["redis"] = start(
            *(program("redis-server"), "--bind", "127.0.0.1", "--port", str(redis)),
            *("--dir", str(folder), "--save", "", "--logfile", "redis.log"),
        )
        wait_until(lambda: connects(redis), "Redis", processes)
        ports = {f"server {number}": free_port() for number in range(1, SERVERS + 1)}
        for name, server in ports.items():
            processes[name] = start_server(name, server, f"redis://127.0.0.1:{redis}")
            print(f"{name}: pid {processes[name].pid}, port {server}", flush=True)
        for name, server in ports.items():
            wait_until(lambda server=server: answers(server), name, processes)
        lines = [f"    server s{server} 127.0.0.1:{server}\n" for server in ports.values()]
        configuration = folder / "haproxy.cfg"
        configuration.write_text(PROXY.format(port=port) + "".join(lines))
        processes["haproxy"] = start(program("haproxy"), "-q", "-db", "-f", str(configuration))
        wait_until(lambda: answers(port), "haproxy", processes)
        yield processes
    finally:
        end(processes)


def start_server(name: str, port: int, broker: str) -> subprocess.Popen[bytes]:
    return start(
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(Path(__file__).parent)),
        *("--ws", "websocket_handler.servers.uvicorn:WebSocketProtocol"),
        *("--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"),
        "with_fastapi:app",
        CHAT_BROKER=broker,
        CHAT_SERVER=name,
    )


def start(*command: str, **environment: str) -> subprocess.Popen[bytes]:
    """In a session of its own: a Ctrl-C is for this program, which ends the others in order."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def program(name: str) -> str:
    """Where it is; Debian has some where only root looks."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return found or sys.exit(f"{name} is not here: apt-get install {name}")


def free_port(wanted: int = 0) -> int:
    try:
        with socket.create_server(("127.0.0.1", wanted)) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        sys.exit(f"port {wanted}: {error.strerror}")


def connects(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{port}/", timeout=5):
        return True
    return False


def wait_until(
    is_so: Callable[[], bool], what: str, processes: dict[str, subprocess.Popen[bytes]]
) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > end or any(one.poll() is not None for one in processes.values()):
            sys.exit(f"{what} does not start")
        time.sleep(0.05)


def watch(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Servers may go, the others go on; until there is nothing that could."""
    alive = dict(processes)
    while {"redis", "haproxy"} < alive.keys():
        for name, process in list(alive.items()):
            if process.poll() is not None:
                print(f"{name} has ended: {process.returncode}", flush=True)
                del alive[name]
        time.sleep(0.1)
    sys.exit("nothing is left that could serve")


def end(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """The proxy first, Redis last: until then the servers can say goodbye."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    for process in reversed(processes.values()):
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
