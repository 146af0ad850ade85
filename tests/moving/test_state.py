"""A connection that moves within any stream: the events equal those without a move."""

from __future__ import annotations

import threading
import zlib
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from websocket_handler import Compression, Engine, WebSocket
from websocket_handler.moving import open_connection
from websocket_handler.protocol.assembly import Message
from websocket_handler.protocol.deflate import Deflater, read_window
from websocket_handler.protocol.frame import RSV1, Opcode, write_frame
from websocket_handler.protocol.message import Decoder
from websocket_handler.protocol.position import Position, replay
from websocket_handler.protocol.versions import by_name

from ..protocol.frames import Limits
from ..support.programs import wait_for
from .between_engines import Client, move

RFC6455 = by_name("RFC 6455")
SLOW = settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@SLOW
@given(data=st.data(), takeover=st.booleans())
def test_move_of_compressed_connection_keeps_the_window(
    engines: tuple[Engine, Engine], data: st.DataObject, takeover: bool
) -> None:
    words = data.draw(st.lists(st.text(min_size=5, max_size=300), min_size=2, max_size=6))
    words = [word * 20 for word in words] + words
    received: list[Any] = []

    def prepare(ws: WebSocket) -> None:
        ws.on("message", received.append)

    compression = Compression(
        server_no_context_takeover=not takeover,
        client_no_context_takeover=not takeover,
        threshold=0,
    )
    with Client(engines[0], RFC6455, prepare, compression=compression) as client:
        deflater = Deflater(15, takeover, 6, 8, 0)
        moves = set(data.draw(st.lists(st.integers(0, len(words) - 1), min_size=1, max_size=3)))
        sent: list[str] = []
        inflater = zlib.decompressobj(-15)
        for index, word in enumerate(words):
            if index in moves:
                client.move(engines[index % 2], prepare, compression=compression)
            deflated = deflater.deflate(word.encode(), True)
            opcode = Opcode.TEXT | (RSV1 if deflated is not None else 0)
            payload = word.encode() if deflated is None else deflated
            client.sock.sendall(write_frame(opcode, payload, True, b"abcd"))
            sent.append(word)
            wait_for(lambda: len(received) == len(sent), "the message")
            client.websocket.send(word, compress=True)
            first = client.sock.recv(2)
            size = first[1] if first[1] < 126 else int.from_bytes(client.sock.recv(2), "big")
            body = b""
            while len(body) < size:
                body += client.sock.recv(size - len(body))
            if first[0] & RSV1:
                stream = inflater if takeover else zlib.decompressobj(-15)
                body = stream.decompress(body + b"\x00\x00\xff\xff")
            assert body.decode() == word
        assert received == sent


@pytest.mark.parametrize("ends", [True, False])
def test_connection_within_a_compressed_message_waits_for_its_end(
    engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    received: list[Any] = []

    def prepare(ws: WebSocket) -> None:
        ws.on("message", received.append)

    monkeypatch.setattr(open_connection, "IDLE_TIMEOUT_S", 10.0 if ends else 0.2)
    compression = Compression(threshold=0)
    with Client(engines[0], RFC6455, prepare, compression=compression) as client:
        deflated = Deflater(15, True, 6, 8, 0).deflate(b"hello " * 100, True)
        assert deflated is not None
        frame = write_frame(Opcode.TEXT | RSV1, deflated, True, b"abcd")
        client.sock.sendall(frame[:-3])
        wait_for(client.is_read, "the engine to read")
        rest = threading.Timer(0.1, client.sock.sendall, [frame[-3:]])
        if ends:
            rest.start()
            client.move(engines[1], prepare, compression=compression)
        else:
            _, answer = move(
                client.websocket, client.request, engines[1], prepare, compression=compression
            )
            assert answer.reason == "a compressed message is incomplete"
            rest.start()
        wait_for(lambda: received, "the message")
        assert received == ["hello " * 100]
        rest.join()


def test_move_with_full_buffers_loses_no_byte(engines: tuple[Engine, Engine]) -> None:
    received: list[Any] = []

    def prepare(ws: WebSocket) -> None:
        ws.on("message", received.append)

    with Client(engines[0], RFC6455, prepare, high_water=1 << 22) as client:
        big = [bytes([index]) * 300_000 for index in range(8)]
        for message in big:
            client.websocket._in_engine(lambda m=message: client.websocket.send(m))  # type: ignore[misc]
        wait_for(lambda: client.websocket.buffered_amount > 1 << 20, "unsent data")
        incoming = client.encoder.message("x" * 50_000)
        client.sock.sendall(incoming[:40_000])
        new = client.move(engines[1], prepare, high_water=1 << 22)
        new.send("after")
        client.sock.sendall(incoming[40_000:])
        assert client.read(9) == [*(Message(message) for message in big), Message("after")]
        wait_for(lambda: received == ["x" * 50_000], "the message")
        assert new.traffic.messages_received == 1


def test_move_with_backlog_delivers_it_in_the_new_process(
    engines: tuple[Engine, Engine],
) -> None:
    received: list[Any] = []
    with Client(engines[0], RFC6455, lambda _: None) as client:
        client.sock.sendall(client.encoder.message("one") + client.encoder.message("two"))
        wait_for(lambda: client.websocket.traffic.messages_received == 2, "the messages")
        new = client.move(engines[1], lambda ws: ws.on("message", received.append))
        wait_for(lambda: received == ["one", "two"], "the messages in the new process")
        assert new.traffic.messages_received == 2


def test_fragment_limits_count_on_after_a_move(engines: tuple[Engine, Engine]) -> None:
    closed: list[Any] = []

    def prepare(ws: WebSocket) -> None:
        ws.on("close", lambda *how: closed.append(how))

    with Client(engines[0], RFC6455, prepare, max_fragments=10) as client:
        frames = [client.encoder.frame(Opcode.TEXT if not i else 0, b"x", False) for i in range(11)]
        client.sock.sendall(b"".join(frames[:6]))
        wait_for(client.is_read, "the engine to read")
        client.move(engines[1], prepare, max_fragments=10)
        client.sock.sendall(b"".join(frames[6:]))
        wait_for(
            lambda: closed == [(1008, "message has too many fragments")], f"1008, not {closed}"
        )


@given(
    fragments=st.lists(st.binary(max_size=20), max_size=6),
    part=st.binary(max_size=20),
    remaining=st.integers(1, 100),
)
def test_replay_brings_a_decoder_to_the_same_position(
    fragments: list[bytes], part: bytes, remaining: int
) -> None:
    key = b"\x01\x02\x03\x04"
    whole = Decoder(Limits(), expect_masked=True)
    rest = bytes(remaining)
    data = b"".join(
        write_frame(Opcode.BINARY if not i else 0, one, False, b"abcd")
        for i, one in enumerate([*fragments, b"!"])
    )
    last = write_frame(0, part + rest, True, key)
    assert whole.feed(data + last) == [Message(b"".join(fragments) + b"!" + part + rest)]
    empty = sum(not one for one in fragments)
    offset = len(part) % 4
    position = Position(
        opcode=Opcode.BINARY,
        payload=b"".join(fragments) + b"!" + part,
        fragments=len(fragments) + 2,
        empty=empty,
        remaining=remaining,
        fin=True,
        key=key[offset:] + key[:offset],
    )
    again = Decoder(Limits(), expect_masked=True)
    assert again.feed(replay(position).data) == []
    assert again._assembly is not None
    assert (again._assembly._fragments, again._assembly._empty) == (len(fragments) + 2, empty)
    assert again.feed(last[len(last) - remaining :]) == [
        Message(b"".join(fragments) + b"!" + part + rest)
    ]


@pytest.mark.parametrize("bits", range(9, 16))
@given(data=st.binary(max_size=2000), repeated=st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_read_window_returns_the_last_decompressed_bytes(
    bits: int, data: bytes, repeated: int
) -> None:
    data *= repeated
    deflater = zlib.compressobj(6, zlib.DEFLATED, -bits)
    inflater = zlib.decompressobj(-bits)
    assert inflater.decompress(deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH)) == data
    assert read_window(inflater, bits) == data[-(1 << bits) :]
