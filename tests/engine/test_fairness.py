"""A peer that sends without pause gets no larger share of a loop iteration than others."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading

import pytest

from websocket_handler import IS_NATIVE, Headers, Request, Settings, WebSocket
from websocket_handler.protocol.frame import RSV1, Opcode, write_frame

from ..support.compression import deflated
from ..support.connections import HANDSHAKE
from ..support.programs import wait_for
from .carriers import CARRIERS, LOOPS, new_websocket, running_engine

SIZE, COUNT = 1000, 8000
FRAMES = write_frame(Opcode.BINARY, bytes(SIZE), key=bytes(4)) * COUNT
BYTES_PER_ITERATION = 2 * (81920 + 16384)
"""The most bytes read: the data of one event and the data left over, each plus one TLS record."""

OLD_ASYNCIO_BYTES = 2 * (262144 + 16384)
"""The same for a TLS transport of asyncio before Python 3.11: it reads more at a time."""


def send_all(peer: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.sendall(FRAMES)


BOMB = write_frame(Opcode.BINARY | RSV1, deflated(bytes((1 << 20) - 1)), key=bytes(4))
BOMBS = 100
OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate")


@pytest.mark.skipif(not IS_NATIVE, reason="asyncio reads for the engine")
@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", LOOPS)
def test_flooding_peer_is_read_by_budget_to_its_last_byte(kind: str, carrier: str) -> None:
    received = [0]  # in each iteration of the loop
    with running_engine(kind) as runner:
        assert runner.thread is not None
        loop = runner.thread.loop

        def count(message: bytes) -> None:
            received[-1] += len(message)
            hash(message * 20)  # so that the peer is faster

        def begin_iteration() -> None:
            received.append(0)
            if websocket.traffic.messages_received < COUNT:
                loop.call_soon(begin_iteration)

        websocket, _ = new_websocket(runner)
        websocket.on("message", count)
        peer = runner.connect(websocket, carrier)
        websocket.pause()
        sender = threading.Thread(target=send_all, args=(peer,))
        sender.start()
        sender.join(0.3)  # by then the system's buffers are full, or the peer continues meanwhile
        loop.call_soon_threadsafe(begin_iteration)
        websocket.resume()
        wait_for(lambda: websocket.traffic.messages_received == COUNT, "every message", 30)
        sender.join(10)
        assert sum(received) == COUNT * SIZE
        is_old = sys.version_info < (3, 11) and (kind, carrier) == ("asyncio", "TLS transport")
        assert max(received) <= (OLD_ASYNCIO_BYTES if is_old else BYTES_PER_ITERATION)


@pytest.mark.parametrize(
    ("kind", "carrier"),
    [(kind, carrier) for kind in LOOPS for carrier in CARRIERS]
    if IS_NATIVE
    else [("asyncio", "socket"), ("asyncio", "transport")],
)
def test_messages_that_expand_a_thousandfold_are_read_a_few_at_a_time(
    kind: str, carrier: str
) -> None:
    received = [0]  # messages in each iteration of the loop
    with running_engine(kind) as runner:
        assert runner.thread is not None
        loop = runner.thread.loop

        def count(_: bytes) -> None:
            received[-1] += 1

        def begin_iteration() -> None:
            received.append(0)
            if websocket.traffic.messages_received < BOMBS:
                loop.call_soon(begin_iteration)

        request = Request("GET", "/", Headers([*HANDSHAKE.items(), OFFER]), remote_address="a pair")
        websocket = WebSocket(request, Settings(compression=True), engine=runner.engine)
        websocket.on("message", count)
        peer = runner.connect(websocket, carrier)
        websocket.pause()
        sender = threading.Thread(target=peer.sendall, args=(BOMB * BOMBS,))
        sender.start()
        sender.join(0.3)  # by then most of it is in the system's buffers
        loop.call_soon_threadsafe(begin_iteration)
        websocket.resume()
        wait_for(lambda: websocket.traffic.messages_received == BOMBS, "every message", 30)
        sender.join(10)
        assert sum(received) == BOMBS
        assert max(received) <= 2 * (2 * 4096 // len(BOMB) + 1)
