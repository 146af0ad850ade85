"""The meaning of a line that the user types: a message, a ping, a close frame or help."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, TypeAlias

from ..protocol.close_codes import CloseCode

MAX_FILE_SIZE = 1 << 28
"""The size of the largest file that is sent as a message, in bytes."""

COMMANDS = {
    "/ping [DATA]": "send a ping, and show the time until its pong",
    "/close [CODE [REASON]]": "close the connection, by default with 1000",
    "/help": "show these commands",
    "@FILE": "send the content of a file as a binary message",
    "//TEXT, @@TEXT": "send a text that begins with / or @",
}


class Send(NamedTuple):
    data: str | bytes


class Ping(NamedTuple):
    payload: str


class Close(NamedTuple):
    code: int
    reason: str


class Help(NamedTuple):
    pass


Action: TypeAlias = Send | Ping | Close | Help


def parse(line: str) -> Action:
    """Return the action of a line.

    Raises `ValueError` for an unknown command or an invalid close code, `OSError` if a file
    cannot be read.
    """
    if line.startswith(("//", "@@")):
        return Send(line[1:])
    if line.startswith("@"):
        return Send(read_file(Path(line[1:].strip()).expanduser()))
    if line.startswith("/"):
        return parse_command(line)
    return Send(line)


def parse_command(line: str) -> Action:
    name, _, rest = line.partition(" ")
    if name == "/ping":
        return Ping(rest)
    if name == "/close":
        return parse_close(rest.strip())
    if name == "/help":
        return Help()
    raise ValueError(f"unknown command {name}; /help lists the commands, //TEXT sends /TEXT")


def parse_close(arguments: str) -> Close:
    code, _, reason = arguments.partition(" ")
    if not code:
        return Close(CloseCode.NORMAL_CLOSURE, "")
    if not code.isdecimal():
        raise ValueError(f"the close code must be a number, not {code!r}")
    return Close(int(code), reason)


def read_file(path: Path) -> bytes:
    """Return the content of a file, which may be a pipe."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_SIZE + 1)
    if len(content) > MAX_FILE_SIZE:
        raise ValueError(f"{path} is larger than {MAX_FILE_SIZE >> 20} MiB")
    return content
