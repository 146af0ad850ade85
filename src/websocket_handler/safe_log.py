"""A filter that makes every record of this library's logger safe to print.

A peer chooses close reasons, paths, header values and parts of exception messages. A line break in
them could forge a log line, and a terminal escape could change the screen.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator

from .protocol.printable import printable

MAX_MESSAGE_LENGTH = 2000
"""Characters of one log message, and of the text of one exception."""


class SafeRecords(logging.Filter):
    """Escapes unprintable characters in messages and tracebacks. Other records stay unchanged."""

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            _make_safe(record)
        except Exception:  # the repr() of an argument raises, for example
            record.msg, record.args = f"a message that cannot be formatted: {record.msg}", ()
            record.exc_info = None
        return True


def _make_safe(record: logging.LogRecord) -> None:
    message = record.getMessage()
    if not _is_safe(message):
        record.msg, record.args = printable(message, MAX_MESSAGE_LENGTH), ()
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and not all(map(_is_safe, _texts_of(error))):
        record.exc_text = safe_traceback(error)


def safe_traceback(error: BaseException) -> str:
    """Return the traceback in Python's format, with the text of each exception on one line."""
    lines = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    for text in sorted(_texts_of(error), key=len, reverse=True):
        if not _is_safe(text):  # the text follows the exception's name
            lines = lines.replace(f": {text}", f": {printable(text, MAX_MESSAGE_LENGTH)}")
    escaped = (printable(line, 2 * MAX_MESSAGE_LENGTH) for line in lines.split("\n"))
    return "\n".join(escaped).rstrip("\n")


def _is_safe(text: str) -> bool:
    return len(text) <= MAX_MESSAGE_LENGTH and text.isprintable()


def _texts_of(error: BaseException) -> Iterator[str]:
    """Yield the texts of the exception and of its causes and contexts."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield _text_of(current)
        waiting += [current.__cause__, current.__context__, *getattr(current, "exceptions", ())]


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""  # the traceback has a placeholder, too
