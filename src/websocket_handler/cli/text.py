"""Messages and close codes as text: JSON, hexdumps, and text that is safe on a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from ..protocol.close_codes import CloseCode
from ..protocol.printable import printable

BYTES_PER_LINE = 16


def pretty(text: str) -> str | None:
    """Return a JSON text with line breaks and indentation; None if it is not JSON."""
    try:
        value = json.loads(text)
        return json.dumps(value, indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def safe_lines(text: str) -> Iterator[str]:
    """Yield the lines of a peer's text, with control and format characters escaped."""
    for line in text.split("\n"):
        expanded = line.rstrip("\r").expandtabs()
        yield printable(expanded, len(expanded))


def without_tags(html: str) -> str:
    """Return the visible text of a page, without its title, on one line."""
    tags = r"<(style|script|title)\b.*?</\1>|<[^>]*>"
    return " ".join(re.sub(tags, " ", html, flags=re.DOTALL | re.IGNORECASE).split())


def hexdump(data: bytes) -> Iterator[str]:
    """Yield lines like those of `hexdump -C`."""
    for start in range(0, len(data), BYTES_PER_LINE):
        part = data[start : start + BYTES_PER_LINE]
        digits = f"{part[:8].hex(' ')}  {part[8:].hex(' ')}"
        characters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{start:08x}  {digits:<49} |{characters}|"


def describe_close(code: int) -> str:
    """Return a close code with its name."""
    try:
        name = CloseCode(code).name.lower().replace("_", " ")
    except ValueError:
        return str(int(code))
    return f"{int(code)} ({name})"
