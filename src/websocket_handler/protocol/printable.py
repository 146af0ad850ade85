"""Text from a peer, made safe for log lines, `repr` and error messages."""

from __future__ import annotations

MAX_TEXT_LENGTH = 200
"""The default limit for a peer's text, in characters."""


def printable(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """Return `text` on one line of printable characters, at most `limit` of them escaped.

    Line breaks, terminal escapes, other control and format characters (which reverse the
    direction of text, for example) and lone surrogates are written as Python's escapes.
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")
