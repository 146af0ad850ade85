"""The native engine over socket pairs, with random actions of a peer and of an application.

A connection must end exactly once, leave no resource behind and not affect other connections.

byte 0: `flags`; byte 1: version and limits; byte 2: the number of reactions minus one (3 bits);
then the reactions, which the listeners perform in this order, cyclically; then steps: an opcode,
an argument, and the bytes that the opcode takes from the rest.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import socket
import sys
import threading
from typing import Any
from weakref import WeakSet

from websocket_handler import Settings, State, WebSocket
from websocket_handler.protocol.permessage_deflate import Compression, accept
from websocket_handler.protocol.versions import ALL_VERSIONS

from .actions import ACTIONS, EXPECTED
from .engine_fixture import EngineFixture, count_descriptors
from .peer import Peer, request_of

AS_CLIENT, COMPRESSED, TAKEOVER, THREAD, DRAIN, NO_LISTENER, ALL_REACT = (
    1 << bit for bit in range(7)
)
LIMITS: tuple[dict[str, Any], ...] = (
    {},
    {"max_message_size": 300, "max_fragments": 3, "max_empty_fragments": 1},
    {"high_water": 500, "max_buffered": 5000},
    {"max_control_frames": 3, "high_water": 1},
)


fixtures: dict[bool, EngineFixture] = {}
alive: WeakSet[WebSocket] = WeakSet()
unraisable: list[Any] = []


class Run:
    """One connection, from its handshake to its close."""

    def __init__(self, fixture: EngineFixture, flags: int, choice: int, reactions: bytes) -> None:
        self.fixture, self.reactions, self.received = fixture, reactions, 0
        self.events: list[str] = []
        self.listener_takeovers = fixture.engine.listener_takeovers
        self.threads: list[threading.Thread] = []
        version, is_client = ALL_VERSIONS[choice % len(ALL_VERSIONS)], bool(flags & AS_CLIENT)
        is_compressed, forgets = bool(flags & COMPRESSED), not flags & TAKEOVER
        compression = Compression(forgets, forgets, threshold=1)
        limits = LIMITS[choice // len(ALL_VERSIONS) % len(LIMITS)]
        settings = Settings(
            versions=ALL_VERSIONS, compression=is_compressed and compression, **limits
        )
        request = request_of(version, is_compressed)
        self.websocket = WebSocket(request, settings, engine=fixture.engine)
        alive.add(self.websocket)
        for event in ("open", "message", "ping", "pong", "drain", "error", "close"):
            if event != "message" or not flags & NO_LISTENER:
                self.listen(event, reacts=event == "message" or bool(flags & ALL_REACT))
        if is_client:
            offers = ["permessage-deflate"] if is_compressed and version._is_native else []
            self.websocket._begin_as_client(version, b"", None, accept(offers, compression))
        else:
            self.websocket.connect()
        ours, theirs = socket.socketpair()
        early = b"the key3" if version._has_late_handshake and not is_client else b""
        self.websocket._take_over(ours, early)
        self.peer = Peer(theirs, version, is_client, self.websocket)

    def listen(self, event: str, reacts: bool) -> None:
        def listener(*_: object) -> None:
            self.events.append(event)
            if reacts:
                self.received += 1
                self.act(self.reactions[self.received % len(self.reactions)])

        self.websocket.on(event, listener)  # type: ignore[call-overload]

    def act(self, number: int) -> None:
        ACTIONS[number % len(ACTIONS)](self.websocket)

    def act_spontaneously(self, number: int, elsewhere: bool) -> None:
        """Perform an action outside a listener, here or in a thread, which may block."""

        def action() -> None:
            with contextlib.suppress(*EXPECTED):
                self.act(number)

        if not (elsewhere or self.fixture.has_thread):
            action()
            return
        thread = threading.Thread(target=action, daemon=True)
        self.threads.append(thread)
        thread.start()
        thread.join(0.002)

    def steps(self, tape: bytes) -> None:
        at = 0
        while at + 1 < len(tape):
            opcode, more, argument = tape[at] & 15, tape[at] >> 4, tape[at + 1]
            at += 2
            if opcode < 4:
                self.peer.send(tape[at : at + argument])
                at += argument
            elif opcode < 7:
                self.peer.send_frame(more | argument & 0x80, tape[at : at + (argument & 31)])
                at += argument & 31
            elif opcode < 9:
                self.act_spontaneously(argument, elsewhere=opcode == 8)
            elif opcode == 9:
                self.peer.half_close()
            elif opcode == 10:
                self.peer.read(argument << 8)
            elif opcode == 11:
                self.peer.close()
            else:
                self.fixture.poll()

    def finish(self, drain: bool) -> None:
        for _ in range(5 if drain else 0):
            self.act_spontaneously(6, elsewhere=False)
            self.fixture.poll()
            self.peer.read(1 << 20)
        self.peer.close()
        self.fixture.wait_until(lambda: "close" in self.events)
        self.fixture.wait_until(lambda: not any(thread.is_alive() for thread in self.threads))
        self.fixture.check_is_clean()
        assert self.websocket.state is State.CLOSED
        assert self.events.count("close") == 1
        if (
            self.fixture.engine.listener_takeovers == self.listener_takeovers
        ):  # or a listener was still running
            assert self.events[-1] == "close"
        assert not unraisable, unraisable


def begin() -> None:
    logging.getLogger("websocket_handler").disabled = True
    sys.unraisablehook = threading.excepthook = unraisable.append
    fixtures.update({has_thread: EngineFixture(has_thread) for has_thread in (False, True)})
    for fixture in fixtures.values():
        fixture.check_serves()
        fixture.descriptors = count_descriptors()


def test_one_input(source: bytes) -> None:
    if len(source) < 3 or len(source) < 4 + (source[2] & 7):
        return
    if not fixtures:
        begin()
    start = 4 + (source[2] & 7)
    run = Run(fixtures[bool(source[0] & THREAD)], source[0], source[1], source[3:start])
    run.steps(source[start:])
    run.finish(drain=bool(source[0] & DRAIN))
    if len(alive) > 500:
        del run
        gc.collect()
        assert len(alive) < 10, "connections are never freed"
