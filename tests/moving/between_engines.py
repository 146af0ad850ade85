"""Moves a connection between two engines of this process, with the messages of a real move."""

from __future__ import annotations

import fcntl
import json
import socket
import sys
import termios
import threading
from collections.abc import Callable
from typing import Any

from websocket_handler import Engine, Headers, Request, Settings, State, Version, WebSocket
from websocket_handler.handover.base import Handover
from websocket_handler.moving import giving
from websocket_handler.moving.arrivals import Arrival
from websocket_handler.moving.messages import NotMoved
from websocket_handler.moving.open_connection import OpenConnection
from websocket_handler.moving.state import Facts
from websocket_handler.protocol.assembly import Event, Limits
from websocket_handler.protocol.versions.version import Offer
from websocket_handler.websocket import Stream

from ..support.programs import wait_for

Prepare = Callable[[WebSocket], object]


class RepeatedRequest(Handover):
    """The handover of the request that the old process repeats."""

    def _take(self) -> Stream:
        connection, other = socket.socketpair()
        other.close()
        return connection


class Client:
    """The client's end of a connection of any version, on one end of a socket pair."""

    def __init__(self, engine: Engine, version: Version, prepare: Prepare, **settings: Any) -> None:
        extensions = "permessage-deflate" if settings.get("compression") else ""
        if version._has_late_handshake or version.number is None:
            extensions = ""
        offer = Offer("localhost", "/", origin="http://localhost", extensions=extensions)
        asked = version._client_request(offer)
        head, _, rest = asked.request.partition(b"\r\n\r\n")
        _, *lines = head.decode("latin-1").split("\r\n")
        fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        self.request = Request("GET", "/", Headers(fields), remote_address=("192.0.2.7", 1234))
        chosen = Settings(versions=(version,), ping_interval=None, **settings)
        self.websocket = WebSocket(self.request, chosen, engine=engine)
        prepare(self.websocket)
        self.websocket.connect()
        ours, self.sock = socket.socketpair()
        self.sock.settimeout(10)
        self.websocket._take_over(ours, rest)
        response = b""
        while not response.endswith(b"\r\n\r\n"):
            response += self.sock.recv(1)
        lines = response.decode("latin-1").split("\r\n")[1:-2]
        headers = Headers((line.split(": ", 1)[0], line.split(": ", 1)[1]) for line in lines)
        body = b""
        while len(body) < asked.body_size:
            body += self.sock.recv(asked.body_size - len(body))
        secret = asked.verify(headers, body)
        self.encoder = version._make_encoder(True, secret)
        limits: Limits = Settings(max_message_size=1 << 26)
        self.decoder = version._make_decoder(limits, False, secret)
        wait_for(lambda: self.websocket.state.value == "open", "the connection to be open")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def is_read(self) -> bool:
        """Whether the engine has read all that was sent."""
        unread = fcntl.ioctl(self.sock.fileno(), termios.TIOCOUTQ, bytes(4))
        return not int.from_bytes(unread, sys.byteorder)

    def read(self, count: int) -> list[Event]:
        """Return the next `count` events, after which nothing follows."""
        events: list[Event] = []
        while len(events) < count:
            data = self.sock.recv(1 << 16)
            if not data:
                raise AssertionError(f"the connection has ended after {events}")
            events += self.decoder.feed(data)
        return events

    def move(self, engine: Engine, prepare: Prepare, **settings: Any) -> WebSocket:
        """Move the connection to another engine; returns its WebSocket there."""
        self.websocket, answer = move(self.websocket, self.request, engine, prepare, **settings)
        assert answer is giving.MOVED, answer
        wait_for(lambda: self.websocket.state is not State.CONNECTING, "the WebSocket to open")
        return self.websocket


def move(
    old: WebSocket, request: Request, engine: Engine, prepare: Prepare, **settings: Any
) -> tuple[WebSocket, giving.Answer]:
    """Move a WebSocket as two processes do; returns the new one and the old process's result."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    answers: list[giving.Answer] = []

    def old_process() -> None:
        with theirs:
            try:
                answers.append(giving.pass_on(theirs, OpenConnection(old), 5))
            except NotMoved as error:
                answers.append(giving.Answer(0, str(error)))

    facts = json.loads(json.dumps(OpenConnection(old).describe().facts.to_json()))
    thread = threading.Thread(target=old_process)
    thread.start()
    handover = RepeatedRequest(engine)
    handover.arrival = Arrival(ours, Facts.from_json(facts))
    chosen = Settings(**{"ping_interval": None, "versions": old._settings.versions, **settings})
    new = WebSocket(handover.arrival.restore(request), chosen, handover=handover)
    prepare(new)
    new.connect()
    handover.complete()
    thread.join(10)
    assert answers, "the old process waits"
    return new, answers[0]
