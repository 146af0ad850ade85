"""Messages of every size."""

from __future__ import annotations

LENGTHS = (0, 1, 125, 126, 127, 65_535, 65_536, 1_000_000)


def text_of(size: int) -> str:
    """Text with `size` bytes in UTF-8, most of its characters longer than one byte."""
    text = "\u20ac\U0001f600\xe9z" * (size // 10)
    return text + "x" * (size - len(text.encode()))
