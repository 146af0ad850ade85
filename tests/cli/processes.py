"""The command line as a process, in a pipe or on a pseudo-terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

from websocket_handler import IS_NATIVE

from ..support.programs import wait_for

TIMEOUT_S = 30.0
COLUMNS = 120
COMMAND = [sys.executable, "-m", "websocket_handler"]
EDITING = "\x1b[?2004h"
"""Switches bracketed paste on: the line editor is ready."""

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\][^\x07]*\x07|\r")


def environment(**others: str) -> dict[str, str]:
    pure = "0" if IS_NATIVE else "1"
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**plain, "WEBSOCKET_HANDLER_PURE_PYTHON": pure, **others}


def run(
    *arguments: str, stdin: str | bytes = b"", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose input and output are pipes."""
    return subprocess.run(
        [*COMMAND, *arguments],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        env=environment(**variables),
        check=False,
    )


def start_interruptible(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a command that SIGINT interrupts, also if the tests run in the background, where
    shells let it be ignored."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


class Terminal:
    """A command on a pseudo-terminal."""

    def __init__(self, state: Path, *arguments: str, **variables: str) -> None:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, COLUMNS, 0, 0))
        os.set_blocking(ours, False)
        self._descriptor = ours
        self._written = ""
        try:
            self._process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=theirs,
                stdout=theirs,
                stderr=theirs,
                start_new_session=True,
                env=environment(
                    XDG_STATE_HOME=str(state),
                    TERM="xterm-256color",
                    PROMPT_TOOLKIT_NO_CPR="1",  # nothing answers cursor position requests
                    **variables,
                ),
            )
        finally:
            os.close(theirs)

    def type(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def raw(self) -> str:
        """All that the command has written so far."""
        with contextlib.suppress(BlockingIOError, OSError):  # EIO after its end
            while data := os.read(self._descriptor, 1 << 16):
                self._written += data.decode(errors="replace")
        return self._written

    def screen(self) -> str:
        """The same without escape sequences."""
        return ESCAPES.sub("", self.raw())

    def wait_for_prompt(self) -> None:
        wait_for(lambda: EDITING in self.raw(), f"a prompt:\n{self.screen()}", TIMEOUT_S)

    def wait_for(self, text: str, seen: int = 0) -> None:
        wait_for(lambda: text in self.screen()[seen:], f"{text!r} on:\n{self.screen()}", TIMEOUT_S)

    def wait(self) -> int:
        """Wait until the command ends; returns its exit code."""
        wait_for(lambda: self.raw() and self._process.poll() is not None, "the end", TIMEOUT_S)
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._descriptor)


@contextlib.contextmanager
def terminal(state: Path, *arguments: str, **variables: str) -> Iterator[Terminal]:
    shown = Terminal(state, *arguments, **variables)
    try:
        yield shown
    finally:
        shown.close()
