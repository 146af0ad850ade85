"""A stress test: listeners that call into the engine in every way, on all connections.

    python -m fuzz.reentrancy thread|loop|tls SECONDS [SEED]

Each round has its own engine. Its listeners abort, close, send, pause, add and remove listeners,
raise, block, collect garbage and stop the engine; its peers stall, half-close, reset, or announce
a length and disconnect. At the end each connection must have emitted `close` exactly once, and no
descriptor, channel or thread may remain. The seed and the number of the round determine all
choices, but not the order in which threads run.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from websocket_handler import Engine, Settings, WebSocket
from websocket_handler.connection.listeners import EVENTS
from websocket_handler.engine import fan_out
from websocket_handler.errors import WebSocketError
from websocket_handler.protocol.frame import Opcode, write_frame
from websocket_handler.protocol.permessage_deflate import Compression
from websocket_handler.protocol.prepared import PreparedMessage
from websocket_handler.protocol.versions.rfc6455 import VERSION

from .engine_fixture import TIMEOUT_S, count_descriptors
from .peer import KEY, request_of

CONNECTIONS = 8  # at the start of a round
MAX_CONNECTIONS = 16  # including those that listeners add
STEPS = 120
MAX_ACTIONS = 600  # of listeners in a round: each may cause others
ACTORS = 2  # threads of the application
EXPECTED = (WebSocketError, ValueError, RuntimeError, TimeoutError, OSError, StopIteration)
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"max_message_size": 3000},
    {"high_water": 500, "max_buffered": 50_000},
    {"high_water": 500, "close_timeout": 0.05},
    {"ping_interval": 0.016, "ping_timeout": 0.016, "close_timeout": 0.016},
)

unraisable: list[Any] = []


class Round:
    """An engine and its connections, from start to stop."""

    def __init__(self, mode: str, random: Random) -> None:
        self.random = random
        self.is_tls = mode == "tls"
        self.loop: asyncio.AbstractEventLoop | None = None
        if mode == "loop" or (self.is_tls and random.random() < 0.5):
            self.loop = asyncio.new_event_loop()
            self.loop_thread = threading.Thread(target=self.loop.run_forever, daemon=True)
            self.loop_thread.start()
        self.may_stop = random.random() < 0.3
        self.engine = Engine(self.loop)
        self.websockets: list[WebSocket] = []
        self.peers: list[socket.socket] = []
        self.closes: Counter[WebSocket] = Counter()
        self.actions = 0
        self.is_ending = False
        for _ in range(CONNECTIONS):
            self.add_connection()

    # Connections

    def add_connection(self) -> None:
        if len(self.websockets) >= MAX_CONNECTIONS:
            return
        is_compressed, forgets = self.random.random() < 0.5, self.random.random() < 0.3
        compression = Compression(forgets, forgets, threshold=1)
        limits = self.random.choice(SETTINGS)
        settings = Settings(compression=is_compressed and compression, **limits)
        websocket = WebSocket(request_of(VERSION, is_compressed), settings, engine=self.engine)
        websocket.on("close", lambda *_: self.closes.update([websocket]))
        for event in EVENTS:
            if self.random.random() < 0.7:
                websocket.on(event, self.listener(websocket))  # type: ignore[call-overload]
        websocket.connect()
        ours, theirs = tls_pair() if self.is_tls else socket.socketpair()
        theirs.setblocking(False)
        self.peers.append(theirs)
        self.websockets.append(websocket)
        with contextlib.suppress(*EXPECTED):  # the engine may have been stopped
            websocket._take_over(ours)
        if self.is_ending:  # `close_peers` may not have seen this one
            theirs.close()

    def listener(self, websocket: WebSocket) -> Callable[..., None]:
        def listen(*_: object) -> None:
            if self.random.random() < 0.6:
                self.act(websocket, self.random.random() < 0.8)

        return listen

    # Actions of the application

    def act(self, own: WebSocket, is_careful: bool) -> None:
        self.actions += 1
        if self.actions > MAX_ACTIONS:
            return
        target = own if self.random.random() < 0.6 else self.random.choice(self.websockets)
        with contextlib.suppress(*EXPECTED if is_careful else ()):
            self.random.choice(ACTIONS)(self, target)

    def act_in_thread(self) -> None:
        for _ in range(STEPS // 2):
            with contextlib.suppress(SystemExit):
                self.act(self.random.choice(self.websockets), True)
            time.sleep(0.0005)

    def block(self) -> None:
        if self.loop is None:
            time.sleep(self.random.choice((0.001, 0.004, 0.007, 0.012)))

    def stop(self) -> None:
        if self.may_stop and self.random.random() < 0.2:
            self.random.choice((self.engine.stop, self.engine.close))()

    # Actions of the peers

    def step(self) -> None:
        peer = self.random.choice(self.peers)
        with contextlib.suppress(OSError, ValueError):
            self.random.choice(PEER_STEPS)(self.random, peer)

    # The course of a round

    def run(self) -> None:
        actors = [threading.Thread(target=self.act_in_thread, daemon=True) for _ in range(ACTORS)]
        for actor in actors:
            actor.start()
        for _ in range(STEPS):
            self.step()
            if self.random.random() < 0.2:
                time.sleep(0.0005)
        self.actions = MAX_ACTIONS  # from now on, listeners do nothing
        self.is_ending = True
        self.close_peers(actors)
        for websocket in self.websockets:
            websocket.resume()
            with contextlib.suppress(WebSocketError):
                websocket.on("message", ignore)
        self.wait_for("all connections to be closed", self.are_all_closed)
        self.engine.stop(TIMEOUT_S)
        self.wait_for("the engine to stop", lambda: self.engine.fileno() < 0)
        self.end_loop()
        assert self.engine._channels() == []
        assert set(self.closes.values()) <= {1}, self.closes

    def close_peers(self, actors: list[threading.Thread]) -> None:
        """Read once from each peer and reset it, so that no sender waits for it any longer."""
        for peer in self.peers:
            with contextlib.suppress(OSError, ValueError):
                peer.recv(1 << 20)
            peer.close()
        for actor in actors:
            actor.join(TIMEOUT_S)
            assert not actor.is_alive(), "a thread of the application is still blocked"
        for peer in self.peers[CONNECTIONS:]:
            peer.close()

    def are_all_closed(self) -> bool:
        return len(self.closes) == len(self.websockets)

    def wait_for(self, description: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            assert time.monotonic() < deadline, f"timeout: {description}: {self.websockets}"
            time.sleep(0.001)

    def end_loop(self) -> None:
        if self.loop is None:
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.loop_thread.join(TIMEOUT_S)
        self.loop.close()


def ignore(_: object) -> None:
    """A listener for messages that arrive after the end of the round."""


def tls_pair() -> tuple[socket.socket, socket.socket]:
    """Return a socket pair with TLS between its ends, without certificates."""
    ours, theirs = socket.socketpair()
    client = TLS_CLIENT.wrap_socket(theirs, do_handshake_on_connect=False)
    greeting = threading.Thread(target=client.do_handshake)
    greeting.start()
    server = TLS_SERVER.wrap_socket(ours, server_side=True)
    greeting.join()
    return server, client


def anonymous(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH:@SECLEVEL=0")
    return context


TLS_SERVER = anonymous(ssl.PROTOCOL_TLS_SERVER)
TLS_CLIENT = anonymous(ssl.PROTOCOL_TLS_CLIENT)


def replace_listener(round_: Round, websocket: WebSocket) -> None:
    for listener in websocket._listeners_of("message"):
        websocket.off("message", listener)
    if round_.random.random() < 0.7:
        websocket.on("message", round_.listener(websocket))


def fail(_: Round, __: WebSocket) -> None:
    raise ValueError("on purpose")


def leave(round_: Round, _: WebSocket) -> None:
    if round_.loop is None:  # SystemExit would end an event loop
        raise SystemExit


def broadcast(round_: Round, _: WebSocket) -> None:
    fan_out(tuple(round_.websockets), PreparedMessage("to all " * 3000))


ACTIONS: tuple[Callable[[Round, WebSocket], object], ...] = (
    lambda _, websocket: websocket.send("hello"),
    lambda _, websocket: websocket.send(b"\x00" * 20_000),
    lambda _, websocket: websocket.send("compressed " * 400, compress=True),
    lambda _, websocket: websocket.send(("in ", "frag", "ments")),
    lambda _, websocket: websocket.ping(b"ping"),
    lambda _, websocket: websocket.pause(),
    lambda _, websocket: websocket.resume(),
    lambda _, websocket: websocket.close(4000, "reason"),
    lambda _, websocket: websocket.abort(),
    lambda round_, websocket: websocket.once("message", round_.listener(websocket)),
    lambda _, websocket: websocket.receive(timeout=0),
    lambda _, websocket: websocket.drain(timeout=0),
    lambda round_, _: round_.block(),
    lambda round_, _: round_.block(),
    lambda round_, _: round_.stop(),
    lambda round_, _: round_.add_connection(),
    lambda round_, _: round_.random.random() < 0.1 and gc.collect(),
    lambda round_, _: round_.random.random() < 0.1 and round_.engine.close_all(timeout=0),
    lambda round_, _: round_.engine._post(round_.block),
    lambda round_, websocket: round_.engine._post(lambda: round_.act(websocket, True)),
    replace_listener,
    broadcast,
    fail,
    leave,
)


def frames(random: Random) -> bytes:
    """Return one or more valid frames of a client."""
    opcode = random.choice((Opcode.TEXT, Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG))
    size = random.choice((0, 5, 100)) if opcode >= Opcode.CLOSE else random.choice((0, 9, 2500))
    return write_frame(opcode, b"m" * size, key=KEY) * random.choice((1, 1, 3, 20))


def reset(_: Random, peer: socket.socket) -> None:
    peer.close()


PEER_STEPS: tuple[Callable[[Random, socket.socket], object], ...] = (
    *[lambda random, peer: peer.send(frames(random))] * 12,
    *[lambda random, peer: peer.recv(random.choice((10, 5000, 200_000)))] * 6,
    lambda random, peer: peer.send(frames(random)[: random.randrange(1, 12)]),
    lambda _, peer: peer.send(b"\x82\xfe\x7f\xff" + KEY + b"incomplete payload"),
    lambda _, peer: peer.send(write_frame(Opcode.CLOSE, b"\x03\xe8", key=KEY)),
    lambda _, peer: peer.send(b"\xff\xff"),
    lambda _, peer: peer.shutdown(socket.SHUT_WR),
    reset,
)


def main(mode: str, seconds: float, seed: int) -> None:
    logging.getLogger("websocket_handler").disabled = True
    logging.getLogger("asyncio").disabled = True
    sys.unraisablehook = threading.excepthook = unraisable.append
    sys.setswitchinterval(1e-6)
    Round(mode, Random("opens the descriptors that stay open")).run()  # noqa: S311
    gc.collect()
    descriptors, number, end = count_descriptors(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            Round(mode, Random(f"{seed} {number}")).run()  # noqa: S311
            gc.collect()
            assert count_descriptors() == descriptors, os.listdir("/proc/self/fd")  # noqa: PTH208
            assert not unraisable, unraisable
        except BaseException:
            sys.stderr.write(f"finding: mode {mode}, seed {seed}, round {number}\n")
            raise
        number += 1
    sys.stdout.write(f"reentrancy, {mode}: {number} rounds without a finding, seed {seed}\n")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int((*sys.argv, "1")[3]))
