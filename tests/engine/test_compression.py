"""Compression in the engine: memory, concurrency and threads."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from websocket_handler import IS_NATIVE, Compression, Engine, WebSocket
from websocket_handler.protocol.assembly import Event, Message
from websocket_handler.protocol.deflate import Inflater
from websocket_handler.protocol.frame import RSV1, Opcode, write_frame
from websocket_handler.protocol.permessage_deflate import NegotiatedParameters
from websocket_handler.protocol.versions import rfc6455

from ..support.connections import Peer, make_websocket

WITH_TAKEOVER = Compression(False, False, threshold=0)
HELLO = bytes.fromhex("f248cdc9c90700")


class InflatingPeer(Peer):
    """A peer that has negotiated permessage-deflate."""

    def __init__(self, sock: socket.socket, takeover: bool) -> None:
        super().__init__(sock)
        self._decoder.inflater = Inflater(15, takeover)

    def read_many(self, count: int) -> list[Event]:
        return [self.read() for _ in range(count)]


def connect(engine: Engine, compression: Compression, **settings: Any) -> tuple[WebSocket, Any]:
    """A server's WebSocket with the given `compression`, and its peer, which sent a bare offer."""
    ours, theirs = socket.socketpair()
    websocket = make_websocket(engine, compression=compression, **settings)
    websocket.request.headers["Sec-WebSocket-Extensions"] = "permessage-deflate"
    websocket.connect()
    assert websocket.extensions
    websocket._take_over(ours)
    peer = InflatingPeer(theirs, not compression.server_no_context_takeover)
    assert peer.read_head().startswith(b"HTTP/1.1 101 ")
    return websocket, peer


@pytest.fixture
def both(engine: Engine) -> Iterator[tuple[WebSocket, InflatingPeer]]:
    websocket, peer = connect(engine, WITH_TAKEOVER)
    yield websocket, peer
    websocket.abort()
    peer.sock.close()


def test_compressed_messages_of_threads_leave_in_order(
    both: tuple[WebSocket, InflatingPeer],
) -> None:
    """Each message refers to earlier ones: in another order it could not be read."""
    websocket, peer = both
    words = [os.urandom(40_000).hex() for _ in range(4)]

    def send(thread: int) -> None:
        for number in range(20):
            websocket.send(f"{thread} {number} {words[thread]}")

    threads = [threading.Thread(target=send, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    counts = dict.fromkeys(range(4), 0)
    for event in peer.read_many(80):
        assert isinstance(event, Message)
        thread_, number, word = str(event.data).split(" ")
        assert (int(number), word) == (counts[int(thread_)], words[int(thread_)])
        counts[int(thread_)] += 1
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("compression", [WITH_TAKEOVER, Compression()], ids=["takeover", "none"])
def test_fragmented_message_is_not_split_by_a_compressed_one(
    engine: Engine, compression: Compression
) -> None:
    websocket, peer = connect(engine, compression)
    big = os.urandom(50_000).hex()

    def send_big() -> None:
        for _ in range(40):
            websocket.send(big)

    def send_fragments() -> None:
        for _ in range(400):
            websocket.send(["frag", "", "ments"])

    senders = [threading.Thread(target=send) for send in (send_big, send_fragments)]
    for sender in senders:
        sender.start()
    seen = [event.data for event in peer.read_many(440) if isinstance(event, Message)]
    for sender in senders:
        sender.join(20)
    assert (seen.count(big), seen.count("fragments")) == (40, 400)
    websocket.abort()
    peer.sock.close()


def test_messages_queued_behind_fragments_are_compressed(
    both: tuple[WebSocket, InflatingPeer],
) -> None:
    websocket, peer = both
    big = "all the same " * 10_000

    def pieces() -> Iterator[str]:
        yield "one "
        websocket.send(big)
        websocket.send(["in ", "fragments"])
        websocket.send("last")
        yield "two"

    websocket.send(pieces())
    assert peer.read_many(4) == [
        Message("one two"),
        Message(big),
        Message("in fragments"),
        Message("last"),
    ]
    assert websocket.traffic.bytes_sent < len(big) // 10


def test_other_threads_run_during_large_compression(
    both: tuple[WebSocket, InflatingPeer],
) -> None:
    websocket, peer = both
    big = os.urandom(6 << 20).hex().encode()  # takes a quarter of a second
    ticks: list[float] = []
    done = threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.001)

    def read() -> None:
        peer.read()

    ticker = threading.Thread(target=tick)
    reader = threading.Thread(target=read)
    ticker.start()
    reader.start()
    begun = time.monotonic()
    websocket.send(big)
    ended = time.monotonic()
    done.set()
    ticker.join()
    reader.join(20)
    assert len([at for at in ticks if begun < at < ended]) > (ended - begun) * 1000 / 20


@pytest.mark.skipif(not IS_NATIVE, reason="what Python's zlib takes cannot be seen")
def test_idle_connection_keeps_no_zlib_state(engine: Engine) -> None:
    """After one message each way; a compressor alone would take a quarter of a megabyte."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def exchange(count: int) -> list[Any]:
        kept = []
        for _ in range(count):
            websocket, peer = connect(engine, Compression(threshold=0))
            websocket.on("message", lambda data, websocket=websocket: websocket.send(data * 400))
            peer.sock.sendall(write_frame(Opcode.TEXT | RSV1, HELLO, key=b"abcd"))
            assert peer.read() == Message("Hello" * 400)
            del peer._decoder
            kept.append((websocket, peer))
        return kept

    kept = exchange(20)
    before = resident()
    kept += exchange(200)
    assert resident() - before < 200 * 20_000
    for websocket, peer in kept:
        websocket.abort()
        peer.sock.close()


def test_client_compresses_within_its_offered_window(engine: Engine) -> None:
    """The server did not confirm the client's window; the client keeps to it anyway."""
    ours, theirs = socket.socketpair()
    compression = Compression(client_max_window_bits=9, threshold=0)
    websocket = make_websocket(engine, compression=compression)
    websocket._begin_as_client(
        rfc6455.VERSION, b"", None, NegotiatedParameters(True, False, None, None)
    )
    websocket._take_over(ours)
    block = os.urandom(200)
    websocket.send(block + bytes(400) + block)
    peer = Peer(theirs, expect_masked=True)
    peer._decoder.inflater = Inflater(9, False)
    assert peer.read() == Message(block + bytes(400) + block)
    websocket.abort()
    theirs.close()
