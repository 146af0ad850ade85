"""The servers and cases of the benchmark, and the execution of a measurement.

Each server runs on core 0 and the load generator on core 1. A result is the CPU time of the server
per message; only its ratio to the C baseline of the same round is reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE / "build"
PEERS = HERE / ".venv" / "bin"
SERVER_CORE, GENERATOR_CORE = {0}, {1}


@dataclass(frozen=True)
class Case:
    """A closed loop of echoes: connections, messages in flight on each, and bytes per message."""

    name: str
    connections: int
    in_flight: int
    size: int
    text: bool = False

    def __str__(self) -> str:
        kind = "text" if self.text else "binary"
        size = f"{self.size >> 10} KiB" if self.size >= 1024 else f"{self.size} B"
        return f"{self.connections} × {self.in_flight} × {size} {kind}"


TLS_CASES = [
    Case("TLS", 50, 1, 32),
    Case("pipelined TLS", 50, 16, 32),
    Case("large TLS", 10, 1, 64 << 10),
]
CASES = [
    Case("one", 1, 1, 32),
    Case("hundred", 100, 1, 32),
    Case("thousand", 1000, 1, 128),
    Case("pipelined", 100, 16, 32),
    Case("pipelined text", 100, 16, 128, text=True),
    Case("large", 10, 1, 64 << 10),
    Case("huge", 4, 1, 1 << 20),
]


@dataclass(frozen=True)
class Server:
    """A server program; PORT in its command is replaced.

    A `raw` server echoes TCP without WebSockets, and `only_handshakes` supports only handshakes.
    One with a `CERTIFICATE` in its environment uses TLS.
    """

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    raw: bool = False
    only_handshakes: bool = False
    max_connections: int = 5000


def _ours(name: str, *words: str, **environment: str) -> Server:
    command = (sys.executable, "servers/ours.py", "PORT", *words)
    return Server(name, command, environment)


def _in_ours(name: str, *words: str) -> Server:
    return Server(name, (sys.executable, *words))


def _python(name: str, *words: str) -> Server:
    return Server(name, (str(PEERS / "python"), *words))


BASELINE = Server("C, TCP echo", (str(BUILD / "limit"), "PORT", "tcp"), raw=True)
C_WEBSOCKET = Server("C, minimal WebSocket echo", (str(BUILD / "limit"), "PORT", "websocket"))
OURS = [
    _ours("ours, thread", "thread"),
    _ours("ours, asyncio", "asyncio"),
    _ours("ours, uvloop", "uvloop"),
    _ours("ours, asyncio, async for", "asyncio", "coroutine"),
    _ours("ours, uvloop, async for", "uvloop", "coroutine"),
    _ours("ours, pure Python", "thread", WEBSOCKET_HANDLER_PURE_PYTHON="1"),
]
HANDSHAKE_ONLY = Server(
    "http.server, 101 only",
    (sys.executable, "servers/http_server_101.py", "PORT"),
    only_handshakes=True,
)
PICOWS = [
    _python("picows, uvloop", "servers/picows_echo.py", "PORT", "uvloop"),
    _python("picows, asyncio", "servers/picows_echo.py", "PORT", "asyncio"),
    _python("picows, `websockets` API", "servers/websockets_echo.py", "PORT", "picows"),
]
_UVICORN = ("-m", "uvicorn", "--app-dir", "servers", "--port", "PORT", "--log-level", "error",
            "--ws-per-message-deflate", "false", "--backlog", "4096")  # fmt: skip
_GTHREAD = ("-m", "gunicorn", "-k", "gthread", "-b", "127.0.0.1:PORT", "--chdir", "servers",
            "--log-level", "error", "--worker-connections", "20000")  # fmt: skip
_WS = ("--ws", "websocket_handler.servers.uvicorn:WebSocketProtocol")
IN_FRAMEWORKS = [
    _in_ours("ours in Flask, gunicorn", *_GTHREAD, "--threads", "8", "flask_app:app"),
    _in_ours("ours in plain ASGI, uvicorn", *_UVICORN, *_WS, "asgi_apps:bare"),
    _in_ours("ours in Starlette, uvicorn", *_UVICORN, *_WS, "asgi_apps:starlette"),
]
OTHERS = [
    _python("socketify (uWebSockets)", "servers/socketify_echo.py", "PORT"),
    Server("Node ws", ("node", "servers/ws_echo.mjs", "PORT")),
    _python("aiohttp", "servers/aiohttp_echo.py", "PORT"),
    _python("websockets", "servers/websockets_echo.py", "PORT", "websockets"),
    _python("uvicorn, plain ASGI", *_UVICORN, "asgi_apps:bare"),
    _python("uvicorn, Starlette", *_UVICORN, "asgi_apps:starlette"),
    Server(
        "flask-sock, gunicorn gthread",
        (str(PEERS / "python"), *_GTHREAD, "--threads", "1100", "flask_sock_app:app"),
        max_connections=500,
    ),
]


TLS_SERVERS = [
    *OURS[:3],
    PICOWS[0],
    *(one for one in OTHERS if one.name in ("aiohttp", "websockets")),
]
"""Servers that use TLS if `CERTIFICATE` names a file with a certificate and its key."""

LARGE_SERVERS = [
    C_WEBSOCKET,
    OURS[0],
    OURS[1],
    OURS[3],
    PICOWS[0],
    *(one for one in OTHERS if one.name in ("socketify (uWebSockets)", "Node ws", "websockets")),
]
"""Servers that are measured with up to 10,000 connections."""

GROWTH = (100, 1000, 10_000)
"""Numbers of connections of the closed loop that measures growth."""

PACED = {"connections": 10_000, "active": 100, "rate": 5000}
"""The open loop: messages are sent on time, however late the echoes are."""

FEED = _in_ours("feed", "servers/feed.py", "PORT")
"""The server of clients that only read; those that echo use `OURS[0]`."""

CLIENTS = {
    "ours, thread": (sys.executable, "ours_thread"),
    "ours, asyncio, async for": (sys.executable, "ours_asyncio"),
    "ours, uvloop, async for": (sys.executable, "ours_asyncio_uvloop"),
    "picows, uvloop": (str(PEERS / "python"), "picows_uvloop"),
    "websockets": (str(PEERS / "python"), "websockets"),
    "aiohttp": (str(PEERS / "python"), "aiohttp"),
    "websocket-client": (str(PEERS / "python"), "websocket_client"),
}
"""Clients: the Python that has the library, and the name in programs/client.py."""


def wait_until_listening(process: subprocess.Popen[Any], port: int, name: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"{name} does not start")


class Running:
    """A running server, on core 0, until `stop`."""

    def __init__(self, program: Server, port: int) -> None:
        self.program, self.port = program, port
        self._process = subprocess.Popen(
            [word.replace("PORT", str(port)) for word in program.command],
            cwd=HERE,
            env={**os.environ, **program.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: os.sched_setaffinity(0, SERVER_CORE),
        )
        wait_until_listening(self._process, port, program.name)

    def processes(self) -> list[int]:
        """Return the server's process and its descendants, such as gunicorn's workers."""
        found = [self._process.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                    found += map(int, (task / "children").read_text().split())
        return found

    def memory(self) -> int:
        """Return the resident user-space memory of all processes, in bytes."""
        return sum(
            int(line.split()[1]) << 10
            for pid in self.processes()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith("RssAnon")
        )

    def generate(self, mode: str, *words: object, seconds: float = 60) -> dict[str, float] | None:
        """Run the load generator and return its results, None if it failed."""
        command = self._generator(mode, *words)
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=seconds, preexec_fn=_on_generator_core
            )
        except subprocess.TimeoutExpired:
            return None
        return json.loads(done.stdout) if done.returncode == 0 else None

    def hold_idle(self) -> subprocess.Popen[bytes] | None:
        """Open connections that each exchange a message, and keep them open; None on failure."""
        connections = self.program.max_connections
        words = self._generator("idle", f"connections={connections}", "message")
        holder = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=_on_generator_core
        )
        assert holder.stdout is not None
        ready, _, _ = select.select([holder.stdout], [], [], 60)
        if ready and holder.stdout.readline():
            return holder
        holder.kill()
        holder.communicate()
        return None

    def _generator(self, mode: str, *words: object) -> list[str]:
        cpu = [f"cpu={pid}" for pid in self.processes()]
        if "CERTIFICATE" in self.program.environment:
            generator = [sys.executable, str(HERE / "programs/tls_load.py"), str(self.port)]
            return [*generator, *map(str, words), *cpu]
        raw = ["raw"] if self.program.raw else []
        return [str(BUILD / "load"), mode, str(self.port), "/", *map(str, words), *raw, *cpu]

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _on_generator_core() -> None:
    os.sched_setaffinity(0, GENERATOR_CORE)


def echo(server: Running, case: Case, seconds: float) -> dict[str, float] | None:
    """Make one measurement: message rate, CPU time per message, latencies."""
    words: list[object] = [
        f"connections={case.connections}",
        f"in-flight={case.in_flight}",
        f"size={case.size}",
        f"seconds={seconds}",
        "warm-up=0.4",
    ]
    return server.generate("echo", *words, *(["text"] if case.text else []))


def grown(server: Running, connections: int) -> dict[str, float] | None:
    """Measure a closed loop of that many connections, and the server's memory meanwhile."""
    return _with_memory(server, lambda: echo(server, Case("", connections, 1, 32), 1))


def paced(server: Running) -> dict[str, float] | None:
    """Measure 10,000 connections of which 1 % are active, in an open loop, and the memory."""
    words = [*(f"{name}={value}" for name, value in PACED.items()), "seconds=2", "warm-up=0.4"]
    return _with_memory(server, lambda: server.generate("paced", *words))


def _with_memory(
    server: Running, measure: Callable[[], dict[str, float] | None]
) -> dict[str, float] | None:
    """Add the largest memory of the server during the measurement to its result."""
    samples, over = [server.memory()], threading.Event()

    def sample() -> None:
        while not over.wait(0.1):
            samples.append(server.memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        measured = measure()
    finally:
        over.set()
        sampler.join()
    return measured and {**measured, "memory": max(samples)}


def client(name: str, kind: str, server: Running, seconds: float) -> dict[str, float] | None:
    """Measure a client of `CLIENTS`; `kind` is echo or feed. The CPU time is that of the client.

    If the server has a `CERTIFICATE`, clients use TLS and trust that certificate.
    """
    python, library = CLIENTS[name]
    certificate = server.program.environment.get("CERTIFICATE")
    url = f"{'wss' if certificate else 'ws'}://127.0.0.1:{server.port}/"
    try:
        done = subprocess.run(
            [python, str(HERE / "programs/client.py"), library, url, kind, str(seconds)],
            env={**os.environ, "SSL_CERT_FILE": certificate or ""},
            stdout=subprocess.PIPE,
            timeout=60,
            preexec_fn=_on_generator_core,
        )
    except subprocess.TimeoutExpired:
        return None
    return json.loads(done.stdout) if done.stdout else None
