"""Shows received messages and notices on a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.text import Text

from .display import Display
from .text import hexdump, safe_lines

MAX_SHOWN_CHARACTERS = 20_000
MAX_SHOWN_BYTES = 4_096
"""The parts of one message that a terminal shows; a pipe gets all of it."""


class TerminalDisplay(Display):
    """Prints messages after a prefix, with colours and without a peer's control characters."""

    def __init__(self, as_json: bool, output: IO[bytes] | None, prefix: str) -> None:
        super().__init__(as_json, output)
        self._prefix = prefix
        self._highlighter = JSONHighlighter()

    def notice(self, text: str, is_error: bool = False) -> None:
        self._print(safe_lines(text), "", "red" if is_error else "bright_black")

    def _json(self, text: str) -> None:
        self._text(text, is_json=True)

    def _text(self, text: str, is_json: bool = False) -> None:
        self._print(safe_lines(text[:MAX_SHOWN_CHARACTERS]), self._prefix, is_json=is_json)
        self._note_rest(len(text) - MAX_SHOWN_CHARACTERS, "characters")

    def _binary(self, data: bytes) -> None:
        self._print([f"binary, {len(data)} bytes", *hexdump(data[:MAX_SHOWN_BYTES])], self._prefix)
        self._note_rest(len(data) - MAX_SHOWN_BYTES, "bytes")

    def _note_rest(self, size: int, unit: str) -> None:
        if size > 0:
            self.notice(f"{' ' * len(self._prefix)}… {size} more {unit}")

    def _print(
        self, lines: Iterable[str], prefix: str, style: str = "", is_json: bool = False
    ) -> None:
        """Print the lines. Those after the first are indented: none looks like a new message."""
        text = Text()
        for line in lines:
            shown = Text(line, style)
            if is_json:
                self._highlighter.highlight(shown)
            text.append("\n" if text else "").append(prefix, "bold blue").append_text(shown)
            prefix = " " * len(prefix)
        Console().print(text, soft_wrap=True)  # to the present sys.stdout: a prompt replaces it
