"""Every protocol version on real sockets: our server, our client, and third-party ones."""

from __future__ import annotations

import asyncio
import json
import socket
from urllib.parse import quote

import pytest

from websocket_handler import (
    ALL_VERSIONS,
    ConnectionClosed,
    HandshakeFailed,
    UnsupportedByVersion,
    Version,
    aconnect,
    connect,
)

from ..protocol.messages import LENGTHS, text_of
from ..support.programs import Journal, Program, wait_for
from ..support.raw_client import RawClient
from .versions import ALL, NAMES, hixie_76

TEXTS = [text_of(size) for size in LENGTHS]

every_version = pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)


@every_version
def test_our_client_and_our_server_exchange_messages(
    program: Program, journal: Journal, version: Version
) -> None:
    url = program.url(f"/echo?id={journal.name}&{ALL}")
    with connect(url, version=version, max_message_size=1 << 21) as websocket:
        assert websocket.version is version
        for text in TEXTS:
            websocket.send(text)
            assert websocket.receive(timeout=10) == text
        if version.name.startswith("hixie"):
            with pytest.raises(UnsupportedByVersion, match="has no binary messages"):
                websocket.send(b"x")
            with pytest.raises(UnsupportedByVersion, match="has no pings"):
                websocket.ping()
        else:
            for data in (b"\x00\xff" * (size // 2) + b"x" * (size % 2) for size in LENGTHS):
                websocket.send(data)
                assert websocket.receive(timeout=10) == data
            websocket.send(["one ", "two"])
            assert websocket.receive(timeout=10) == "one two"
            pongs: list[bytes] = []
            websocket.on("pong", pongs.append)
            websocket.ping("here?")
            wait_for(lambda: pongs == [b"here?"], "the pong")
        websocket.close(4001, "enough")
    last = journal.wait_for("close")[-1]
    keeps_codes = version._is_native or version.name == "hybi-06"
    assert last == (["close", 4001, "enough"] if keeps_codes else ["close", 1005, ""])


@every_version
def test_close_by_server_reaches_client_of_every_version(
    program: Program, version: Version
) -> None:
    websocket = connect(program.url(f"/closes?id=closes&{ALL}"), version=version)
    ends: list[tuple[int, str]] = []
    websocket.on("close", lambda *end: ends.append(end))
    websocket.send("4002 because")
    assert websocket.receive(timeout=10) == "before"
    assert websocket.wait_closed(10)
    keeps_codes = version._is_native or version.name == "hybi-06"
    assert ends == ([(4002, "because")] if keeps_codes else [(1005, "")])


@every_version
def test_oversized_message_ends_only_its_connection(program: Program, version: Version) -> None:
    target = f"/echo?versions={quote(json.dumps(NAMES))}&max_message_size=1000"
    with connect(program.url(target), version=version) as other:
        websocket = connect(program.url(target), version=version)
        websocket.send("x" * 1001)
        with pytest.raises(ConnectionClosed) as caught:
            websocket.receive(timeout=10)
        if version._close_codes or version._is_native:
            assert caught.value.code == 1009  # 1004 on the wire until hybi-12
        other.send("still here")
        assert other.receive(timeout=10) == "still here"


def test_client_in_event_loop_exchanges_messages(program: Program) -> None:
    async def run_over_asgi_messages(version: Version) -> list[str]:
        url = program.url(f"/echo?{ALL}")
        async with await aconnect(url, version=version.name) as websocket:
            websocket.send("first")
            websocket.send("second")
            return [await websocket.areceive(), await websocket.areceive()]  # type: ignore[list-item]

    async def converse_in_all() -> list[list[str]]:
        return await asyncio.gather(*map(run_over_asgi_messages, ALL_VERSIONS))

    assert asyncio.run(converse_in_all()) == [["first", "second"]] * len(ALL_VERSIONS)


def test_failed_client_handshake_raises_the_reason(program: Program) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        connect(program.url("/forbidden"))
    assert caught.value.status == 403
    with pytest.raises(HandshakeFailed) as caught:
        connect(program.url("/echo"), version="hybi-07")  # the default is RFC 6455 alone
    assert caught.value.status == 426
    assert ("Sec-WebSocket-Version", "13") in caught.value.headers
    with pytest.raises(OSError, match="refused"):
        connect("ws://127.0.0.1:9/")
    with pytest.raises(ValueError, match="not a ws: or wss: URL"):
        connect("http://127.0.0.1/")
    with pytest.raises(ValueError, match="unknown version"):
        connect(program.url("/echo"), version="hybi-99")


def test_client_handshake_has_a_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"ws://127.0.0.1:{mute.getsockname()[1]}/"
        with pytest.raises(TimeoutError):
            connect(url, open_timeout=0.1)
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(aconnect(url, open_timeout=0.1), None))


# hixie-76 by hand


def test_head_is_answered_before_the_third_key_arrives(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake(f"/greet?{ALL}", hixie_76()))
        response = client.read_response()
        assert (response.status, response.reason) == (101, "WebSocket Protocol Handshake")
        assert response.header("upgrade") == "WebSocket"
        client.sock.sendall(b"^n:d")
        client.sock.sendall(b"s[4U\x00Hel")
        assert client.read(16) == b"8jKS'y:G*Co,Wxa-"
        assert client.read(7) == b"\x00hello\xff"  # sent by the handler right after connect()
        client.sock.sendall(b"lo\xff\xff\x00")
        assert client.read(9) == b"\x00Hello\xff\xff\x00"[:9]
        client.expect_end()


def test_missing_third_key_ends_at_the_deadline(program: Program, journal: Journal) -> None:
    with RawClient(program.address) as client:
        target = f"/echo?id={journal.name}&open_timeout=0.2&{ALL}"
        client.sock.sendall(client.handshake(target, hixie_76()))
        assert client.read_response().status == 101
        client.expect_end()
    assert journal.wait_for("close") == [
        ["close", 1006, "the client did not complete the handshake in time"]
    ]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (hixie_76(**{"Sec-WebSocket-Key1": "12345"}), 400),
        (hixie_76(**{"Sec-WebSocket-Key2": None}), 400),
        (hixie_76(**{"Sec-WebSocket-Version": "13"}), 400),
        (hixie_76(**{"Sec-WebSocket-Draft": "7"}), 400),
        (hixie_76(Origin="http://elsewhere.example"), 403),
        ({"Sec-WebSocket-Version": "9"}, 426),
    ],
)
def test_bad_request_of_older_version_is_rejected(
    program: Program, headers: dict[str, str | None], status: int
) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake(f"/echo?{ALL}", headers))
        assert client.read_response().status == status
