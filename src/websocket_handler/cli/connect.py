"""`websocket-handler connect URL`: sends the lines of stdin and shows the messages of the peer."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import IO

from ..connection.lifecycle import NORMAL_CLOSE_CODES
from ..errors import ConnectionClosed, HandshakeFailed, UnsupportedByVersion, WebSocketError
from ..protocol.close_codes import CloseCode
from ..protocol.printable import printable
from ..protocol.request import Headers
from ..websocket import WebSocket
from .actions import COMMANDS, Action, Close, Help, Ping, Send, parse
from .display import Display, PipeDisplay
from .target import Target
from .text import describe_close, without_tags

REPLY_TIMEOUT_S = 10.0
"""The default of `wait` if one reply is wanted."""

WAIT_S = 1.0
"""The default of `wait` otherwise."""

MAX_SIGNAL_DELAY_S = 0.5

CHUNK_SIZE = 1 << 16

MAX_BODY_SHOWN = 300
"""The part of an HTTP error's body that is shown, in characters."""


class ExitCode(IntEnum):
    OK = 0
    NOT_OPENED = 1
    USAGE = 2
    CLOSED_WITH_ERROR = 3
    NO_REPLY = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Options:
    """How messages are sent and shown.

    `messages` are sent instead of the lines of stdin. `wait` is the number of seconds to receive
    after the last message was sent; None stands for the default.
    """

    messages: tuple[str, ...] = ()
    is_binary: bool = False
    has_commands: bool = False
    as_json: bool = False
    output: IO[bytes] | None = None
    one: bool = False
    wait: float | None = None

    @property
    def is_interactive(self) -> bool:
        has_terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
        return has_terminal and not (self.messages or self.is_binary)


class Session:
    """One open connection. A thread receives its messages and shows them."""

    def __init__(self, websocket: WebSocket, display: Display, one: bool = False) -> None:
        self.display = display
        self.ended: threading.Event = threading.Event()
        """Set when the connection is closed, or when no more messages are wanted."""
        self.sent_or_ended: threading.Event = threading.Event()
        """Set also when all messages were sent."""
        self.has_reply: bool = False
        self.has_failed: bool = False
        """Whether the input was invalid, or the output could not be written."""
        self.on_end: Callable[[], object] = lambda: None
        self._websocket = websocket
        self._one = one
        self._is_closing = False  # this side started the closing handshake
        self._pinged_at: float | None = None
        self._own_limit = ""  # the limit of this side that the peer has exceeded
        websocket.on("pong", self._show_pong)
        self._thread = threading.Thread(target=self._receive, name="receiver", daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        try:
            while True:
                self.display.message(self._websocket.receive())
                self.has_reply = True
                if self._one:
                    break
        except ConnectionClosed as error:
            self._own_limit = error.limit if error.limit.startswith("our ") else ""
        except OSError as error:  # `head` has read enough, or the disk is full
            if not isinstance(error, BrokenPipeError):
                self.fail(f"cannot write: {reason_of(error)}")
            self._is_closing = True
        finally:
            self.ended.set()
            self.sent_or_ended.set()
            self.on_end()

    def fail(self, text: str) -> None:
        """Show an error of the input or the output, which decides the exit code."""
        self.has_failed = True
        self.display.notice(text, is_error=True)

    def _show_pong(self, payload: bytes) -> None:
        if self._pinged_at is None:
            return  # the peer sent it unasked
        took, self._pinged_at = 1000 * (time.monotonic() - self._pinged_at), None
        self.display.notice(f"pong after {took:.1f} ms {payload.decode(errors='replace')}".rstrip())

    def perform(self, action: Action) -> None:
        """Raises `ConnectionClosed`, and for an invalid action `ValueError` or
        `UnsupportedByVersion`."""
        if isinstance(action, Send):
            self._websocket.send(action.data)
        elif isinstance(action, Ping):
            self._pinged_at = time.monotonic()
            self._websocket.ping(action.payload)
        elif isinstance(action, Close):
            self._websocket.close(action.code, action.reason)
            self._is_closing = True
        elif isinstance(action, Help):
            for name, meaning in COMMANDS.items():
                self.display.notice(f"{name:<23} {meaning}")

    def perform_line(self, line: str) -> None:
        """Perform the action of a line that the user typed, or show its mistake."""
        try:
            self.perform(parse(line))
        except (ValueError, UnsupportedByVersion, OSError) as error:
            self.display.notice(reason_of(error), is_error=True)

    def close(self) -> ExitCode:
        """Close the connection unless it is closed, and show how it ended."""
        websocket = self._websocket
        is_served = self._one and self.has_reply
        self._is_closing = self._is_closing or is_served or not self.ended.is_set()
        websocket.close()
        websocket.wait_closed()
        code, reason = websocket.close_code, websocket.close_reason
        is_normal = self._is_closing or code in NORMAL_CLOSE_CODES
        by = "closed" if self._is_closing or self._own_limit else "closed by the peer"
        if code == CloseCode.ABNORMAL_CLOSURE:
            by = "the connection was lost"
        text = f"{by}: {describe_close(code or 0)} {reason}".rstrip()
        limit = f": {self._own_limit}" if self._own_limit else ""
        self.display.notice(text + limit, not is_normal)
        if self.has_failed:
            return ExitCode.USAGE
        return ExitCode.OK if is_normal else ExitCode.CLOSED_WITH_ERROR


def reason_of(error: Exception) -> str:
    """Return the text of an error, of an `OSError` without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def run(target: Target, options: Options) -> ExitCode:
    """Connect, and send and receive until the end; returns the exit code."""
    try:
        websocket = target.open()
    except (WebSocketError, OSError) as error:
        sys.stderr.write(explain(error, target.shown_url) + "\n")
        return ExitCode.NOT_OPENED
    session = Session(websocket, display_for(options), options.one)
    if options.is_interactive:
        from .prompt import converse

        session.display.notice(greeting(websocket, target.shown_url))
        converse(session)
        return session.close()
    return send_all(session, options)


def display_for(options: Options) -> Display:
    if options.is_binary or not sys.stdout.isatty():
        return PipeDisplay(options.as_json, options.output, options.is_binary)
    from .terminal import TerminalDisplay

    return TerminalDisplay(options.as_json, options.output, "< " if options.is_interactive else "")


def greeting(websocket: WebSocket, url: str) -> str:
    extension = websocket.extensions.partition(";")[0]
    agreed = [str(websocket.version), websocket.subprotocol, extension]
    return f"connected to {url} ({', '.join(filter(None, agreed))}); /help shows the commands"


def explain(error: Exception, url: str) -> str:
    """Return a message for a user if the connection cannot be opened."""
    if isinstance(error, HandshakeFailed):
        text = f"the handshake failed: {printable(error.reason)}"
        body = error.body.decode(errors="replace")
        kind = Headers(error.headers).get("Content-Type", "")
        body = without_tags(body) if "html" in kind else " ".join(body.split())
        text += f": {printable(body, MAX_BODY_SHOWN)}" if body else ""
    else:
        reason = printable(reason_of(error))
        text = reason if reason.startswith("cannot ") else f"cannot connect: {reason}"
    return f"{text}\n`websocket-handler doctor {printable(url)}` examines the server."


# Without a prompt


def send_all(session: Session, options: Options) -> ExitCode:
    """Send the messages or the lines of stdin, then receive for a while."""
    try:
        Sender(session, options).start()
        wait(session.sent_or_ended, math.inf)
        wait(session.ended, wait_time(options))
    except KeyboardInterrupt:
        session.close()
        return ExitCode.INTERRUPTED
    code = session.close()
    if options.one and not session.has_reply and code == ExitCode.OK:
        session.display.notice("no reply", is_error=True)
        return ExitCode.NO_REPLY
    return code


def wait(event: threading.Event, seconds: float) -> None:
    """Wait until the event is set, at most `seconds`.

    Waits in short steps, because a signal does not end a wait that begins just after it.
    """
    end = time.monotonic() + seconds
    while not event.wait(min(MAX_SIGNAL_DELAY_S, end - time.monotonic())):
        if time.monotonic() >= end:
            return


def wait_time(options: Options) -> float:
    if options.wait is not None:
        return options.wait
    return REPLY_TIMEOUT_S if options.one else WAIT_S


class Sender(threading.Thread):
    """Sends in the background, because a read of stdin cannot be interrupted."""

    def __init__(self, session: Session, options: Options) -> None:
        super().__init__(name="sender", daemon=True)
        self._session = session
        self._options = options

    def run(self) -> None:
        try:
            for action in self._actions():
                self._session.perform(action)
        except ConnectionClosed:
            pass  # the session shows how it ended
        except (ValueError, UnsupportedByVersion, OSError) as error:
            self._session.fail(f"cannot send: {reason_of(error)}")
        finally:
            self._session.sent_or_ended.set()

    def _actions(self) -> Iterator[Action]:
        options = self._options
        if options.is_binary and not options.messages:
            yield Send(b"".join(chunks()))
            return
        for line in options.messages or map(decode, lines()):
            yield parse(line) if options.has_commands else Send(line)


def chunks() -> Iterator[bytes]:
    """Yield the bytes of stdin. No lock is held meanwhile, so the process can end at any time."""
    while data := os.read(0, CHUNK_SIZE):
        yield data


def lines() -> Iterator[bytes]:
    """Yield the lines of stdin without their ends."""
    unread = bytearray()
    for chunk in chunks():
        searched = len(unread)
        unread += chunk
        if b"\n" in chunk:
            end = unread.rindex(b"\n", searched)
            yield from bytes(unread[:end]).split(b"\n")
            del unread[: end + 1]
    if unread:
        yield bytes(unread)


def decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("the input is not UTF-8; --binary sends it as a binary message") from None
