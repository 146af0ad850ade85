"""ASGI: real servers and frameworks, each in its own process."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator

import pytest

from websocket_handler import HandshakeFailed, connect

from ..support.programs import Program, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from .asgi_programs import (
    SERVERS,
    THEIRS,
    UNWANTED,
    serve,
    wait_for_journal,
    watched,
)

HELLO = text("hello")


@pytest.fixture(scope="module", params=SERVERS)
def shared(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(SERVERS[request.param]) as program:
        yield program


@pytest.fixture(scope="module", params=[*SERVERS, "uvicorn's own"])
def shared_by_all(request: pytest.FixtureRequest) -> Iterator[Program]:
    with serve(SERVERS.get(request.param, THEIRS)) as program:
        yield program


@pytest.fixture
def ours(shared: Program) -> Iterator[Program]:
    yield from watched(shared)


@pytest.fixture
def either(shared_by_all: Program) -> Program:
    """Our implementation and uvicorn's own, which it replaces: the application must see no
    difference."""
    return shared_by_all


# The `websocket` scope


@pytest.mark.parametrize(("code", "seen"), [(1000, 1000), (4321, 4321), (1001, 1001), (None, 1005)])
def test_echo_then_close_reports_the_code(either: Program, code: int | None, seen: int) -> None:
    with RawClient(either.address) as client:
        client.open().echo(HELLO, binary(b"\x00\xff"), text(""), binary(b"x" * 1_000_000))
        client.send(close(code, "bye" if code else ""))
        client.expect_close(code)
        client.expect_end()
    wait_for_journal(either, "websocket.disconnect", seen, "bye" if code else "")


def test_client_disconnect_reaches_the_application(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.open().echo(HELLO)
    reason = "the peer ended the connection without closing it"
    wait_for_journal(ours, "websocket.disconnect", 1006, reason)


def test_scope_describes_the_handshake(either: Program) -> None:
    with RawClient(either.address) as client:
        client.open("/echo?a=%20b", {"Cookie": "c=1", "Sec-WebSocket-Protocol": "x, y"})
        client.send(text("about"))
        frame = client.read_frame()
        scope = {
            name: eval(value)
            for name, value in json.loads(frame.payload).items()
            if name != "websocket"
        }
        assert scope["type"] == "websocket"
        assert (scope["path"], scope["raw_path"]) == ("/echo", b"/echo")
        assert (scope["query_string"], scope["root_path"]) == (b"a=%20b", "")
        assert (scope["scheme"], scope["http_version"]) == ("ws", "1.1")
        assert scope["subprotocols"] == ["x", "y"]
        assert [b"cookie", b"c=1"] in [list(field) for field in scope["headers"]]
        assert scope["client"] == client.sock.getsockname()
        assert scope["server"] == client.sock.getpeername()
        assert scope["state"] == {"begun": True}
        assert "websocket.http.response" in scope["extensions"]


def test_headers_subprotocol_and_close_reason_reach_the_client(either: Program) -> None:
    with RawClient(either.address) as client:
        client.sock.sendall(
            client.handshake("/accept-with", {"Sec-WebSocket-Protocol": "talk, chat"})
        )
        response = client.read_response()
        assert response.status == 101
        assert response.header("sec-websocket-protocol") == "chat"
        client.expect(binary(b"hello"), close(4001, "that is all"))
        client.send(close(4001))
        client.expect_end()
    wait_for_journal(either, "refused to send more")
    wait_for_journal(either, "websocket.disconnect", 4001, "that is all")


def test_cookies_of_accept_are_in_the_101(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/accept-with", {"Sec-WebSocket-Protocol": "chat"}))
        assert client.read_response().headers["set-cookie"] == ["a=1", "b=2"]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/forbidden", 403, b""), ("/denied", 401, b"who are you?\n")],
)
def test_denial_response_reaches_the_client(
    either: Program, path: str, status: int, body: bytes
) -> None:
    with RawClient(either.address) as client:
        client.sock.sendall(client.handshake(path))
        response = client.read_response()
        assert (response.status, response.header("connection")) == (status, "close")
        assert client.read_body(response) == body
        client.expect_end()
    if path == "/denied":
        wait_for_journal(either, "websocket.disconnect", 1006)


def test_denial_in_pieces_reaches_the_client(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/denied-bit-by-bit"))
        response = client.read_response()
        assert (response.status, response.header("connection")) == (418, "close")
        assert client.read_to_end() == b"I am a teapot\n"


def test_denial_after_early_frames_is_read_in_full(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/denied") + masked(*[text("x" * 1000)] * 300))
        response = client.read_response()
        assert client.read_body(response) == b"who are you?\n"
        client.expect_end()


@pytest.mark.parametrize("path", ["/raise-before", "/return-before", "/send-before"])
def test_application_fails_before_accept_client_gets_500(shared: Program, path: str) -> None:
    with RawClient(shared.address) as client:
        client.sock.sendall(client.handshake(path))
        assert client.read_response().status == 500
    shared.wait_for_log("neither accepted" if path == "/return-before" else "Traceback")


def test_application_fails_after_accept_closes_with_1011(shared: Program) -> None:
    with RawClient(shared.address) as client:
        client.open("/raise-after").expect_close(1011)
    shared.wait_for_log("as the test wants it")


def test_application_returns_closes_with_1000(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.open("/return-after").expect_close(1000)
        client.send(close(1000))
        client.expect_end()


@pytest.mark.parametrize("path", ["/echo", "/asked/conversation"])
def test_early_frames_are_received_in_order(ours: Program, path: str) -> None:
    greeting = [] if path == "/echo" else [HELLO]
    frames = [text(f"{number:04}" * 250) for number in range(40)]
    with RawClient(ours.address) as client:
        client.open(path, early=masked(*frames))
        client.expect(*greeting, *frames)
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake(path))
        time.sleep(0.005)
        client.sock.sendall(masked(HELLO))
        client.expect_opened()
        client.expect(*greeting, HELLO)


def test_slow_reader_blocks_the_sending_application(either: Program) -> None:
    def sent() -> int:
        entries = either.get("/journal")
        return int(entries[0][1]) if entries and entries[0][0] == "sent" else 0

    with RawClient(either.address, receive_buffer=4096) as client:
        client.open("/flood")
        wait_for(sent, "the application to send")
        before = -1
        while before != (before := sent()):
            time.sleep(0.2)
        assert before * 65536 < 16 << 20  # the kernel's buffers, and a little more
        client.reset()
    wait_for_journal(either, "lost")


def test_application_that_does_not_receive_pauses_its_peer(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.open("/never-receives")
        frame = masked(binary(b"x" * 65536))
        client.sock.settimeout(0.3)
        sent = 0
        with contextlib.suppress(TimeoutError):
            while sent < 64 << 20:
                sent += client.sock.send(frame[sent % len(frame) :])
        assert sent < 32 << 20  # the kernel's buffers on both sides, and a little more
        client.sock.settimeout(20)
        client.sock.sendall(frame[sent % len(frame) :] if sent % len(frame) else b"")
        client.send(text("how much?"))
        client.expect(text(str(-(-sent // len(frame)) * 65536)))
        client.send(close(1000))
        client.expect_close(1000)


# Ordinary routes


def test_ordinary_route_connects_websocket_and_returns(ours: Program) -> None:
    tasks = ours.get("/tasks")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(ours.address)) for _ in range(12)]
        for client in clients:
            client.open("/asked/echo").expect(HELLO)
        for client in clients:
            client.echo(text("one"), binary(b"x" * 100_000))
        assert ours.get("/tasks") <= tasks + 1  # one for the page itself
        for client in clients:
            client.send(close(1000, "bye"))
            client.expect_close(1000)
            client.expect_end()
    wait_for_journal(ours, "close", 1000, "bye")


@pytest.mark.parametrize("path", ["/asked/thread", "/asked/conversation"])
def test_websocket_connected_in_other_ways_echoes(ours: Program, path: str) -> None:
    with RawClient(ours.address) as client:
        client.open(path).expect(HELLO)
        client.echo(text("one"), binary(b"x" * 100_000))
        client.send(close(1000))
        client.expect_close(1000)
        client.expect_end()


def test_ordinary_route_rejects_with_its_response(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/asked/forbidden") + masked(HELLO))
        response = client.read_response()
        assert (response.status, client.read_body(response)) == (403, b"not you\n")
        client.expect_end()
    with RawClient(ours.address) as client:
        assert client.get("/asked/echo", {"Upgrade": None}).status == 426


def test_ordinary_route_raises_after_connect_client_gets_500(shared: Program) -> None:
    with RawClient(shared.address) as client:
        client.sock.sendall(client.handshake("/asked/raise"))
        assert client.read_response().status == 500
        client.read_to_end()
    shared.wait_for_log("as the test wants it")


def test_origin_check_is_left_to_asgi_application(ours: Program) -> None:
    """ASGI leaves the check to the application; `connect()` performs it."""
    elsewhere = {"Origin": "http://elsewhere.example"}
    with RawClient(ours.address) as client:
        client.open("/echo", elsewhere).echo(HELLO)
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/asked/echo", elsewhere))
        assert client.read_response().status == 403


@pytest.mark.parametrize("path", ["/echo", "/asked/conversation"])
@pytest.mark.parametrize("version", ["hixie-75", "hixie-76", "hybi-03", "hybi-04", "hybi-12"])
def test_older_versions_are_accepted_by_asgi_servers(
    ours: Program, version: str, path: str
) -> None:
    with connect(ours.url(path), version=version) as websocket:
        if path != "/echo":
            assert websocket.receive(timeout=10) == "hello"
        for message in ("hello", "\u20ac" * 1000):
            websocket.send(message)
            assert websocket.receive(timeout=10) == message


def test_unsupported_version_is_rejected_by_asgi_servers(ours: Program) -> None:
    with RawClient(ours.address) as client:
        client.sock.sendall(client.handshake("/echo", {"Sec-WebSocket-Version": "9"}))
        assert client.read_response().status == 426


def test_only_http_1_1_get_is_a_handshake(shared: Program) -> None:
    """The application decides the response to an ordinary request for a WebSocket's path."""
    for old, new in ((b"GET ", b"POST "), (b" HTTP/1.1", b" HTTP/1.0")):
        with RawClient(shared.address) as client:
            client.sock.sendall(client.handshake("/echo").replace(old, new, 1))
            assert client.read_response().status >= 400
            client.read_to_end()


# Server shutdown


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
def test_asgi_server_shutdown_closes_websockets(server: str, by: signal.Signals) -> None:
    with serve(SERVERS[server]) as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(2)]
        clients[0].open("/echo").echo(HELLO)
        clients[1].open("/asked/echo").expect(HELLO)
        program.end_soon(by)
        for client in clients:
            client.expect_close(1012)
            client.send(close(1012))
            client.expect_end()
        program.wait()
        assert not UNWANTED.findall(program.log()), program.log()


# Frameworks

FRAMEWORKS = ["uvicorn", "uvicorn uvloop h11", "gunicorn"]


@pytest.mark.parametrize("server", [*FRAMEWORKS, "uvicorn's own"])
def test_starlette_behaves_as_with_uvicorns_own_class(server: str) -> None:
    """`iter_text`, denials, exceptions and codes are the same as with uvicorn's own class."""
    with serve(SERVERS.get(server, THEIRS), "with_starlette:app") as program:
        with RawClient(program.address) as client:
            client.open("/echo").echo(HELLO, text(""), text("\u20ac" * 1000))
            client.send(close(1000))
            client.expect_close(1000)
            client.expect_end()
        wait_for_journal(program, "the end")
        with RawClient(program.address) as client:
            client.open("/bytes").echo(binary(b"\x00" * 100_000))
            client.send(close(4567, "bye"))
            client.expect_close(4567)
        wait_for_journal(program, "disconnect", 4567, "bye")
        refusals = []
        for path in ("/forbidden", "/exception", "/nowhere"):
            with pytest.raises(HandshakeFailed) as caught:
                connect(program.url(path))
            refusals.append((caught.value.status, caught.value.body))
        assert refusals == [(403, b"not you\n"), (403, b""), (403, b"")]
        assert server not in SERVERS or not UNWANTED.findall(program.log()), program.log()


@pytest.mark.parametrize("server", FRAMEWORKS)
def test_fastapi_sessions_reach_the_websocket(server: str) -> None:
    with serve(SERVERS[server], "with_starlette:app") as program:
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/ordinary/echo"))
        assert (caught.value.status, caught.value.body) == (401, b"who are you?\n")
        with RawClient(program.address) as client:
            response = client.get("/ordinary/login")
            cookie = response.header("set-cookie").partition(";")[0]
        with connect(
            program.url("/ordinary/echo"),
            additional_headers={"Cookie": cookie},
            max_message_size=1 << 22,
        ) as websocket:
            for message in ("hello", b"x" * 1_000_000):
                websocket.send(message)
                assert websocket.receive(timeout=10) == message
        assert not UNWANTED.findall(program.log()), program.log()


@pytest.mark.parametrize("server", [*FRAMEWORKS, "uvicorn's own"])
def test_channels_consumer_works_unchanged(server: str) -> None:
    with serve(SERVERS.get(server, THEIRS), "with_django:app") as program:
        with RawClient(program.address) as client:
            client.open("/echo").echo(HELLO, binary(b"\x00" * 100_000))
            client.send(close(4567))
            client.expect_close(4567)
        wait_for_journal(program, "disconnect", 4567)
        with pytest.raises(HandshakeFailed) as caught:
            connect(program.url("/forbidden"))
        assert caught.value.status == 403


@pytest.mark.parametrize("server", FRAMEWORKS)
@pytest.mark.parametrize("path", ["/ordinary/echo", "/ordinary/conversation"])
def test_django_over_asgi_serves_websockets(server: str, path: str) -> None:
    with serve(SERVERS[server], "with_django:app") as program:
        with connect(program.url(path), max_message_size=1 << 22) as websocket:
            for message in ("hello", b"x" * 1_000_000):
                websocket.send(message)
                assert websocket.receive(timeout=10) == message
            with pytest.raises(HandshakeFailed) as caught:
                connect(program.url("/ordinary/forbidden"))
            assert (caught.value.status, caught.value.body) == (403, b"not you\n")
            with RawClient(program.address) as client:
                assert client.get("/ordinary/echo").status == 426
        assert not UNWANTED.findall(program.log()), program.log()
