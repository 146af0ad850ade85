"""Real brokers for the tests: redis-server and nats-server on free ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import require
from tests.support.ports import free_port
from tests.support.programs import wait_for
from websocket_handler.bus.bus import Bus


class BrokerProcess:
    """A broker that can be killed, stopped, and restarted with the same port and data."""

    def __init__(self, command: list[str], url: str, port: int, folder: Path) -> None:
        self.url = url
        self.port = port
        self.folder = folder
        self._command = command
        self._log = (folder / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it; returns once it listens."""
        self._process = subprocess.Popen(
            self._command,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        wait_for(self._listens, f"{self._command[0]} to listen:\n{self.log()}")

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"the broker has ended:\n{self.log()}")
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL; returns once the process has ended."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Stop the process inside: its port accepts connections, but nothing answers."""
        self.signal(signal.SIGSTOP)
        wait_for(self._is_stopped, "all threads of the broker to stop")
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def _is_stopped(self) -> bool:
        """Whether none of its threads can answer any more: they stop one after the other."""
        if self._process is None:
            return False
        threads = Path("/proc", str(self._process.pid), "task").glob("*/stat")
        return all(") T " in thread.read_text() for thread in threads)

    def close(self) -> None:
        if self._process is not None:
            self.signal(signal.SIGCONT)
            self.kill()
        self._log.close()


def redis_server(folder: Path, *options: str, user: str = "", tls: bool = False) -> BrokerProcess:
    """Keeps its data in an append-only file. With `tls` it accepts only TLS. REDIS_SERVER in the
    environment names another program, such as valkey-server."""
    program = os.environ.get("REDIS_SERVER") or shutil.which("redis-server")
    require(program, "redis-server")
    port = free_port()
    ports = f"--port 0 --tls-port {port}" if tls else f"--port {port}"
    # With another `appendfsync` Redis may answer up to two seconds before it writes to disk.
    kept = "--appendonly yes --appendfsync always"
    fixed = f"{ports} --bind 127.0.0.1 {kept} --save".split()
    command = [str(program), *fixed, "", "--dir", str(folder), *options]
    return BrokerProcess(command, f"redis://{user}127.0.0.1:{port}", port, folder)


def nats_server(
    folder: Path,
    *options: str,
    user: str = "",
    configuration: str = "",
    jetstream: bool = True,
) -> BrokerProcess:
    """Has JetStream if requested. `configuration` is for settings without a command line option."""
    (folder / "nats.conf").write_text(configuration + "\n")
    program = shutil.which("nats-server")
    require(program, "nats-server")
    port = free_port()
    fixed = f"-a 127.0.0.1 -p {port} -c nats.conf".split()
    storage = ["-js", "-sd", str(folder)] if jetstream else []
    command = [str(program), *fixed, *storage, *options]
    return BrokerProcess(command, f"nats://{user}127.0.0.1:{port}", port, folder)


class LocalDirectory(BrokerProcess):
    """The directory of local:// rooms: a broker without a process that a test could stop."""

    def __init__(self, folder: Path) -> None:
        self.url = f"local://{folder}"
        self.port = 0
        self.folder = folder
        self._process = None
        folder.chmod(0o700)

    def sockets(self) -> list[str]:
        """The names of the sockets in the directory: one for each bus."""
        return [path.name for path in self.folder.iterdir() if path.is_socket()]

    def connect(self, name: str) -> socket.socket:
        """Connect to a socket as another process does, without the long path of the directory."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
            fd = os.open(self.folder, os.O_RDONLY)
            try:
                connection.connect(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
            return connection.dup()

    def close(self) -> None:
        """Do nothing: pytest removes the directory."""


SERVERS: dict[str, Callable[..., BrokerProcess]] = {"redis": redis_server, "nats": nats_server}
STARTERS: dict[str, Callable[..., BrokerProcess]] = {**SERVERS, "local": LocalDirectory}


class SilentServer:
    """Accepts connections and sends the given bytes, none by default."""

    def __init__(self, says: bytes = b"") -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._says = says
        self._taken: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                taken, _ = self._socket.accept()
                self._taken.append(taken)
                with contextlib.suppress(OSError):
                    taken.sendall(self._says)

    def __enter__(self) -> SilentServer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for taken in self._taken:
            taken.close()


def break_connection(bus: Bus) -> None:
    assert bus._thread is not None
    assert bus._worker.broker is not None
    bus._thread.post(bus._worker.broker.fail, "the test says so")
