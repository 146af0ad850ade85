"""wss: with every kind of server that terminates TLS itself."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE, connect

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, binary, close, masked, text
from ..support.tls import context

HELLO = text("hello")
UNWANTED = ("Traceback", "ERROR", "CRITICAL")
ASGI, WSGI = "tests.end_to_end.asgi", "tests.end_to_end.wsgi"


def uvicorn(*options: str) -> Callable[[str, int], list[str]]:
    def command(pem: str, port: int) -> list[str]:
        secure = ["--ssl-certfile", pem, "--ssl-keyfile", pem, "--port", str(port)]
        ours = ["--ws", "websocket_handler.servers.uvicorn:WebSocketProtocol"]
        return ["-m", "uvicorn", *secure, *ours, *options, f"{ASGI}.bare:app"]

    return command


def gunicorn(*options: str) -> Callable[[str, int], list[str]]:
    def command(pem: str, port: int) -> list[str]:
        secure = ["--certfile", pem, "--keyfile", pem, "-b", f"127.0.0.1:{port}"]
        return ["-m", "gunicorn", *secure, *options, f"{WSGI}.bare:app"]

    return command


def gunicorn_asgi(pem: str, port: int) -> list[str]:
    secure = ["--certfile", pem, "--keyfile", pem, "-b", f"127.0.0.1:{port}"]
    worker = ["-k", "websocket_handler.servers.gunicorn.ASGIWorker"]
    return ["-m", "gunicorn", *secure, *worker, f"{ASGI}.bare:app"]


def served(server: str) -> Callable[[str, int], list[str]]:
    return lambda pem, _: ["-m", f"{WSGI}.serve", server, f"{WSGI}.bare:app", pem]


def aiohttp(loop: str) -> Callable[[str, int], list[str]]:
    return lambda pem, port: ["-m", f"{ASGI}.with_aiohttp", str(port), loop, pem]


def tornado(loop: str) -> Callable[[str, int], list[str]]:
    return lambda pem, port: ["-m", f"{ASGI}.with_tornado", str(port), loop, pem]


SERVERS = {
    "uvicorn": (uvicorn("--loop", "asyncio", "--http", "httptools"), "/asked/echo", 1012),
    "uvicorn, websocket scope": (uvicorn("--loop", "asyncio", "--http", "h11"), "/echo", 1012),
    "uvicorn uvloop": (uvicorn("--loop", "uvloop", "--http", "h11"), "/asked/conversation", 1012),
    "uvicorn uvloop, websocket scope": (uvicorn("--loop", "uvloop"), "/echo", 1012),
    "aiohttp": (aiohttp("asyncio"), "/echo", 1001),
    "aiohttp uvloop": (aiohttp("uvloop"), "/conversation", 1001),
    "tornado": (tornado("asyncio"), "/echo", 1001),
    "tornado uvloop": (tornado("uvloop"), "/conversation", 1001),
    "gunicorn sync": (gunicorn("-k", "sync"), "/greet", 1001),
    "gunicorn gthread": (gunicorn("-k", "gthread", "--threads", "4"), "/greet", 1001),
    "gunicorn gevent": (gunicorn("-k", "gevent"), "/greet", 1001),
    "gunicorn gevent_pywsgi": (gunicorn("-k", "gevent_pywsgi"), "/greet", 1001),
    "gunicorn asgi": (gunicorn_asgi, "/asked/echo", 1012),
    "gunicorn asgi, websocket scope": (gunicorn_asgi, "/echo", 1012),
    "gevent.pywsgi": (served("pywsgi"), "/greet", 1001),
    "gevent.pywsgi, patched": (served("patched_pywsgi"), "/greet", 1001),
    "wsgiref": (served("wsgiref"), "/greet", 1001),
    "werkzeug": (served("werkzeug"), "/greet", 1001),
    "cheroot": (served("cheroot"), "/greet", 1001),
}


class Secure:
    """A running server."""

    def __init__(self, program: Program, path: str, code: int) -> None:
        self.program = program
        self.path = path
        self.code_at_end = code
        self.greeting = [] if code == 1012 and path == "/echo" else [HELLO]
        wait_for(self._mark_up, "the server to serve")

    def _mark_up(self) -> bool:
        with contextlib.suppress(OSError):
            return self.get("/plain")
        return False

    def client(self) -> RawClient:
        return RawClient(self.program.address, context=context())

    def get(self, path: str) -> bool:
        with self.client() as client:
            return client.get(path).status == 200

    def open(self, client: RawClient, early: bytes = b"") -> RawClient:
        client.open(self.path, early=early).expect(*self.greeting)
        return client


@contextlib.contextmanager
def serving(name: str, pem: Path) -> Iterator[Secure]:
    command, path, code = SERVERS[name]
    port = free_port()
    ready = r"(?:ready on port |https://127\.0\.0\.1:)(\d+)"
    with running(Program(command(str(pem), port), ready, not IS_NATIVE)) as program:
        yield Secure(program, path, code)


pytestmark = pytest.mark.skipif(not IS_NATIVE, reason="our client has no TLS without it")


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="module")
def secure(name: str, certificate: Path) -> Iterator[Secure]:
    with serving(name, certificate) as secure:
        yield secure
        log = secure.program.log()
        assert not any(word in log for word in UNWANTED), log


def test_tls_server_echoes_and_closes(secure: Secure) -> None:
    with secure.client() as client:
        secure.open(client)
        client.echo(text("one"), text(""), binary(b"x" * 1_000_000), binary(b"\x00"))
        client.send(close(1000, "bye"))
        client.expect_close(1000)
        client.expect_end()


def test_tls_server_receives_early_frames(secure: Secure) -> None:
    frames = [text(f"{number:04}" * 250) for number in range(40)]
    with secure.client() as client:
        secure.open(client, early=masked(*frames))
        client.expect(*frames)


def test_tls_server_serves_many_websockets_beside_a_page(secure: Secure) -> None:
    with contextlib.ExitStack() as stack:
        clients = [secure.open(stack.enter_context(secure.client())) for _ in range(12)]
        assert secure.get("/plain")
        for client in clients:
            client.echo(*[text(str(number)) for number in range(50)])


def test_messages_larger_than_the_transport_buffer_arrive_over_tls(secure: Secure) -> None:
    messages = [bytes([number]) * 200_000 for number in range(40)]
    with connect(secure.program.url(secure.path, "wss"), ssl=context()) as websocket:
        for frame in secure.greeting:
            assert websocket.receive(timeout=10) == frame.payload.decode()
        for message in messages:
            websocket.send(message)
        for message in messages:
            assert websocket.receive(timeout=10) == message


def test_vanished_tls_peers_leave_nothing(secure: Secure) -> None:
    before = secure.program.descriptors()
    for _ in range(10):
        with secure.client() as client:
            secure.open(client)
            client.sock.sendall(masked(HELLO)[:3])
    wait_for(lambda: secure.program.descriptors() <= before, "the descriptors to be given back")
    with secure.client() as client:
        secure.open(client).echo(HELLO)


def test_tls_server_shutdown_closes_websockets(name: str, certificate: Path) -> None:
    with serving(name, certificate) as secure, secure.client() as client:
        secure.open(client).echo(HELLO)
        with secure.client() as page:  # no thread is still serving the echo route afterwards
            assert page.get("/plain").status == 200
            if name == "wsgiref":  # the server swallows the exception that interrupts a handler
                page.read_to_end()
        secure.program.end_soon(signal.SIGTERM)
        client.expect_close(secure.code_at_end)
        client.send(close(secure.code_at_end))
        client.expect_end()
        client.sock.close()  # uvicorn waits for it where asyncio does
        secure.program.wait()


OVER_MESSAGES: dict[str, Callable[[str, int], list[str]]] = {
    "hypercorn": lambda pem, port: [
        *("-m", "hypercorn", "--certfile", pem, "--keyfile", pem, "-b", f"127.0.0.1:{port}"),
        f"{ASGI}.bare:app",
    ],
    "granian": lambda pem, port: [
        *("-m", "granian", "--interface", "asgi", "--port", str(port)),
        *("--ssl-certificate", pem, "--ssl-keyfile", pem, f"{ASGI}.bare:app"),
    ],
    "daphne": lambda pem, port: [
        *("-m", "daphne", "-e", f"ssl:{port}:privateKey={pem}:certKey={pem}:interface=127.0.0.1"),
        f"{ASGI}.bare:app",
    ],
    "gunicorn": lambda pem, port: [
        *("-m", "gunicorn", "--certfile", pem, "--keyfile", pem, "-b", f"127.0.0.1:{port}"),
        *("-k", "asgi", f"{ASGI}.bare:app"),
    ],
}


@pytest.mark.parametrize("server", OVER_MESSAGES)
def test_echo_via_asgi_messages_over_tls(server: str, certificate: Path) -> None:
    port = free_port()
    program = Program(
        OVER_MESSAGES[server](str(certificate), port),
        f"(?:Running|Listening) .*?({port})",
        not IS_NATIVE,
    )
    with running(program):
        secure = Secure(program, "/asked/echo", 0)
        with secure.client() as client:
            secure.open(client).echo(text("one"), binary(b"x" * 1_000_000))
            assert secure.get("/plain")
            client.send(close(1000))
            client.expect_close(1000)
        assert not any(word in program.log() for word in UNWANTED), program.log()
