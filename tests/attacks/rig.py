"""Tools for attacks: a scale, measurements, and a client for every protocol version."""

from __future__ import annotations

import json
import os
import select
import time
from pathlib import Path
from typing import NamedTuple

from websocket_handler import ALL_VERSIONS, Headers, Settings, Version
from websocket_handler.protocol.assembly import Event
from websocket_handler.protocol.message import Decoder
from websocket_handler.protocol.versions import by_name
from websocket_handler.protocol.versions.version import Offer

from ..support.programs import Program
from ..support.raw_client import RawClient

FULL = os.environ.get("ATTACKS") == "full"
FIGURES = os.environ.get("FIGURES")

KIB, MIB = 1 << 10, 1 << 20

BROWSER_VERSIONS = [
    by_name(name) for name in ("RFC 6455", "hybi-12", "hybi-07", "hixie-76", "hixie-75")
]
"""The protocol versions that browsers implemented, newest first."""
OTHER_VERSIONS = [version for version in ALL_VERSIONS if version not in BROWSER_VERSIONS]


def at_scale(usual: int, full: int) -> int:
    """Returns `usual` in the test suite and `full` at full scale."""
    return full if FULL else usual


def note(row: str, what: str, value: float, unit: str, goal: str) -> None:
    """Store a measurement for the scorecard: its `row`, and the target value."""
    if FIGURES:
        figure = {"row": row, "what": what, "value": value, "unit": unit, "goal": goal}
        with Path(FIGURES).open("a") as file:
            file.write(json.dumps(figure) + "\n")


class ResourceUse:
    """The change of a server's memory and processor time since this object was created."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._memory, self._cpu = program.memory(), program.cpu_seconds()

    def memory(self) -> int:
        return self._program.memory() - self._memory

    def cpu(self) -> float:
        return self._program.cpu_seconds() - self._cpu


class FloodResult(NamedTuple):
    """The result of a flood."""

    sent: int
    ended: bool
    """True if the server ended the connection; otherwise it stopped reading, or everything was
    sent."""


class Attacker(RawClient):
    """One TCP connection, on which a WebSocket of any version can be opened."""

    def open_as(self, version: Version, target: str = "/echo") -> Attacker:
        """Open a WebSocket with a valid handshake of that version."""
        host = "{}:{}".format(*self.sock.getpeername())
        hello = version._client_request(Offer(host, target))
        self.sock.sendall(hello.request)
        response = self.read_response()
        assert response.status == 101, response
        fields = [(name, value) for name, values in response.headers.items() for value in values]
        secret = hello.verify(Headers(fields), self.read(hello.body_size))
        self.encoder = version._make_encoder(True, secret)
        roomy = Settings(max_message_size=64 * MIB)
        self.decoder = version._make_decoder(roomy, False, secret)
        self._events: list[Event] = []
        return self

    def send_message(self, message: str | bytes) -> None:
        self.sock.sendall(self.encoder.message(message))

    def next_event(self) -> Event:
        """Returns the next event of the version's decoder."""
        while not self._events:
            if not self._unread:
                self._unread += self._receive()
            self._events += self.decoder.feed(bytes(self._unread))
            self._unread.clear()
        return self._events.pop(0)

    def _receive(self) -> bytes:
        data = self.sock.recv(1 << 16)
        if not data:
            raise AssertionError("the connection has ended")
        return data

    def flood(
        self, data: bytes, total: int, reading: bool = False, timeout_s: float = 0.5
    ) -> FloodResult:
        """Send `data` repeatedly, up to `total` bytes, until the server ends the connection or has
        not read for `timeout_s` seconds. Incoming bytes are read meanwhile only if `reading` is
        true."""
        self.sock.setblocking(False)
        view, sent, offset, ended = memoryview(data), 0, 0, False
        try:
            while sent < total and not ended:
                wanted = [self.sock] if reading else []
                readable, writable, _ = select.select(wanted, [self.sock], [], timeout_s)
                if not readable and not writable:
                    break
                if readable:
                    part = self.sock.recv(1 << 16)
                    self._unread += part
                    ended = not part
                elif writable:
                    count = self.sock.send(view[offset : offset + MIB])
                    sent, offset = sent + count, (offset + count) % len(data)
        except OSError:
            ended = True
        self.sock.setblocking(True)
        self.sock.settimeout(10)
        return FloodResult(sent, ended)

    def drip(self, data: bytes) -> None:
        """Send each byte in a separate segment."""
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])


def strict_decoder() -> Decoder:
    return Decoder(Settings(max_message_size=64 * MIB), False)


def settled_memory(program: Program, still: float = 0.15) -> int:
    """Returns the program's memory once it is stable."""
    seen = program.memory()
    end = time.monotonic() + 5
    while time.monotonic() < end:
        time.sleep(still)
        now = program.memory()
        if now == seen:
            break
        seen = now
    return seen
