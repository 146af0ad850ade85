"""A connection that moves at any byte of any stream: the events equal those without a move.

The streams have every version of the protocol, with and without compression, messages in one frame
or several, control frames between them, and output that the peer has not read.
"""

from __future__ import annotations

import random
import threading
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from websocket_handler import ALL_VERSIONS, Compression, Engine, Version, WebSocket
from websocket_handler.errors import UnsupportedByVersion
from websocket_handler.protocol.assembly import Message, Pong
from websocket_handler.protocol.deflate import Deflater, Inflater
from websocket_handler.protocol.frame import RSV1, Opcode
from websocket_handler.protocol.message import Decoder, Encoder

from ..protocol.frames import Limits
from ..support.programs import wait_for
from .between_engines import Client

HIGH_WATER = 1 << 22


class Sent(NamedTuple):
    """A message of the client, or a ping without a message."""

    data: str | bytes
    parts: int
    """The number of frames."""
    ping: bytes | None
    """The payload of a ping before each frame."""
    compress: bool


class Script(NamedTuple):
    """The conversation of one example."""

    sent: list[Sent]
    unread: list[tuple[int, bool]]
    """The sizes of the server's messages that are not read until the end, and whether they can be
    compressed."""
    cuts: list[float]
    """The places of the moves in the stream, between 0 and 1."""
    compression: Compression | None


class Stream:
    """The bytes of the client's messages, and the events that they cause."""

    def __init__(self, version: Version, encoder: Any, sent: list[Sent]) -> None:
        self.data = b""
        self.events: list[tuple[str, str | bytes]] = []
        self.compressed: list[range] = []
        """The places between which a compressed message is incomplete."""
        for message in sent:
            self._add(version, encoder, message)

    def _add(self, version: Version, encoder: Any, message: Sent) -> None:
        begin = len(self.data)
        if not version._has_pings:  # these versions have no fragments either
            self.data += encoder.message(message.data)
        else:
            self._add_frames(encoder, message)
        self.events.append(("message", message.data))
        if message.compress and version._is_native:
            self.compressed.append(range(begin + 1, len(self.data)))

    def _add_frames(self, encoder: Any, message: Sent) -> None:
        is_text = isinstance(message.data, str)
        payload = message.data.encode() if isinstance(message.data, str) else message.data
        opcode = int(Opcode.TEXT if is_text else Opcode.BINARY)
        deflater = getattr(encoder, "deflater", None)
        deflated = deflater.deflate(payload, message.compress) if deflater is not None else None
        if deflated is not None:
            opcode, payload = opcode | RSV1, deflated
        ends = [len(payload) * i // message.parts for i in range(message.parts + 1)]
        for index, (first, last) in enumerate(pairwise(ends)):
            if message.ping is not None:
                self.data += encoder.frame(Opcode.PING, message.ping)
                self.events.append(("ping", message.ping))
            self.data += encoder.frame(
                opcode if not index else Opcode.CONTINUATION,
                payload[first:last],
                index == message.parts - 1,
            )

    def end_of_compressed(self, cut: int) -> int:
        """Return the next place at which no compressed message is incomplete."""
        return next((r.stop for r in self.compressed if cut in r), cut)


def messages(version: Version) -> st.SearchStrategy[Any]:
    try:
        version._make_encoder(True, b"").message(b"binary")
    except UnsupportedByVersion:
        return st.text(max_size=300)
    return st.binary(min_size=4, max_size=300) | st.text(max_size=300)


def compression(no_takeover: bool) -> Compression:
    return Compression(
        server_no_context_takeover=no_takeover, client_no_context_takeover=no_takeover, threshold=0
    )


def scripts(version: Version) -> st.SearchStrategy[Script]:
    compressions = st.sampled_from([None, compression(False), compression(True)])
    repeated = st.builds(lambda data, count: data * count, messages(version), st.integers(1, 20))
    compress = st.sampled_from([True, True, False])
    pings = st.none() | st.binary(max_size=125)
    return st.builds(
        Script,
        sent=st.lists(
            st.builds(Sent, repeated, st.integers(1, 4), pings, compress),
            min_size=1,
            max_size=5,
        ),
        unread=st.lists(st.tuples(st.integers(0, 200_000), st.booleans()), max_size=4),
        cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
        compression=compressions if version._is_native else st.none(),
    )


def unread_messages(script: Script) -> list[str]:
    """Return the server's messages. Their bytes can be compressed, or not."""
    source = random.Random(0)
    return [
        "x" * size if is_repetitive else source.randbytes(size // 2).hex()
        for size, is_repetitive in script.unread
    ]


def compress_at_client(client: Client, compression: Compression) -> None:
    takeover = not compression.client_no_context_takeover
    client.encoder = Encoder(True, deflater=Deflater(15, takeover, 6, 8, 0))
    client.decoder = Decoder(Limits(max_message_size=1 << 22), False, Inflater(15, takeover))


def move_at(client: Client, stream: Stream, cut: int, move: Any) -> int:
    """Move the connection after the first `cut` bytes. Returns the place at which it has moved."""
    end = stream.end_of_compressed(cut)
    if end == cut:
        move()
        return cut
    moving = threading.Thread(target=move)
    moving.start()
    client.sock.sendall(stream.data[cut:end])
    moving.join(20)
    assert not moving.is_alive()
    return end


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_move_at_any_byte_changes_no_event(
    version: Version, engines: tuple[Engine, Engine], data: st.DataObject
) -> None:
    script = data.draw(scripts(version))
    events: list[Any] = []

    def prepare(ws: WebSocket) -> None:
        ws.on("message", lambda message: events.append(("message", message)))
        ws.on("ping", lambda payload: events.append(("ping", payload)))

    options: dict[str, Any] = {"compression": script.compression, "high_water": HIGH_WATER}
    with Client(engines[0], version, prepare, **options) as client:
        if script.compression is not None:
            assert client.websocket.extensions
            compress_at_client(client, script.compression)
        stream = Stream(version, client.encoder, script.sent * 2)  # the window has the first ones
        unread = unread_messages(script)
        for message in unread:
            client.websocket.send(message)
        place = 0
        for index, cut in enumerate(sorted(int(len(stream.data) * part) for part in script.cuts)):
            engine = engines[(index + 1) % 2]
            if cut < place:  # within the compressed message that the last move has waited for
                continue
            client.sock.sendall(stream.data[place:cut])
            wait_for(client.is_read, "the engine to read")
            place = move_at(client, stream, cut, lambda: client.move(engine, prepare, **options))  # noqa: B023
        client.sock.sendall(stream.data[place:])
        wait_for(lambda: len(events) >= len(stream.events), f"{stream.events}, not {events}")
        assert events == stream.events
        client.websocket.send("the last")
        check_output(client, [*unread, "the last"], stream.events)


def check_output(client: Client, expected: list[str], events: list[tuple[str, Any]]) -> None:
    """Read until the server has sent all messages, and its answer to the last ping."""
    pings = [payload for kind, payload in events if kind == "ping"]
    received: list[Any] = []
    pongs: list[bytes] = []
    while Message("the last") not in received or pongs[-1:] != pings[-1:]:
        received += client.read(1)
        assert all(isinstance(event, (Message, Pong)) for event in received), received[-1]
        pongs = [event.payload for event in received if isinstance(event, Pong)]
    assert [event.data for event in received if isinstance(event, Message)] == expected
