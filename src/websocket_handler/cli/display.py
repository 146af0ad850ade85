"""Shows received messages and notices in a pipe; terminal.py does so for a person."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import IO

from ..protocol.printable import printable
from .text import hexdump, pretty


class Display(ABC):
    """Shows the messages of one connection.

    `as_json` pretty-prints JSON messages. The payload of each binary message is written to
    `output` if it is given.
    """

    def __init__(self, as_json: bool, output: IO[bytes] | None) -> None:
        self._as_json = as_json
        self._output = output

    def message(self, message: str | bytes) -> None:
        """Show one received message. Raises `OSError` if it cannot be written."""
        if isinstance(message, str):
            json = pretty(message) if self._as_json else None
            if json is None:
                self._text(message)
            else:
                self._json(json)
        elif self._output is None:
            self._binary(message)
        else:
            self._output.write(message)
            self._output.flush()
            self.notice(f"binary, {len(message)} bytes, written to {self._output.name}")

    @abstractmethod
    def notice(self, text: str, is_error: bool = False) -> None:
        """Show a line about the connection. `text` may contain a peer's text."""

    @abstractmethod
    def _text(self, text: str) -> None: ...

    def _json(self, text: str) -> None:
        self._text(text)

    @abstractmethod
    def _binary(self, data: bytes) -> None: ...


class PipeDisplay(Display):
    """Writes messages to stdout, each followed by a line break, and errors to stderr.

    With `is_raw` nothing is added to the messages.
    """

    def __init__(self, as_json: bool, output: IO[bytes] | None, is_raw: bool) -> None:
        super().__init__(as_json, output)
        self._is_raw = is_raw

    def notice(self, text: str, is_error: bool = False) -> None:
        if is_error:
            sys.stderr.write(printable(text, len(text)) + "\n")

    def _text(self, text: str) -> None:
        self._write(text if self._is_raw else f"{text}\n")

    def _binary(self, data: bytes) -> None:
        self._write(data if self._is_raw else "".join(f"{line}\n" for line in hexdump(data)))

    def _write(self, data: str | bytes) -> None:
        sys.stdout.buffer.write(data.encode() if isinstance(data, str) else data)
        sys.stdout.buffer.flush()
