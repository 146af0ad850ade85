"""Real peers: an echo server of `websockets`, proxies of Debian, and a server of raw bytes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve, unix_serve

from ..conftest import require
from ..support.ports import free_port
from ..support.programs import wait_for

Process = Callable[[ServerConnection, Request], Response | None]


class EchoServer:
    """An echo server of the library `websockets`, in a thread. Records the requests."""

    def __init__(
        self, process: Process | None = None, context: ssl.SSLContext | None = None, **place: Any
    ) -> None:
        self.requests: list[Request] = []
        self.peers: list[Any] = []
        self._connections: set[ServerConnection] = set()
        self._process = process
        options: dict[str, Any] = {"process_request": self._record, "ssl": context}
        for name in ("subprotocols", "process_response"):
            options[name] = place.pop(name, None)
        if "path" in place:
            self._server = unix_serve(self._echo, place["path"], **options)
        else:
            self._server = serve(self._echo, sock=listening(**place), **options)
            self.port: int = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _echo(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        for message in connection:
            connection.send(message)
        self._connections.discard(connection)

    def _record(self, connection: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        self.peers.append(connection.remote_address)
        return self._process(connection, request) if self._process is not None else None

    def url(self, target: str = "/", host: str = "127.0.0.1", scheme: str = "ws") -> str:
        return f"{scheme}://{host}:{self.port}{target}"

    def header(self, name: str) -> str | None:
        """The header of the last request."""
        value: str | None = self.requests[-1].headers.get(name)
        return value

    def close(self) -> None:
        self._server.shutdown()
        for connection in tuple(self._connections):  # before websockets 17 they stay open
            connection.close(1001)
        self._thread.join(10)


def listening(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


class RawServer:
    """Answers every connection with the same bytes once it has received some; then it keeps the
    connection open, or closes it. With `trickles`, it sends them one by one."""

    def __init__(self, answer: bytes = b"", closes: bool = False, trickles: bool = False) -> None:
        self._answer = answer
        self._closes = closes
        self._trickles = trickles
        self.received = b""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.ended = threading.Semaphore(0)
        """Released for each connection that the client has ended."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            sock, _ = self._listening.accept()
            with sock, contextlib.suppress(OSError):
                sock.settimeout(20)
                self.received = sock.recv(1 << 16)
                if self.received == b"stop":
                    return
                size = 1 if self._trickles else len(self._answer) or 1
                for at in range(0, len(self._answer), size):
                    sock.sendall(self._answer[at : at + size])
                    time.sleep(0.01 if self._trickles else 0)
                while not self._closes and sock.recv(1 << 16):
                    pass
            self.ended.release()

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port)) as last:
            last.sendall(b"stop")
            self._thread.join(10)
        self._listening.close()


@contextlib.contextmanager
def started(command: list[str], port: int) -> Iterator[None]:
    """Run a program of Debian, once it listens on `port`; end all its processes."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    require(shutil.which(command[0], path=path), command[0])
    process = subprocess.Popen(
        [str(shutil.which(command[0], path=path)), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def listens() -> bool:
        assert process.poll() is None, f"{command} has ended"
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    try:
        wait_for(listens, f"{command[0]} to listen")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def tinyproxy(folder: Path, credentials: str = "") -> Iterator[int]:
    """An HTTP proxy. `credentials`: "user password". Returns its port; it logs to `folder`."""
    port = free_port()
    configuration = folder / f"tinyproxy-{port}.conf"
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "LogLevel Connect"]
    lines += [f'LogFile "{folder / "tinyproxy.log"}"', f'PidFile "{folder / "pid"}"']
    lines += [f"BasicAuth {credentials}"] if credentials else []
    configuration.write_text("\n".join(lines) + "\n")
    with started(["tinyproxy", "-d", "-c", str(configuration)], port):
        yield port


@contextlib.contextmanager
def behind_tls(folder: Path, certificate: Path, port: int) -> Iterator[int]:
    """haproxy, which adds TLS to the server at `port`. Returns its own port."""
    own = free_port()
    configuration = folder / f"haproxy-{own}.cfg"
    configuration.write_text(
        "defaults\n mode tcp\n timeout connect 10s\n timeout client 60s\n timeout server 60s\n"
        f"listen tls\n bind 127.0.0.1:{own} ssl crt {certificate}\n server s 127.0.0.1:{port}\n"
    )
    with started(["haproxy", "-q", "-db", "-f", str(configuration)], own):
        yield own


@contextlib.contextmanager
def microsocks(*arguments: str) -> Iterator[int]:
    """A SOCKS5 proxy. Returns its port."""
    port = free_port()
    with started(["microsocks", "-i", "127.0.0.1", "-p", str(port), *arguments], port):
        yield port


@contextlib.contextmanager
def dante(folder: Path) -> Iterator[int]:
    """A proxy for SOCKS4 and SOCKS5. Returns its port."""
    port = free_port()
    configuration = folder / "danted.conf"
    user = "user.privileged: root\nuser.unprivileged: nobody\n" if os.getuid() == 0 else ""
    configuration.write_text(
        f"logoutput: {folder / 'danted.log'}\ninternal: 127.0.0.1 port = {port}\n"
        f"external: 127.0.0.1\nclientmethod: none\nsocksmethod: none\n{user}"
        "client pass { from: 0.0.0.0/0 to: 0.0.0.0/0 }\n"
        "socks pass { from: 0.0.0.0/0 to: 0.0.0.0/0 protocol: tcp }\n"
    )
    with started(["danted", "-f", str(configuration)], port):
        yield port
