"""An open connection: pings, fragments, time limits and close codes, with a server of
`websockets`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.server import ServerConnection

from websocket_handler import (
    ConnectionClosed,
    Reconnecting,
    State,
    WebSocket,
    aconnect,
    connect,
)

from ..cli.servers import frame, serving, upgrade
from ..support.programs import wait_for
from ..support.raw_client import text
from .forms import Form, NothingLeft
from .peers import EchoServer

TIMEOUT_S = 20


def test_pings_are_answered_and_measured(server: EchoServer) -> None:
    with connect(server.url(), ping_interval=0.05) as websocket:
        wait_for(lambda: websocket.latency is not None, "the pong of a keep-alive ping")
        pongs: list[bytes] = []
        websocket.on("pong", pongs.append)
        websocket.ping(b"here")
        wait_for(lambda: b"here" in pongs, "the pong")


def test_server_that_answers_no_pings_is_left(echo: Form) -> None:
    closed: list[tuple[int, str]] = []

    def look(websocket: WebSocket) -> None:
        websocket.on("close", lambda code, reason: closed.append((code, reason)))

    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        wait(sock)

    with serving(respond) as port, NothingLeft(), pytest.raises(ConnectionClosed):
        echo(f"ws://127.0.0.1:{port}/", look, ping_interval=0.1, ping_timeout=0.2)
    wait_for(lambda: closed, "the close event")
    assert closed == [(1006, "no answer to a ping")]


def wait(sock: socket.socket) -> None:
    """Read until the peer ends, without an answer."""
    while sock.recv(1 << 16):
        pass


def test_handshake_after_interim_responses_is_accepted(echo: Form) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"

    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(interim + upgrade(head))
        sock.recv(1 << 16)
        sock.sendall(frame(text("hello")))
        wait(sock)

    with serving(respond) as port:
        assert echo(f"ws://127.0.0.1:{port}/", close_timeout=0.2) == "hello"


def test_message_can_be_sent_in_fragments() -> None:
    received: list[list[str]] = []

    class Fragments(EchoServer):
        def _echo(self, connection: ServerConnection) -> None:
            received.append([str(part) for part in connection.recv_streaming()])
            connection.send("done")

    def parts() -> Iterator[str]:
        yield from ("one", "two", "three")

    server = Fragments()
    try:
        with connect(server.url()) as websocket:
            websocket.send(parts())
            assert websocket.receive(timeout=TIMEOUT_S) == "done"
    finally:
        server.close()
    assert "".join(received[0]) == "onetwothree"
    assert len(received[0]) >= 3


def test_wait_for_a_message_has_a_time_limit(server: EchoServer) -> None:
    with connect(server.url()) as websocket:
        with pytest.raises(TimeoutError):
            websocket.receive(timeout=0.05)
        websocket.send("later")
        assert websocket.receive(timeout=TIMEOUT_S) == "later"

    async def main() -> None:
        async with aconnect(server.url()) as websocket:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(websocket.areceive(), 0.05)
            websocket.send("later")
            assert await asyncio.wait_for(websocket.areceive(), TIMEOUT_S) == "later"

    asyncio.run(main())


class ClosedServer(EchoServer):
    """Records how connections are closed; `/close` closes them itself."""

    def __init__(self) -> None:
        self.closed: list[tuple[int | None, str | None]] = []
        super().__init__()

    def _echo(self, connection: ServerConnection) -> None:
        if self.requests[-1].path == "/close":
            connection.close(4001, "enough")
            return
        with contextlib.suppress(ConnectionClosedError):
            super()._echo(connection)
        self.closed.append((connection.close_code, connection.close_reason))


@pytest.fixture
def closed_server() -> Iterator[ClosedServer]:
    server = ClosedServer()
    yield server
    server.close()


def test_close_codes_pass_in_both_directions(closed_server: ClosedServer) -> None:
    url = closed_server.url("/close")
    with connect(url) as websocket, pytest.raises(ConnectionClosed) as caught:
        websocket.receive(timeout=TIMEOUT_S)
    assert (caught.value.code, caught.value.reason) == (4001, "enough")
    connect(closed_server.url()).close(4002, "bye")
    wait_for(lambda: closed_server.closed, "the close of the server")
    assert closed_server.closed == [(4002, "bye")]


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError, 1011), (KeyboardInterrupt, 1011), (ConnectionClosed, 1000)]
)
def test_error_in_the_block_of_a_reconnecting_client_closes_with_1011(
    closed_server: ClosedServer, error: type[BaseException], code: int
) -> None:
    def raise_in_block() -> None:
        with Reconnecting(closed_server.url()) as feed:
            wait_for(lambda: feed.state is State.OPEN, "the connection")
            raise error(1000, "") if error is ConnectionClosed else error

    with pytest.raises(error):
        raise_in_block()
    wait_for(lambda: closed_server.closed, "the close of the server")
    assert closed_server.closed == [(code, "")]


def test_local_address_chooses_the_family(echo: Form) -> None:
    server = EchoServer(host="::1")
    try:
        with NothingLeft():
            assert echo(server.url(host="[::1]"), local_addr=("::", 0)) == "hello"
            with pytest.raises(OSError, match="connect"):
                echo(server.url(host="[::1]"), local_addr=("0.0.0.0", 0))
    finally:
        server.close()
