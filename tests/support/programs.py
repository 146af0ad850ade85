"""Real processes for the tests: started, observed from outside, and ended.

A program writes a ready line that names its port; all its output goes to one log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple, TypeVar
from urllib.request import urlopen

from websocket_handler import IS_NATIVE

TIMEOUT_S = 10.0
"""Seconds after which a condition that should hold at once is considered failed."""

CPU_CLOCK = 2
"""The kernel's number for a process clock in nanoseconds (CPUCLOCK_SCHED)."""

Found = TypeVar("Found")


class EngineSetup(NamedTuple):
    """One combination of the matrix: which engine, and where it runs."""

    name: str
    runs_in: str
    pure: bool


ENGINES = [
    *(
        EngineSetup(f"native-{runs_in}", runs_in, False)
        for runs_in in ("thread", "asyncio", "uvloop")
        if IS_NATIVE
    ),
    *(EngineSetup(f"pure-{runs_in}", runs_in, True) for runs_in in ("thread", "asyncio")),
]


def wait_for(
    look: Callable[[], Found | None], what: str, timeout_s: float = TIMEOUT_S, pause: float = 0.01
) -> Found:
    """Evaluate `look` repeatedly until its result is true; returns the result."""
    end = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(pause)


class Program:
    """A running process that serves on 127.0.0.1."""

    def __init__(
        self,
        arguments: list[str],
        ready: str,
        pure: bool = False,
        descriptors: int = 4096,
        python: str = sys.executable,
    ) -> None:
        """`ready` is a pattern for the log; its first group is the port."""

        def prepare() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs ignore it
            _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(descriptors, most), most))

        self._log = TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, "-u", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "WEBSOCKET_HANDLER_PURE_PYTHON": "1" if pure else "0"},
            preexec_fn=prepare,
            start_new_session=True,
        )
        try:
            found = wait_for(lambda: self._find_or_die(ready), f"{arguments} to be ready", 20)
        except BaseException:
            self.close()
            raise
        self.port = int(found)

    def _find_or_die(self, pattern: str) -> str | None:
        if self._process.poll() is not None:
            raise AssertionError(f"the program has ended:\n{self.log()}")
        found = re.search(pattern, self.log())
        return found and found[1]

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def pid(self) -> int:
        return self._process.pid

    def url(self, target: str, scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.port}{target}"

    def get(self, target: str) -> Any:
        """Make an HTTP request to the program; the response is JSON."""
        with urlopen(self.url(target, "http"), timeout=TIMEOUT_S) as response:
            return json.load(response)

    def log(self) -> str:
        """Returns all output so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def wait_for_log(self, text: str, seen: int = 0) -> str:
        """Returns the log after its first `seen` characters, once that part contains `text`."""
        wait_for(lambda: text in self.log()[seen:], f"{text!r} in the log:\n{self.log()[seen:]}")
        return self.log()[seen:]

    # Resource use, as the kernel reports it

    def threads(self) -> int:
        status = self._proc("status").read_text()
        return int(re.findall(r"^Threads:\s*(\d+)", status, re.MULTILINE)[0])

    def descriptors(self) -> int:
        return len(list(self._proc("fd").iterdir()))

    def memory(self) -> int:
        """Resident bytes."""
        return int(self._proc("statm").read_text().split()[1]) * resource.getpagesize()

    def cpu_seconds(self) -> float:
        """The processor time of all its threads, including ended ones."""
        clock = ~self.pid << 3 | CPU_CLOCK  # computed as clock_getcpuclockid(3) does on Linux
        return time.clock_gettime(clock)

    def _proc(self, name: str) -> Path:
        return Path("/proc", str(self.pid), name)

    # Ending the program

    def end(self, by: signal.Signals = signal.SIGINT, timeout_s: float = TIMEOUT_S) -> int:
        """Ask it to end; returns its exit code."""
        self.end_soon(by)
        return self.wait(timeout_s)

    def end_soon(self, by: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(by)

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the program did not end:\n{self.log()}") from None

    def kill(self) -> None:
        """End it by any means; does nothing if it has ended."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill all processes of its group, and close its log."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.kill()
        self._log.close()


class Journal:
    """The events of one WebSocket, as the echo program has recorded them."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.name = f"journal-{time.monotonic_ns()}"

    def read(self) -> list[list[object]]:
        events: list[list[object]] = self._program.get(f"/journal?id={self.name}")
        return events

    def wait_for(self, *event: object) -> list[list[object]]:
        """Returns the whole journal once an entry begins like this."""
        entries: list[list[object]] = []

        def has_event() -> bool:
            entries[:] = self.read()
            return any(entry[: len(event)] == list(event) for entry in entries)

        try:
            wait_for(has_event, f"{event}")
        except AssertionError as error:
            raise AssertionError(f"{error} in {entries}") from None
        return entries


@contextlib.contextmanager
def running(program: Program) -> Iterator[Program]:
    try:
        yield program
    finally:
        program.close()


def echo_program(
    engine_setup: EngineSetup, *arguments: str, descriptors: int = 4096
) -> contextlib.AbstractContextManager[Program]:
    """tests/end_to_end/echo_program.py with the given engine, in the given place."""
    command = ["-m", "tests.end_to_end.echo_program", "--runs-in", engine_setup.runs_in, *arguments]
    return running(Program(command, r"ready on port (\d+)", engine_setup.pure, descriptors))


def demo(*arguments: str, descriptors: int = 4096) -> contextlib.AbstractContextManager[Program]:
    """The demo on a port of its own choice, with the engine of this process."""
    command = ["-m", "websocket_handler", "--port", "0", *arguments]
    ready = r"http://localhost:(\d+)/echotest\.html is ready"
    return running(Program(command, ready, not IS_NATIVE, descriptors))
