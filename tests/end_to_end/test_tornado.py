"""Tornado, in asyncio's loop and in uvloop's."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from websocket_handler import ALL_VERSIONS, Version, connect

from ..support.programs import Program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from .asgi_programs import UNWANTED, wait_for_journal, watched
from .loop_programs import READY, TORNADO, serve

HELLO = text("hello")


@pytest.fixture(scope="module", params=TORNADO)
def shared(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(TORNADO[request.param], READY) as program:
        yield program


@pytest.fixture
def tornado(shared: Program) -> Iterator[Program]:
    yield from watched(shared)


@pytest.mark.parametrize("path", ["/echo", "/body", "/later", "/conversation"])
def test_tornado_echoes_and_closes(tornado: Program, path: str) -> None:
    seen = len(tornado.log())
    with RawClient(tornado.address) as client:
        client.open(path).expect(HELLO)
        client.echo(text("one"), binary(b"x" * 1_000_000))
        client.send(close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()
    if path != "/later":
        wait_for_journal(
            tornado, *(["the end"] if path == "/conversation" else ["close", 1000, "bye"])
        )
    assert f"101 GET {path}" in tornado.wait_for_log(f"GET {path}", seen)


@pytest.mark.parametrize("path", ["/echo", "/later", "/conversation"])
def test_tornado_receives_early_frames(tornado: Program, path: str) -> None:
    frames = [text(f"{number:04}" * 250) for number in range(40)]
    with RawClient(tornado.address) as client:
        client.open(path, early=masked(*frames)).expect(HELLO, *frames)


def test_tornado_accepts_upgrade_as_second_request(tornado: Program) -> None:
    with RawClient(tornado.address) as client:
        response = client.get("/plain")
        client.read_body(response)
        client.open().expect(HELLO)
        client.echo(text("one"))


def test_tornado_keeps_no_task_and_serves_pages_meanwhile(tornado: Program) -> None:
    tasks, descriptors = tornado.get("/tasks"), tornado.descriptors()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(tornado.address)).open() for _ in range(12)]
        for client in clients:
            client.expect(HELLO)
            client.echo(text("one"))
        wait_for(lambda: tornado.get("/tasks") <= tasks + 1, "the handlers' tasks to end")
    wait_for(lambda: tornado.descriptors() <= descriptors, "the descriptors to be given back")


def test_tornado_rejects_with_the_handlers_response(tornado: Program) -> None:
    with RawClient(tornado.address) as client:
        client.sock.sendall(client.handshake("/forbidden") + masked(HELLO))
        response = client.read_response()
        assert (response.status, client.read_body(response)) == (403, b"not you\n")
        client.expect_end()
    with RawClient(tornado.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Sec-WebSocket-Version": "9"}))
        response = client.read_response()
        assert response.status == 426
        client.read_body(response)
        client.expect_end()
    with RawClient(tornado.address) as client:
        assert client.get("/echo").status == 426


def test_tornado_handler_raises_after_connect_client_gets_500(shared: Program) -> None:
    seen = len(shared.log())
    with RawClient(shared.address) as client:
        client.sock.sendall(client.handshake("/raise"))
        assert client.read_response().status == 500
        client.read_to_end()
    shared.wait_for_log("as the test wants it", seen)
    assert shared.get("/plain") == "plain\n"


@pytest.mark.parametrize("path", ["/echo", "/conversation"])
@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_tornado_accepts_every_version(tornado: Program, version: Version, path: str) -> None:
    with connect(tornado.url(path), version=version) as websocket:
        assert websocket.receive(timeout=10) == "hello"
        for message in ("hello", "\u20ac" * 1000):
            websocket.send(message)
            assert websocket.receive(timeout=10) == message


@pytest.mark.parametrize("loop", TORNADO)
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_tornado_shutdown_closes_websockets(loop: str, by: signal.Signals) -> None:
    with serve(TORNADO[loop], READY) as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(2)]
        for client, path in zip(clients, ("/echo", "/conversation"), strict=True):
            client.open(path).expect(HELLO)
        program.end_soon(by)
        for client in clients:
            client.expect_close(1001)
            client.send(close(1001))
            client.expect_end()
        assert program.wait() == 0
        assert not UNWANTED.findall(program.log()), program.log()
