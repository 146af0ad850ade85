"""The steps after the handshake: pings, a message, and the closing handshake."""

from __future__ import annotations

import os
import socket
import statistics
from collections.abc import Callable, Iterator

from ...protocol.assembly import Close, Event, Message, Ping, Pong
from ...protocol.check import Violation
from ...protocol.close_codes import CloseCode
from ...protocol.deflate import Inflater
from ...protocol.frame import Opcode, write_frame
from ...protocol.message import Decoder, close_payload
from ...protocol.permessage_deflate import Compression, endpoint_parameters
from ...settings import Settings
from ..target import Established
from ..text import describe_close
from .answer import RECEIVE_SIZE
from .finding import Clock, Finding, Level, Step

PINGS = 3

SLOW_PONG_S = 0.5
"""A pong that takes longer, and `SLOW_FACTOR` times as long as the TCP handshake, is late."""

SLOW_FACTOR = 10

MAX_MESSAGE_SIZE = 1 << 26

ENDED_ON_PURPOSE = (
    "The application ends the connection: it may want a login, a subprotocol or other headers."
)

CLOSE_CURES = {
    1000: ENDED_ON_PURPOSE,
    1001: "The server is shutting down or restarts: try again, and look whether it crashes.",
    1002: "The server found an error in the protocol: update it, or the proxy that changes bytes.",
    1003: "The application does not accept this type of message.",
    1005: ENDED_ON_PURPOSE,
    1006: "The server or a proxy dropped the connection: look into the log of the server.",
    1007: "The server found invalid text.",
    1008: "The application refuses the connection: check login, Origin and limits.",
    1009: "The message was too big for the server.",
    1011: "The application failed: look into its log for the traceback.",
    1012: "The server restarts: try again.",
    1013: "The server is overloaded: try again later, or raise its limits.",
    1014: "A proxy got an invalid answer from the server behind it: check that server.",
}

OTHER_CLOSE_CURE = "The code is the application's own: look it up in its documentation."


class Conversation:
    """An open WebSocket on a socket, of which `doctor` sees each frame."""

    def __init__(self, sock: socket.socket, established: Established) -> None:
        self._sock = sock
        self._decoder: Decoder = Decoder(Settings(max_message_size=MAX_MESSAGE_SIZE), False)
        if established.negotiated is not None:
            agreed = endpoint_parameters(established.negotiated, Compression(), is_client=True)
            inflater = Inflater(agreed.inflate_window_bits, agreed.inflate_takeover)
            self._decoder.inflater = inflater
        self._events: list[Event] = self._decoder.feed(established.rest)

    def send(self, opcode: Opcode, payload: bytes, clock: Clock) -> None:
        self._sock.settimeout(clock.left())
        self._sock.sendall(write_frame(opcode, payload, key=os.urandom(4)))

    def wait_for(self, wanted: Callable[[Event], bool], clock: Clock) -> Event | None:
        """Return the first event that is wanted, or ends the connection.

        Answers pings meanwhile. Returns None if the connection ends without a close frame.
        Raises `TimeoutError`.
        """
        for event in self._read(clock):
            if isinstance(event, Ping):
                self.send(Opcode.PONG, event.payload, clock)
            if wanted(event) or isinstance(event, (Close, Violation)):
                return event
        return None

    def _read(self, clock: Clock) -> Iterator[Event]:
        while True:
            while self._events:
                yield self._events.pop(0)
            self._sock.settimeout(clock.left())
            data = self._sock.recv(RECEIVE_SIZE)
            if not data:
                return
            self._events = self._decoder.feed(data)


def check_pings(talk: Conversation, tcp_seconds: float, limit: float) -> Step[bool]:
    """Measure the round trip of pings; returns whether the connection is still open."""
    times = []
    for number in range(PINGS):
        clock = Clock(limit)
        payload = b"doctor-%d" % number
        try:
            talk.send(Opcode.PING, payload, clock)
            event = talk.wait_for(lambda one: one == Pong(payload), clock)  # noqa: B023
        except TimeoutError:
            yield missing_pong(limit)
            return True
        except OSError:
            event = None
        if not isinstance(event, Pong):
            yield ended("ping", event, clock.seconds)
            return False
        times.append(clock.seconds)
    yield round_trip(times, tcp_seconds)
    return True


def missing_pong(limit: float) -> Finding:
    return Finding(
        "ping",
        Level.WARNING,
        f"no pong within {limit:g} s",
        "A proxy buffers the bytes of the server (nginx: proxy_buffering off and the headers "
        "Upgrade and Connection), or the server does not answer pings: connections through "
        "proxies then end when they are idle.",
        limit,
    )


def round_trip(times: list[float], tcp_seconds: float) -> Finding:
    middle = statistics.median(times)
    text = f"round trip {1000 * middle:.1f} ms (median of {len(times)})"
    details = {"round_trips": times}
    if middle > max(SLOW_PONG_S, SLOW_FACTOR * tcp_seconds):
        cure = "A proxy buffers, or the event loop of the server is blocked for this time."
        text += f", but {1000 * tcp_seconds:.1f} ms for TCP"
        return Finding("ping", Level.WARNING, text, cure, middle, details)
    return Finding("ping", Level.OK, text, "", middle, details)


def ended(step: str, event: Event | None, seconds: float) -> Finding:
    """Return the finding of a connection that ends early."""
    if isinstance(event, Violation):
        text = f"the server breaks the protocol: {event.reason}"
        cure = "Update the server, or the proxy that changes its bytes."
        return Finding(step, Level.FAILURE, text, cure, seconds, {"close_code": event.code})
    code = event.code if isinstance(event, Close) else CloseCode.ABNORMAL_CLOSURE
    reason = event.reason if isinstance(event, Close) else "no close frame"
    text = f"the server closed at once: {describe_close(code)} {reason}".rstrip()
    cure = CLOSE_CURES.get(code, OTHER_CLOSE_CURE)
    return Finding(step, Level.FAILURE, text, cure, seconds, {"close_code": int(code)})


def check_message(talk: Conversation, text: str, limit: float) -> Step[bool]:
    """Send a text message and measure the time until a message arrives; returns whether the
    connection is still open."""
    clock = Clock(limit)
    try:
        talk.send(Opcode.TEXT, text.encode(), clock)
        event = talk.wait_for(lambda one: isinstance(one, Message), clock)
    except TimeoutError:
        yield Finding(
            "message",
            Level.WARNING,
            f"no message within {limit:g} s after {text!r} was sent",
            "The application does not answer this message, or a proxy buffers its answer.",
            clock.seconds,
        )
        return True
    except OSError:
        event = None
    if not isinstance(event, Message):
        yield ended("message", event, clock.seconds)
        return False
    kind = "text" if isinstance(event.data, str) else "binary"
    shown = f"answered with a {kind} message of length {len(event.data)}"
    yield Finding("message", Level.OK, shown, "", clock.seconds)
    return True


def check_close(talk: Conversation, limit: float) -> Step[None]:
    """Close the connection with 1000, and look for pongs that a proxy has delayed until then."""
    clock = Clock(limit)
    pongs: list[Event] = []

    def note_pong(event: Event) -> bool:
        pongs.extend([event] if isinstance(event, Pong) else [])
        return False

    try:
        talk.send(Opcode.CLOSE, close_payload(CloseCode.NORMAL_CLOSURE), clock)
        finding = close_finding(talk.wait_for(note_pong, clock), clock.seconds)
    except TimeoutError:
        finding = close_finding(None, clock.seconds, f"no close frame within {limit:g} s")
    except OSError:
        finding = close_finding(None, clock.seconds)
    if pongs:
        text = "the pong arrived only when the connection was closed"
        cure = "A proxy buffers: switch its buffering off (nginx: proxy_buffering off)."
        yield Finding("ping", Level.WARNING, text, cure)
    yield finding


def close_finding(
    event: Event | None, seconds: float, text: str = "the connection ended without a close frame"
) -> Finding:
    if isinstance(event, Close):
        answer = f"answered with {describe_close(event.code)}"
        return Finding("close", Level.OK, answer, "", seconds, {"close_code": event.code})
    if isinstance(event, Violation):
        return ended("close", event, seconds)
    cure = "Let the server answer a close frame with its own; until then clients report 1006."
    return Finding("close", Level.WARNING, text, cure, seconds)
