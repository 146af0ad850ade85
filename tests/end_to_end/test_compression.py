"""permessage-deflate (RFC 7692) on real sockets: our server, our client, and third-party ones."""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import zlib
from pathlib import Path

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.sync.client import connect as websockets_connect
from websockets.sync.server import serve

from websocket_handler import Compression, Version, aconnect, connect
from websocket_handler.protocol.deflate import TAIL
from websocket_handler.protocol.frame import RSV1, Opcode
from websocket_handler.protocol.versions import ALL_VERSIONS

from ..support.compression import EXTENSIONS, compressed, deflated, open_raw, read_frame, target
from ..support.programs import Journal, Program
from ..support.raw_client import Frame, RawClient, close, more, text

MIB = 1 << 20
SETTINGS = {
    "defaults": Compression(),
    "takeover": Compression(False, False, threshold=0),
    "small windows": Compression(False, False, 9, 10, level=9, memory_level=1, threshold=10),
    "one way": Compression(True, False, 9, 11),
    "the other way": Compression(False, True, 12, 15, memory_level=5),
}
LEAST = Compression(False, False, 8, 8, memory_level=1, threshold=0)
"""Window sizes that `websockets` does not accept."""
USERS = [{"id": n * 7919 % 1009, "name": f"user {n}", "ok": n % 3 > 0} for n in range(99)]
JSON = json.dumps(USERS)
MESSAGES: list[str | bytes] = [
    "",
    b"",
    "small",
    JSON,
    JSON,
    JSON.encode(),
    os.urandom(3000),
    "\u20ac" * 5000,
    os.urandom(20_000).hex(),
    bytes(400_000),
    JSON,
    os.urandom(70_000),
    JSON[:500],
]

with_settings = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def inflated(payload: bytes) -> bytes:
    return zlib.decompressobj(-15).decompress(payload + TAIL)


# Third-party client, our server


@with_settings
@pytest.mark.parametrize("takeover", [True, False])
@pytest.mark.parametrize("bits", [None, 9, 15])
def test_websockets_client_and_our_server_compress(
    program: Program, settings: Compression, takeover: bool, bits: int | None
) -> None:
    factory = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not takeover,
        client_no_context_takeover=not takeover,
        server_max_window_bits=bits,
        client_max_window_bits=bits or True,
    )
    url = program.url(target("/echo", settings))
    with websockets_connect(url, compression=None, extensions=[factory], max_size=MIB) as ws:
        assert [extension.name for extension in ws.protocol.extensions] == ["permessage-deflate"]
        for message in MESSAGES:
            ws.send(message)
            assert ws.recv(timeout=10) == message
        ws.send(["one ", "two ", "three"])
        assert ws.recv(timeout=10) == "one two three"


def test_compression_is_off_by_default(program: Program) -> None:
    with websockets_connect(program.url("/echo")) as ws:
        assert ws.response is not None
        assert EXTENSIONS not in ws.response.headers
        ws.send(JSON)
        assert ws.recv(timeout=10) == JSON


def test_threads_sending_in_one_context_keep_messages_whole(program: Program) -> None:
    """Each message is whole and none is lost while four threads compress at once."""
    url = program.url(target("/members", Compression(False, False, threshold=0)))
    with websockets_connect(url, max_size=MIB) as ws, websockets_connect(url) as other:
        sender = threading.Thread(target=program.get, args=("/broadcast?threads=4&count=100",))
        sender.start()
        for member in (ws, other):
            counts = dict.fromkeys(range(4), 0)
            for _ in range(400):
                message = member.recv(timeout=20)
                found = re.fullmatch(r"(\d) (\d+) \.*", str(message))
                assert found is not None
                assert int(found[2]) == counts[int(found[1])]
                counts[int(found[1])] += 1
        sender.join()


# Our client


@pytest.mark.parametrize("settings", [*SETTINGS.values(), LEAST], ids=[*SETTINGS, "least"])
@pytest.mark.parametrize("server_settings", [*SETTINGS.values(), LEAST], ids=[*SETTINGS, "least"])
def test_our_client_and_our_server_compress(
    program: Program, settings: Compression, server_settings: Compression
) -> None:
    url = program.url(target("/echo", server_settings))
    with connect(url, compression=settings, max_message_size=MIB) as ws:
        assert ws.extensions.startswith("permessage-deflate")
        for message in MESSAGES:
            ws.send(message)
            assert ws.receive(timeout=10) == message


def test_coroutine_client_compresses_messages(program: Program) -> None:
    async def talk() -> None:
        url = program.url(target("/echo", True))
        async with await aconnect(url, compression=Compression(False, False)) as ws:
            for _ in range(3):
                ws.send(JSON)
                assert await ws.areceive() == JSON

    asyncio.run(talk())


@with_settings
def test_our_client_and_websockets_server_compress(settings: Compression) -> None:
    def echo(ws: object) -> None:
        for message in ws:  # type: ignore[attr-defined]
            ws.send(message)  # type: ignore[attr-defined]

    with serve(echo, "127.0.0.1", 0, max_size=MIB) as server:
        threading.Thread(target=server.serve_forever).start()
        port = server.socket.getsockname()[1]
        with connect(f"ws://127.0.0.1:{port}/", compression=settings, max_message_size=MIB) as ws:
            assert ws.extensions.startswith("permessage-deflate")
            for message in MESSAGES:
                ws.send(message)
                assert ws.receive(timeout=10) == message
        server.shutdown()


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_versions_with_rfc_frames_compress(program: Program, version: Version) -> None:
    versions = [each.name for each in ALL_VERSIONS]
    url = program.url(target("/echo", True, versions=versions))
    with connect(url, version=version, compression=True) as ws:
        assert bool(ws.extensions) == (version.number in (7, 8, 13))
        ws.send(JSON)
        assert ws.receive(timeout=10) == JSON


def test_client_offer_may_be_declined(program: Program) -> None:
    with connect(program.url("/echo"), compression=True) as ws:
        assert ws.extensions == ""
        ws.send(JSON, compress=True)
        assert ws.receive(timeout=10) == JSON


# Which messages are compressed


def test_message_above_threshold_is_compressed(program: Program, journal: Journal) -> None:
    route = target("/compress", Compression(threshold=1000)) + f"&id={journal.name}&"
    client = RawClient(program.address)
    with client:
        client.sock.sendall(client.handshake(route, {EXTENSIONS: "permessage-deflate"}))
        client.expect_opened()
        for size in (999, 1000):
            client.send(text("x" * size))
            seen = [read_frame(client) for _ in range(3)]
            assert [is_compressed for is_compressed, _ in seen] == [size == 1000, True, False]
            for is_compressed, frame in seen:
                payload = inflated(frame.payload) if is_compressed else frame.payload
                assert payload == b"x" * size
            is_compressed, frame = read_frame(client)
            assert is_compressed
            assert (frame.opcode, inflated(frame.payload)) == (Opcode.BINARY, b"x" * 2000)
            assert read_frame(client) == (False, text("fra", fin=False))
            assert read_frame(client) == (False, more(b"gments" * 500))
        noise = os.urandom(2000)
        client.send(Frame(Opcode.BINARY, noise))
        for _ in range(3):
            assert read_frame(client) == (False, Frame(Opcode.BINARY, noise))
    extensions = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    assert ["extensions", extensions] in journal.wait_for("extensions")


def test_pongs_and_closes_are_not_compressed(program: Program) -> None:
    with open_raw(program, Compression(threshold=0)) as client:
        client.send(Frame(Opcode.PING, b"x" * 100))
        assert read_frame(client) == (False, Frame(Opcode.PONG, b"x" * 100))
        client.send(close(1000, "y" * 100))
        assert read_frame(client) == (False, close(1000, "y" * 100))


def test_compressed_fragments_with_pings_between_are_read(program: Program) -> None:
    with open_raw(program) as client:
        payload = deflated(JSON.encode())
        third = len(payload) // 3
        client.send(Frame(Opcode.TEXT | RSV1, payload[:third], False))
        client.send(Frame(Opcode.PING, b"1"), more(payload[third:-1], False))
        client.send(more(b"", False), more(payload[-1:]))
        assert read_frame(client) == (False, Frame(Opcode.PONG, b"1"))
        is_compressed, frame = read_frame(client)
        assert is_compressed
        assert inflated(frame.payload).decode() == JSON


# Invalid input


@pytest.mark.parametrize(
    ("frames", "code", "reason"),
    [
        ([Frame(Opcode.TEXT | RSV1, b"\xff\xff\xff")], 1007, "compressed data is not valid"),
        ([Frame(Opcode.TEXT | RSV1, deflated(b"x" * 99)[:-2])], 1007, "compressed data"),
        ([Frame(Opcode.TEXT | RSV1, deflated(b"\xff"))], 1007, "text is not valid UTF-8"),
        ([Frame(Opcode.PING | RSV1, b"")], 1002, "RSV1 set on a control or continuation frame"),
        ([compressed("x", False), Frame(RSV1, b"")], 1002, "RSV1 set on"),
        ([Frame(Opcode.TEXT | 0x20, b"")], 1002, "reserved bit set"),
        ([compressed("x" * (MIB + 1))], 1009, "message is too big"),
        ([compressed("x" * (1 << 28))], 1009, "message is too big"),
        ([Frame(Opcode.TEXT | RSV1, b"\x00\x00\x00\xff\xff" * 250_000)], 1009, "message is too"),
    ],
)
def test_bad_compressed_message_closes_with_its_code(
    program: Program, frames: list[Frame], code: int, reason: str
) -> None:
    with open_raw(program) as bystander:
        with open_raw(program) as client:
            client.send(*frames)
            opcode, payload, _ = client.read_frame()
            assert (opcode, int.from_bytes(payload[:2], "big")) == (Opcode.CLOSE, code)
            assert payload[2:].decode().startswith(reason)
        bystander.send(compressed("still here"))
        assert read_frame(bystander) == (False, text("still here"))


def test_rsv1_without_negotiation_closes_with_1002(program: Program) -> None:
    with open_raw(program, False) as client:
        client.send(compressed("x"))
        client.expect_close(1002, "reserved bit set without a negotiated extension")


@pytest.fixture(scope="module")
def bomb() -> Frame:
    """A message of 256 MiB. To compress it takes more than a second."""
    return Frame(Opcode.BINARY | RSV1, deflated(bytes(1 << 28)))


def test_bombs_take_no_more_memory_than_messages(program: Program, bomb: Frame) -> None:
    """Twenty at once; the limit for all of them is 20 MiB."""

    def peak() -> int:
        status = Path(f"/proc/{program.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) << 10

    clients = [open_raw(program) for _ in range(20)]
    before = peak()
    for client in clients:
        client.send(bomb)
    for client in clients:
        client.expect_close(1009)
        client.sock.close()
    assert peak() - before < 20 * (MIB + (256 << 10))
