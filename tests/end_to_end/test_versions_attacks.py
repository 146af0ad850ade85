"""Every version must withstand the same attacks as RFC 6455: bad handshakes, hostile lengths,
floods, and peers that do not read."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from websocket_handler import ALL_VERSIONS, Settings, Version
from websocket_handler.protocol.assembly import Close, Event, Message, Pong
from websocket_handler.protocol.client import Address, ClientHandshake
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.versions import by_name

from ..support.programs import ENGINES, Program, echo_program, wait_for
from ..support.raw_client import RawClient, close, request
from .versions import ALL

MIB = 1 << 20
LIMITS = Settings(max_message_size=1 << 24)
TARGET = f"/echo?{ALL}"

every_version = pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
with_fragments = pytest.mark.parametrize("version", [*ALL_VERSIONS][:-2], ids=str)


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with echo_program(ENGINES[0], descriptors=8192) as program:
        with RawClient(program.address) as client:  # the first WebSocket starts the engine
            client.open().send(close())
            client.expect_closed(None)
        yield program


class Client:
    """A client of any version that can send arbitrary frames."""

    def __init__(self, program: Program, version: Version, target: str = TARGET) -> None:
        address = Address.parse(program.url(target))
        handshake = ClientHandshake(address, version)
        self.sock = socket.create_connection(program.address)
        self.sock.settimeout(10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        self.sock.sendall(handshake.request)
        while (established := handshake.feed(self.sock.recv(65536))) is None:
            pass
        self.encoder: Any = version._make_encoder(True, established.secret)
        self._decoder = version._make_decoder(LIMITS, False, established.secret)
        self._events = self._decoder.feed(established.rest)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def read(self) -> Event:
        while not self._events:
            data = self.sock.recv(65536)
            assert data, "the connection has ended"
            self._events += self._decoder.feed(data)
        return self._events.pop(0)

    def read_to_end(self) -> list[Event]:
        with contextlib.suppress(ConnectionResetError):
            while data := self.sock.recv(65536):
                self._events += self._decoder.feed(data)
        return self._events

    def send_what_it_takes(self, data: bytes, most: int) -> int:
        """Send repeatedly without reading, until the server reads nothing more."""
        sent = 0
        self.sock.settimeout(0.5)
        with contextlib.suppress(TimeoutError, OSError):
            while sent < most:
                sent += self.sock.send(data)
        self.sock.settimeout(10)
        return sent


@pytest.fixture
def canary(program: Program) -> Iterator[None]:
    """Another connection continues meanwhile, and nothing leaks."""
    descriptors = program.descriptors()
    with Client(program, ALL_VERSIONS[0]) as bystander:
        yield
        bystander.sock.sendall(bystander.encoder.message("still here"))
        assert bystander.read() == Message("still here")
    wait_for(lambda: program.descriptors() <= descriptors, "descriptors to be given back")


# Handshakes

DAMAGES: dict[str, tuple[bytes, bytes]] = {
    "no Host": (b"Host: ", b"Hose: "),
    "two Hosts": (b"\r\nHost: ", b"\r\nHost: a\r\nHost: "),
    "an empty Host": (b"Host: 127", b"Host:\r\nX: 127"),
    "HTTP/1.0": (b" HTTP/1.1", b" HTTP/1.0"),
    "no Connection": (b"Connection: Upgrade", b"X: Upgrade"),
    "another Connection": (b"Connection: Upgrade", b"Connection: keep-alive"),
    "part of a word": (b"Connection: Upgrade", b"Connection: notupgrade"),
    "another word": (b"Connection: Upgrade", b"Connection: upgrade-insecure-requests"),
    "a body": (b"\r\nHost: ", b"\r\nContent-Length: 30\r\nHost: "),
    "chunks": (b"\r\nHost: ", b"\r\nTransfer-Encoding: chunked\r\nHost: "),
    "both": (b"\r\nHost: ", b"\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: "),
    "a control character": (b"\r\nHost: ", b"\r\nX: a\x0bb\r\nHost: "),
    "a foreign origin": (b"\r\nHost: ", b"\r\nOrigin: http://elsewhere.example\r\nHost: "),
    "two keys": (b"\r\nSec-WebSocket-Key", b"\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Key"),
    "an unknown version": (b"\r\nHost: ", b"\r\nSec-WebSocket-Version: 99\r\nHost: "),
    "an unknown draft": (b"\r\nHost: ", b"\r\nSec-WebSocket-Draft: 99\r\nHost: "),
}
WITHOUT_KEYS = {"two keys", "an unknown version", "an unknown draft"}


@every_version
@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_handshake_of_any_version_is_rejected(
    program: Program, version: Version, damage: str
) -> None:
    """Each gets an error response, and no later request is served."""
    if version.name == "hixie-75" and damage == "two keys":
        return  # hixie-75 has no keys
    old, new = DAMAGES[damage]
    handshake = ClientHandshake(Address.parse(program.url(TARGET)), version)
    assert old in handshake.request
    with RawClient(program.address) as client:
        damaged = handshake.request.replace(old, new, 1)
        client.sock.sendall(damaged + request("/ordinary"))
        response = client.read_response()
        assert 400 <= response.status < 500, response
        assert response.header("connection") == "close"
        assert b"HTTP/1.1 " not in client.read_to_end()


# Frames


def frame_of_length(client: Client, version: Version, length: int) -> bytes:
    """The start of a frame that announces `length` bytes, with a few of them."""
    if not version._has_pings:  # hixie: 7 bits a byte
        digits = [length >> shift & 127 for shift in range(63, -1, -7)]
        return b"\x80" + bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:]) + b"xxx"
    whole = client.encoder.frame(Opcode.BINARY, b"x" * 65536)
    if version._is_native:
        return bytes(whole[:2] + length.to_bytes(8, "big") + whole[10:20])
    form = client.encoder._format
    nonce = b"" if form.keystream is None else whole[:4]
    header = bytes((0x85 if form.has_fin else 0x05, 127)) + length.to_bytes(8, "big") + b"xxx"
    if not nonce:
        return header
    stream = form.keystream(nonce, client.encoder._secret) * 5
    return bytes(nonce + bytes(a ^ b for a, b in zip(header, stream, strict=False)))


@every_version
def test_hostile_length_closes_the_connection(
    program: Program,
    canary: None,  # noqa: ARG001
    version: Version,
) -> None:
    before = program.memory()
    for length in (2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1):
        with Client(program, version) as client:
            client.sock.sendall(frame_of_length(client, version, length))
            events = client.read_to_end()
            codes = [event.code for event in events if isinstance(event, Close)]
            assert len(codes) == len(events)
            if version._is_native:
                too_big = 1004 if version._close_codes else 1009
                assert codes == [1002 if length >= 2**63 else too_big]
    assert program.memory() - before < MIB


@with_fragments
@pytest.mark.parametrize(("piece", "most"), [(b"x", 20_000), (b"", 1_000)], ids=["x", "empty"])
def test_endless_fragments_close_the_connection(
    program: Program,
    canary: None,  # noqa: ARG001
    version: Version,
    piece: bytes,
    most: int,
) -> None:
    before = program.memory()
    target = f"{TARGET}&max_fragments=20000&max_empty_fragments=1000"
    with Client(program, version, target) as client:
        first = client.encoder.frame(Opcode.TEXT, b"", False)
        more = client.encoder.frame(Opcode.CONTINUATION, piece, False)
        client.sock.sendall(first)
        with contextlib.suppress(ConnectionError):  # the server may have closed before the end
            client.sock.sendall(more * (most + 1000))
        events = client.read_to_end()
    if version._is_native and events:  # or our reset was faster
        assert [event.code for event in events if isinstance(event, Close)] == [1008]
    assert program.memory() - before < 2 * MIB


@every_version
def test_message_in_single_bytes_is_echoed(
    program: Program,
    canary: None,  # noqa: ARG001
    version: Version,
) -> None:
    before = program.memory()
    with Client(program, version) as client:
        for byte in client.encoder.message("x" * 10_000):
            client.sock.send(bytes((byte,)))
        assert client.read() == Message("x" * 10_000)
    assert program.memory() - before < MIB // 2


@with_fragments
def test_ping_flood_without_reading_takes_no_memory(
    program: Program,
    canary: None,  # noqa: ARG001
    version: Version,
) -> None:
    before = program.memory()
    with Client(program, version) as client:
        pings = client.encoder.frame(Opcode.PING, b"p" * 125) * 100
        client.send_what_it_takes(pings, 16 * MIB)
        events = client.read_to_end()
        assert len([event for event in events if isinstance(event, Pong)]) <= 1000
    assert program.memory() - before < MIB


@every_version
def test_unreading_peer_of_any_version_is_not_read(
    program: Program,
    canary: None,  # noqa: ARG001
    version: Version,
) -> None:
    before = program.memory()
    with Client(program, version) as client:
        message = client.encoder.message("x" * 60_000)
        assert client.send_what_it_takes(message, 64 * MIB) < 64 * MIB
        assert program.memory() - before < 2 * MIB


@every_version
def test_idle_connection_of_any_version_is_small(program: Program, version: Version) -> None:
    """Versions before hybi-07 use a codec in Python per connection."""
    with contextlib.ExitStack() as stack:

        def open_some(count: int) -> None:
            for _ in range(count):
                client = stack.enter_context(Client(program, version))
                client.sock.sendall(client.encoder.message("hello"))
                assert client.read() == Message("hello")

        open_some(50)
        before = program.memory()
        open_some(300)
        assert program.memory() - before < 300 * 4096


@pytest.mark.parametrize("name", ["hybi-02", "hybi-03", "hybi-04"])
def test_unanswered_cookie_close_is_dropped(program: Program, name: str) -> None:
    descriptors = program.descriptors()
    with Client(program, by_name(name), f"/closes?id=cookie&close_timeout=0.3&{ALL}") as client:
        client.sock.sendall(client.encoder.message("1000 bye"))
        assert client.read() == Message("before")
        assert isinstance(client.read(), Close)
        wait_for(lambda: program.descriptors() <= descriptors, "the server to give the socket up")
