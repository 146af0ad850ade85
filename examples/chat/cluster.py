"""The chat on three servers behind haproxy, connected by Redis, all on 127.0.0.1.

Requires redis-server, haproxy, `websocket-handler[redis]` and the packages of with_fastapi.py.
Each server is a uvicorn process: `kill -9` one of them to see how the chat recovers. haproxy
forwards upgraded connections without configuration, distributes requests over the servers that
respond, and needs neither root nor files.

Ctrl-C, SIGTERM or closing the terminal stops all processes.
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
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TIMEOUT_S = 30.0
"""The time that a process may take to start."""

PROXY = """
defaults
    mode http
    balance roundrobin
    timeout connect 2s
    timeout client 30s
    timeout server 30s
    timeout tunnel 60s  # for open WebSockets, which exchange a ping after 20 s of silence
    retries 3
    option redispatch 1
    option httpchk GET /
    default-server check inter 500ms fall 1 rise 1
listen chat
    bind 127.0.0.1:{port}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="the chat on three servers behind haproxy")
    parser.add_argument("--port", type=int, default=8000, help="port of haproxy; 0 for a free one")
    port = free_port(parser.parse_args().port)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        TemporaryDirectory() as folder,
        cluster(port, Path(folder)) as processes,
    ):
        print(f"http://127.0.0.1:{port}/ is ready; press Ctrl-C to stop", flush=True)
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
    """Start a process in its own session, so that Ctrl-C reaches only this program, which stops
    the processes in order."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        start_new_session=True,
    )


def program(name: str) -> str:
    """Return the path of a program; Debian installs some where only root's PATH finds them."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    return found or sys.exit(f"{name} is not installed: apt-get install {name}")


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
    is_ready: Callable[[], bool], name: str, processes: dict[str, subprocess.Popen[bytes]]
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready():
        has_ended = any(process.poll() is not None for process in processes.values())
        if has_ended or time.monotonic() > deadline:
            sys.exit(f"{name} does not start")
        time.sleep(0.05)


def watch(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Report processes that exit; exit once no server, no haproxy or no Redis is left."""
    alive = dict(processes)
    while {"redis", "haproxy"} < alive.keys():
        for name, process in list(alive.items()):
            if process.poll() is not None:
                print(f"{name} has exited with {process.returncode}", flush=True)
                del alive[name]
        time.sleep(0.1)
    sys.exit("the cluster can no longer serve requests")


def end(processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Stop the proxy first and Redis last, so that the servers can still leave their rooms."""
    for number in STOP_SIGNALS:
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
