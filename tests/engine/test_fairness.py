"""A peer that sends without pause gets no larger share of a loop iteration than others."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
from collections.abc import Callable

import pytest

from websocket_handler import ALL_VERSIONS, IS_NATIVE, Engine, Headers, Request, Settings, WebSocket
from websocket_handler.protocol.frame import RSV1, Opcode, write_frame

from ..support.compression import deflated
from ..support.connections import HANDSHAKE, make_websocket
from ..support.programs import wait_for
from .carriers import CARRIERS, LOOPS, running_engine

SIZE, COUNT = 1000, 8000
FRAMES = write_frame(Opcode.BINARY, bytes(SIZE), key=bytes(4)) * COUNT
SLOWLY_DECODED = 2 * 8192
BYTES_PER_ITERATION = 2 * (81920 + 16384) if IS_NATIVE else SLOWLY_DECODED
"""The most bytes read: the data of one event and the data left over, each plus one TLS record. The
engine in plain Python takes longer for each."""

OLD_ASYNCIO_BYTES = 2 * (262144 + 16384)
"""The same for a TLS transport of asyncio before Python 3.11: it reads more at a time."""

OLD_RECORDS = 16
"""The records that it passes on one by one, from one read."""

BOMB_SIZE, BOMBS = (1 << 20) - 1, 100
BOMB = write_frame(Opcode.BINARY | RSV1, deflated(bytes(BOMB_SIZE)), key=bytes(4))
OFFER = ("Sec-WebSocket-Extensions", "permessage-deflate")

HIXIE = {"Host": "localhost", "Upgrade": "WebSocket", "Connection": "Upgrade"}
HIXIE_FRAMES = (b"\x00" + b"x" * SIZE + b"\xff") * COUNT

PLACES = (
    [(kind, carrier) for kind in LOOPS for carrier in CARRIERS]
    if IS_NATIVE
    else [("asyncio", "socket"), ("asyncio", "transport")]  # elsewhere the loop decides
)


def is_old(kind: str, carrier: str) -> bool:
    return sys.version_info < (3, 11) and (kind, carrier) == ("asyncio", "TLS transport")


def websocket_of(engine: Engine, fields: dict[str, str], settings: Settings) -> WebSocket:
    request = Request("GET", "/", Headers(fields.items()), remote_address="a pair")
    return WebSocket(request, settings, engine=engine)


def most_in_an_iteration(
    kind: str, carrier: str, make: Callable[[Engine], WebSocket], sent: bytes, count: int, size: int
) -> int:
    """Send `count` messages of `size` without pause; returns the most bytes of messages that were
    received in one iteration of the loop."""
    received = [0]  # in each iteration of the loop
    with running_engine(kind) as runner:
        assert runner.thread is not None
        loop = runner.thread.loop

        def receive(message: str | bytes) -> None:
            received[-1] += len(message)
            hash(message * (SIZE * 20 // size))  # so that the peer is faster

        def begin_iteration() -> None:
            received.append(0)
            if websocket.traffic.messages_received < count:
                loop.call_soon(begin_iteration)

        def send_all() -> None:
            with contextlib.suppress(OSError):
                peer.sendall(sent)

        websocket = make(runner.engine)
        websocket.on("message", receive)
        peer: socket.socket = runner.connect(websocket, carrier)
        websocket.pause()
        sender = threading.Thread(target=send_all)
        sender.start()
        sender.join(0.3)  # by then the system's buffers are full, or the peer continues meanwhile
        loop.call_soon_threadsafe(begin_iteration)
        websocket.resume()
        wait_for(lambda: websocket.traffic.messages_received == count, "every message", 30)
        sender.join(10)
    assert sum(received) == count * size
    return max(received)


@pytest.mark.parametrize(("kind", "carrier"), PLACES)
def test_flooding_peer_is_read_by_budget_to_its_last_byte(kind: str, carrier: str) -> None:
    most = most_in_an_iteration(kind, carrier, make_websocket, FRAMES, COUNT, SIZE)
    assert most <= (OLD_ASYNCIO_BYTES if is_old(kind, carrier) else BYTES_PER_ITERATION)


@pytest.mark.parametrize(("kind", "carrier"), PLACES)
def test_peer_with_an_old_version_is_read_by_a_smaller_budget(kind: str, carrier: str) -> None:
    """The codec of its version is in Python, which decodes more slowly."""

    def make(engine: Engine) -> WebSocket:
        return websocket_of(engine, HIXIE, Settings(versions=ALL_VERSIONS))

    most = most_in_an_iteration(kind, carrier, make, HIXIE_FRAMES, COUNT, SIZE)
    assert most <= SLOWLY_DECODED * (OLD_RECORDS if is_old(kind, carrier) else 1)


@pytest.mark.parametrize(("kind", "carrier"), PLACES)
def test_messages_that_expand_a_thousandfold_are_read_a_few_at_a_time(
    kind: str, carrier: str
) -> None:
    def make(engine: Engine) -> WebSocket:
        return websocket_of(engine, {**HANDSHAKE, OFFER[0]: OFFER[1]}, Settings(compression=True))

    most = most_in_an_iteration(kind, carrier, make, BOMB * BOMBS, BOMBS, BOMB_SIZE)
    bombs = 2 * (2 * 4096 // len(BOMB) + 1)
    assert most <= BOMB_SIZE * bombs * (OLD_RECORDS if is_old(kind, carrier) else 1)
