"""The test client: limits of waits, exceptions, and leftovers after it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import tornado.web
from aiohttp import web

from websocket_handler import (
    ALL_VERSIONS,
    IS_NATIVE,
    ConnectionClosed,
    ProtocolError,
    Version,
    WebSocket,
    WebSocketError,
    WSGIMiddleware,
)
from websocket_handler.testing import Client, HandshakeFailed

from ..support.programs import TIMEOUT_S
from .applications import chat
from .conftest import FRAMEWORKS, app_of

BRIEF = 0.05
"""A limit, in seconds, of a wait that is in vain."""


class Application:
    """A WSGI application with one handler, which gets the WebSocket."""

    def __init__(self, handler: Any, **settings: Any) -> None:
        self._handler = handler
        self.app = WSGIMiddleware(self._respond, **settings)

    def _respond(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        result = self._handler(WebSocket.of(environ))
        start_response("200 OK", [("Set-Cookie", "seen=yes; Path=/")])
        return [result.encode() if isinstance(result, str) else b""]


def echo(ws: WebSocket | None) -> None:
    assert ws is not None
    ws.on("message", ws.send)
    ws.connect()


def client_of(handler: Any, timeout: float = TIMEOUT_S, **options: Any) -> Client:
    return Client(Application(handler).app, timeout=timeout, **options)


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_nothing_remains_after_the_client(framework: str) -> None:
    def use() -> None:
        with Client(app_of(framework), timeout=TIMEOUT_S) as client:
            client.get("/echo")
            client.connect("/echo")  # closed by the client's end
            with client.connect("/echo") as ws:
                ws.send("x")
                ws.receive()

    use()  # imports, caches
    before = descriptors(), set(threading.enumerate())
    use()
    assert (descriptors(), set(threading.enumerate())) == before


def test_connections_that_are_open_at_the_end_are_closed_with_1001(app: Any) -> None:
    with Client(app, timeout=TIMEOUT_S) as client:
        ws = client.connect("/echo")
    assert chat.closed == [(1001, "")]
    assert ws.close_code == 1001
    with pytest.raises(ConnectionClosed):
        ws.send("too late")


def test_receive_without_a_message_says_what_it_waited_for() -> None:
    with client_of(echo) as client, client.connect("/quiet") as ws:
        begin = time.monotonic()
        with pytest.raises(TimeoutError, match=r"/quiet: waited 0.05 s for a message"):
            ws.receive(timeout=BRIEF)
        assert time.monotonic() - begin < TIMEOUT_S


def test_default_limit_of_a_wait_is_a_second() -> None:
    assert Client(Application(echo).app).timeout == 1


def test_handler_that_never_responds_fails_the_handshake_in_time() -> None:
    may_return = threading.Event()

    def hang(_: WebSocket | None) -> None:
        may_return.wait(TIMEOUT_S)

    with client_of(hang) as client:
        with pytest.raises(TimeoutError, match=r"/: waited 0.05 s for the response to the hand"):
            client.connect("/", timeout=BRIEF)
        with pytest.raises(TimeoutError, match=r"/: waited 0.05 s for the response"):
            client.get("/", timeout=BRIEF)
        may_return.set()


class NotFound(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "9")
        self.end_headers()
        self.wfile.write(b"not found")


@pytest.mark.parametrize(
    "app",
    [web.Application(), tornado.web.Application(), NotFound],
    ids=["aiohttp", "tornado", "http.server"],
)
def test_refusal_by_the_framework_need_not_end_the_connection(app: Any) -> None:
    """The library has not seen the request, so the framework waits for another one."""
    with Client(app, timeout=TIMEOUT_S) as client:
        with pytest.raises(HandshakeFailed) as refused:
            client.connect("/")
        assert (refused.value.status, b"ot" in refused.value.body) == (404, True)


@pytest.mark.parametrize("length", [{}, {"Content-Length": "300000"}], ids=["chunks", "length"])
def test_long_response_of_a_refusal_is_received_whole(length: dict[str, str]) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=403, headers=length)
        await response.prepare(request)
        for _ in range(3):
            await response.write(b"x" * 100_000)
        return response

    app = web.Application()
    app.router.add_get("/", refuse)
    with Client(app, timeout=TIMEOUT_S) as client:
        with pytest.raises(HandshakeFailed) as refused:
            client.connect("/")
        assert (refused.value.status, refused.value.body) == (403, b"x" * 300_000)


@pytest.mark.parametrize("message", [5, None, {}, [1], ["text"]])
def test_message_of_another_type_is_a_type_error(message: Any) -> None:
    with client_of(echo) as client, client.connect("/") as ws:
        with pytest.raises(TypeError, match="a message is a str or bytes-like, not"):
            ws.send(message)
        ws.send(b"data")
        assert ws.receive() == b"data"


def test_payload_of_a_ping_may_be_text() -> None:
    with client_of(echo) as client, client.connect("/") as ws:
        ws.ping("héllo")


def test_message_over_the_limit_of_the_client_names_the_limit() -> None:
    with client_of(echo) as client:
        ws = client.connect("/", max_message_size=1024)
        ws.send("x" * 1025)
        with pytest.raises(ProtocolError, match="message is too big: our max_message_size=1 KiB"):
            ws.receive()


def test_connection_shows_its_path_and_state() -> None:
    with client_of(echo) as client:
        with client.connect("/path") as ws:
            assert repr(ws) == "<ClientConnection /path open>"
        assert repr(ws) == "<ClientConnection /path closed with 1000>"


def test_handler_that_runs_on_is_an_error() -> None:
    may_return = threading.Event()

    def run_on(ws: WebSocket) -> None:
        ws.connect()
        ws.wait_closed(TIMEOUT_S)
        may_return.wait(TIMEOUT_S)

    client = client_of(run_on, timeout=0.5)
    with client:
        ws = client.connect("/")
        with pytest.raises(TimeoutError, match="the handler runs on"):
            ws.close()
        may_return.set()


def test_handler_may_receive_the_messages_itself() -> None:
    def converse(ws: WebSocket) -> None:
        ws.connect()
        for message in ws:
            ws.send(f"got {message!r}")

    with client_of(converse) as client, client.connect("/") as ws:
        ws.send("one")
        ws.send(b"two")
        assert [ws.receive(), ws.receive()] == ["got 'one'", "got b'two'"]


def test_blocking_listener_delays_only_its_own_connection() -> None:
    may_return = threading.Event()

    def listen(ws: WebSocket) -> None:
        ws.on("message", lambda m: may_return.wait(TIMEOUT_S) if m == "block" else ws.send(m))
        ws.connect()

    with client_of(listen) as client, client.connect("/") as one, client.connect("/") as other:
        one.send("block")
        other.send("x")
        if IS_NATIVE:
            assert other.receive() == "x"
        may_return.set()


@pytest.mark.parametrize("event", ["message", "close"])
def test_exception_of_a_listener_is_raised_at_the_end_of_the_with(event: str) -> None:
    def listen(ws: Any) -> None:
        def fail(*_: object) -> None:
            raise LookupError(event)

        ws.on(event, fail)
        ws.connect()

    with client_of(listen) as client:
        ws = client.connect("/")
        ws.send("x")
        with pytest.raises(LookupError, match=event):
            ws.close()


def test_exceptions_are_not_raised_on_request(app: Any) -> None:
    with Client(app, timeout=TIMEOUT_S, raise_server_exceptions=False) as client:
        with client.connect("/echo") as ws:
            ws.send("fail")
            with pytest.raises(ConnectionClosed) as closed:
                ws.receive()
        assert closed.value.code == 1011
        with pytest.raises(HandshakeFailed) as failed:
            client.connect("/fails")
        assert failed.value.status in (500, None)  # http.server sends no response


def test_exception_of_the_test_itself_wins() -> None:
    def fail(ws: WebSocket) -> None:
        ws.on("close", lambda *_: 1 / 0)
        ws.connect()

    with (
        pytest.raises(KeyError, match="of the test"),
        client_of(fail) as client,
        client.connect("/"),
    ):
        raise KeyError("of the test")


def test_client_closes_with_1011_after_an_exception_of_the_test(app: Any) -> None:
    def fail_in(client: Client) -> None:
        with client.connect("/echo"):
            raise KeyError("of the test")

    with Client(app, timeout=TIMEOUT_S) as client:
        with pytest.raises(KeyError):
            fail_in(client)
        assert chat.closed == [(1011, "")]


def test_client_must_be_entered() -> None:
    with pytest.raises(WebSocketError, match="with Client"):
        client_of(echo).get("/")


def test_client_cannot_be_entered_twice() -> None:
    client = client_of(echo)
    with client:
        pass
    with pytest.raises(WebSocketError, match="make a new one"):
        client.__enter__()


@pytest.mark.parametrize("path", ["echo", "http://other/echo", "/with space", "/#fragment"])
def test_invalid_path_is_rejected(path: str) -> None:
    with client_of(echo) as client, pytest.raises(ValueError, match=r"path|whitespace|fragment"):
        client.connect(path)


@pytest.mark.parametrize("version", ALL_VERSIONS, ids=str)
def test_client_speaks_every_version(version: Version) -> None:
    app = Application(echo, versions=ALL_VERSIONS)
    with Client(app.app, timeout=TIMEOUT_S) as client, client.connect("/", version=version) as ws:
        ws.send("hello")
        assert ws.receive() == "hello"


def test_compression_is_offered_and_used() -> None:
    app = Application(echo, compression=True)
    with Client(app.app, timeout=TIMEOUT_S) as client, client.connect("/", compression=True) as ws:
        assert ws.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        ws.send("x" * 10_000)
        assert ws.receive() == "x" * 10_000


def test_many_messages_can_be_sent_before_any_is_received() -> None:
    messages = [bytes([number % 256]) * 4096 for number in range(1000)]
    with client_of(echo) as client, client.connect("/") as ws:
        for message in messages:
            ws.send(message)
        assert [ws.receive() for _ in messages] == messages


def test_origin_of_another_site_is_refused() -> None:
    with client_of(echo) as client:
        with pytest.raises(HandshakeFailed) as refused:
            client.connect("/", origin="https://evil.example")
        assert refused.value.status == 403
        with client.connect("/", origin="http://testserver"):
            pass


def test_advance_passes_the_limit_of_the_closing_handshake() -> None:
    with client_of(lambda ws: (ws.connect(), ws.close(4000))) as client:
        ws = client.connect("/")
        ws.stop_reading()
        client.advance(9)
        ws.resume_reading()
        ws.wait_closed()
        assert ws.close_code == 4000
        ws = client.connect("/")
        ws.stop_reading()
        client.advance(11)
        ws.resume_reading()
        with pytest.raises(ConnectionClosed):
            ws.receive()
        ws.wait_closed()


@pytest.mark.usefixtures("collector_disabled")
def test_closed_connection_needs_no_garbage_collector() -> None:
    with client_of(echo) as client:
        with client.connect("/") as ws:
            peer = weakref.ref(ws._peer)
        del ws
        assert peer() is None


@pytest.fixture
def collector_disabled() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_advance_affects_only_its_own_client() -> None:
    app = Application(echo).app
    with Client(app, timeout=TIMEOUT_S) as one, Client(app, timeout=TIMEOUT_S) as other:
        ws = other.connect("/")
        ws.stop_reading()
        one.advance(1000)
        ws.resume_reading()
        ws.ping()


def test_reading_that_is_stopped_cannot_be_waited_for() -> None:
    with client_of(echo) as client, client.connect("/") as ws:
        ws.stop_reading()
        with pytest.raises(WebSocketError, match="resume_reading"):
            ws.receive()


@pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name != "aiohttp"])
def test_message_reaches_other_clients_of_the_application(framework: str) -> None:
    app = app_of(framework)
    with (
        Client(app, timeout=TIMEOUT_S) as alice,
        Client(app, timeout=TIMEOUT_S) as bob,
        alice.connect("/room") as one,
        bob.connect("/room") as other,
    ):
        one.send("hello")
        assert one.receive() == other.receive() == "hello"


def test_environ_of_the_application() -> None:
    seen: list[Any] = []

    def look(ws: WebSocket) -> None:
        seen.append((ws.request.target, ws.request.headers["Host"], ws.request.cookies))
        ws.connect()

    with client_of(look, headers={"X-Test": "1"}, cookies={"a": "1"}) as client:
        with client.connect("/path?query=1", cookies={"b": "2"}):
            pass
        with client.connect("/"):
            pass
    assert seen == [
        ("/path?query=1", "testserver", {"a": "1", "b": "2"}),
        ("/", "testserver", {"a": "1", "seen": "yes"}),
    ]
