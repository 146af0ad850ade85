"""https: the same WebSocket behind a TLS socket of http.server, and wss: in our client."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect as websockets_connect

from websocket_handler import (
    IS_NATIVE,
    ConnectionClosed,
    HandshakeFailed,
    TlsFailed,
    WebSocket,
    aconnect,
    connect,
)

from ..support.programs import ENGINES, EngineSetup, Program, echo_program, wait_for
from ..support.raw_client import close, masked, request, text
from ..support.tls import context

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="TLS needs the native engine")


@pytest.fixture(
    scope="module",
    params=[setup for setup in ENGINES if not setup.pure],
    ids=lambda setup: setup.name,
)
def engine_setup(request: pytest.FixtureRequest) -> EngineSetup:
    found: EngineSetup = request.param
    return found


@pytest.fixture(scope="module")
def secure(engine_setup: EngineSetup, certificate: Path) -> Iterator[Program]:
    with echo_program(engine_setup, "--certificate", str(certificate)) as program:
        yield program
        assert "Traceback" not in program.log()


def open_websocket(program: Program, target: str = "/echo", **settings: object) -> WebSocket:
    websocket: WebSocket = connect(
        program.url(target, "wss"),
        ssl=context(),
        **settings,  # type: ignore[arg-type]
    )
    return websocket


def test_messages_of_every_size_are_echoed_over_tls(secure: Program) -> None:
    target = f"/echo?max_message_size={1 << 24}"
    with open_websocket(secure, target, max_message_size=1 << 24) as websocket:
        pattern = bytes(range(256)) * (MIB >> 8)
        for message in ("", "h\xe9llo", "x" * 70_000, pattern, pattern * 8):
            websocket.send(message)
            assert websocket.receive(timeout=20) == message


def test_messages_from_several_threads_arrive_over_tls(secure: Program) -> None:
    with open_websocket(secure) as websocket:
        words = [[f"{thread}-{number}" for number in range(500)] for thread in range(4)]

        def send_all(mine: list[str]) -> None:
            for word in mine:
                websocket.send(word)

        threads = [threading.Thread(target=send_all, args=(mine,)) for mine in words]
        for thread in threads:
            thread.start()
        received = [websocket.receive(timeout=20) for _ in range(2000)]
        for thread in threads:
            thread.join()
        for number, mine in enumerate(words):
            assert [word for word in received if word.startswith(f"{number}-")] == mine  # type: ignore[arg-type]


def test_coroutine_client_works_over_tls(secure: Program) -> None:
    async def run_over_asgi_messages(number: int) -> list[str]:
        url = secure.url("/echo", "wss")
        async with await aconnect(url, ssl=context()) as websocket:
            for word in range(20):
                websocket.send(f"{number}-{word}")
            return [await websocket.areceive() for _ in range(20)]  # type: ignore[misc]

    async def converse_often() -> list[list[str]]:
        return await asyncio.gather(*map(run_over_asgi_messages, range(10)))

    expected = [[f"{number}-{word}" for word in range(20)] for number in range(10)]
    assert asyncio.run(converse_often()) == expected


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_frames_in_the_record_of_the_request_are_received(
    secure: Program, newest: ssl.TLSVersion
) -> None:
    """They share a TLS record with the request: OpenSSL or the server holds them at handover."""
    head = {
        "Host": f"localhost:{secure.port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    frames = masked(*(text(f"{number:04}") for number in range(40)), close(1000))
    received = b""
    with (
        socket.create_connection(secure.address) as raw,
        context(newest).wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.settimeout(10)
        sock.sendall(request("/echo", head) + frames)
        while data := sock.recv(1 << 16):
            received += data
    assert received.startswith(b"HTTP/1.1 101 ")
    frames_back = received.partition(b"\r\n\r\n")[2]
    assert frames_back == b"".join(b"\x81\x04%04d" % n for n in range(40)) + b"\x88\x02\x03\xe8"


def test_rejections_and_plain_requests_work_over_tls(secure: Program) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        open_websocket(secure, "/forbidden")
    assert (caught.value.status, caught.value.body) == (403, b"not you\n")
    with open_websocket(secure) as websocket:
        with pytest.raises(HandshakeFailed) as caught:
            open_websocket(secure, "/ordinary-but-missing")
        assert caught.value.status == 404
        websocket.send("still here")
        assert websocket.receive(timeout=10) == "still here"


def test_untrusted_server_certificate_is_rejected(secure: Program) -> None:
    with pytest.raises(TlsFailed, match="certificate is not valid"):
        connect(secure.url("/echo", "wss"))


def test_websockets_client_works_over_tls(secure: Program) -> None:
    url = secure.url("/echo", "wss")
    with websockets_connect(url, ssl=context(ssl.TLSVersion.TLSv1_2), compression=None) as other:
        for message in ("hello", "x" * 200_000, b"\x00" * 200_000):
            other.send(message)
            assert other.recv(timeout=10) == message


def test_both_ends_see_the_close_over_tls(secure: Program) -> None:
    ends: list[tuple[int, str]] = []
    websocket = open_websocket(secure, "/closes?id=tls")
    websocket.on("close", lambda *end: ends.append(end))
    websocket.send("4002 because")
    assert websocket.wait_closed(10)
    assert ends == [(4002, "because")]


def test_vanished_or_unreading_tls_peer_ends_only_its_connection(secure: Program) -> None:
    descriptors = secure.descriptors()
    raw = socket.create_connection(secure.address)
    sock = context().wrap_socket(raw, server_hostname="localhost")
    url = secure.url("/echo?max_buffered=100000&high_water=50000&close_timeout=0.5", "wss")
    lazy = connect(url, ssl=context(), high_water=1)
    for _ in range(20):
        lazy.send(b"x" * 60_000)  # and never receives: the server pauses reading
    sock.close()
    with open_websocket(secure) as other:
        other.send("not disturbed")
        assert other.receive(timeout=10) == "not disturbed"
    for _ in range(20):
        assert lazy.receive(timeout=10) == b"x" * 60_000
    lazy.abort()
    with pytest.raises(ConnectionClosed):
        lazy.receive(timeout=10)
    wait_for(lambda: secure.descriptors() <= descriptors, "the descriptors to be given back")


def test_shutdown_closes_tls_websockets_with_1001(
    engine_setup: EngineSetup, certificate: Path
) -> None:
    with echo_program(engine_setup, "--certificate", str(certificate)) as program:
        websocket = open_websocket(program)
        ends: list[tuple[int, str]] = []
        websocket.on("close", lambda *end: ends.append(end))
        program.end_soon()
        assert websocket.wait_closed(10)
        assert ends == [(1001, "")]
        assert program.wait() == 0
