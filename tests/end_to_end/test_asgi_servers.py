"""aiohttp, and the ASGI servers that do not hand over the connection."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from websocket_handler import HandshakeFailed, connect

from ..support.programs import Program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from .asgi_programs import UNWANTED, wait_for_journal, watched
from .loop_programs import AIOHTTP, OTHER_SERVERS, serve

HELLO = text("hello")


# aiohttp


@pytest.fixture(scope="module", params=AIOHTTP)
def shared_aiohttp(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(AIOHTTP[request.param], "Running on") as program:
        yield program


@pytest.fixture
def aiohttp(shared_aiohttp: Program) -> Iterator[Program]:
    yield from watched(shared_aiohttp)


@pytest.mark.parametrize("path", ["/echo", "/body", "/conversation"])
def test_aiohttp_echoes_and_closes(aiohttp: Program, path: str) -> None:
    with RawClient(aiohttp.address) as client:
        client.open(path).expect(HELLO)
        client.echo(text("one"), binary(b"x" * 1_000_000))
        client.send(close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()
    wait_for_journal(aiohttp, *(["the end"] if path == "/conversation" else ["close", 1000, "bye"]))


@pytest.mark.parametrize("path", ["/echo", "/conversation"])
def test_aiohttp_receives_early_frames(aiohttp: Program, path: str) -> None:
    frames = [text(f"{number:04}" * 250) for number in range(40)]
    with RawClient(aiohttp.address) as client:
        client.open(path, early=masked(*frames)).expect(HELLO, *frames)


def test_aiohttp_keeps_no_task_and_serves_pages_meanwhile(aiohttp: Program) -> None:
    tasks = aiohttp.get("/tasks")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(aiohttp.address)).open() for _ in range(12)]
        for client in clients:
            client.expect(HELLO)
            client.echo(text("one"))
        wait_for(lambda: aiohttp.get("/tasks") <= tasks + 1, "the handlers' tasks to end")


def test_aiohttp_rejects_with_the_handlers_response(aiohttp: Program) -> None:
    with RawClient(aiohttp.address) as client:
        client.sock.sendall(client.handshake("/forbidden") + masked(HELLO))
        response = client.read_response()
        assert (response.status, client.read_body(response)) == (403, b"not you\n")
        client.expect_end()
    with RawClient(aiohttp.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Sec-WebSocket-Version": "9"}))
        assert client.read_response().status == 426
    with RawClient(aiohttp.address) as client:
        assert client.get("/echo").status == 426


def test_aiohttp_handler_raises_after_connect_client_gets_500(shared_aiohttp: Program) -> None:
    with RawClient(shared_aiohttp.address) as client:
        client.sock.sendall(client.handshake("/raise"))
        assert client.read_response().status == 500
        client.read_to_end()
    shared_aiohttp.wait_for_log("as the test wants it")


@pytest.mark.parametrize("loop", AIOHTTP)
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_aiohttp_shutdown_closes_websockets(loop: str, by: signal.Signals) -> None:
    with serve(AIOHTTP[loop], "Running on") as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(2)]
        for client, path in zip(clients, ("/echo", "/conversation"), strict=True):
            client.open(path).expect(HELLO)
        program.end_soon(by)
        for client in clients:
            client.expect_close(1001)
            client.send(close(1001))
            client.expect_end()
        program.wait()
        assert not UNWANTED.findall(program.log()), program.log()


# Servers that keep the connection


@pytest.fixture(scope="module", params=OTHER_SERVERS)
def other(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(*OTHER_SERVERS[request.param]) as program:

        def is_up() -> bool:
            with contextlib.suppress(OSError):
                return bool(program.get("/plain"))
            return False

        wait_for(is_up, "the server to serve")
        yield program
        assert program.get("/plain") == "plain\n"
        assert not UNWANTED.findall(program.log()), program.log()


@pytest.mark.parametrize("path", ["/asked/echo", "/asked/thread", "/asked/conversation"])
def test_echo_via_asgi_messages(other: Program, path: str) -> None:
    with RawClient(other.address) as client:
        client.open(path).expect(HELLO)
        client.echo(text("one"), binary(b"\x00\xff"), binary(b"x" * 1_000_000))
        client.echo(*[text(str(number)) for number in range(100)])
        client.send(close(1000))
        client.expect_close(1000)


def test_many_echoes_via_asgi_messages(other: Program) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(other.address)) for _ in range(12)]
        for client in clients:
            client.open("/asked/echo").expect(HELLO)
        assert other.get("/plain") == "plain\n"
        for client in clients:
            client.echo(text("one"))


def test_rejection_via_asgi_messages(other: Program) -> None:
    with pytest.raises(HandshakeFailed) as caught:
        connect(other.url("/asked/forbidden"))
    assert caught.value.status == 403
    with pytest.raises(HandshakeFailed) as caught:
        connect(other.url("/asked/echo"), origin="http://elsewhere.example")
    assert caught.value.status == 403
    with RawClient(other.address) as client:
        assert client.get("/asked/echo").status == 426
