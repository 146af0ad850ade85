"""The demo, `python -m websocket_handler`, for one visitor and for thousands."""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from websocket_handler import connect
from websocket_handler.__main__ import main
from websocket_handler.demo.application import make_server

from ..support.programs import Program, demo, wait_for
from ..support.raw_client import RawClient, Response, close, request, text

HELLO = text("hello")
CROWD = 5_000
BATCH = 20


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with demo() as program:
        yield program


def fetch(program: Program, target: str, method: str = "GET") -> tuple[Response, bytes]:
    with RawClient(program.address) as client:
        client.sock.sendall(request(target, {"Connection": "close"}, method=method))
        return client.read_response(), client.read_to_end()


def handshake_status(program: Program) -> int:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/echoserver"))
        return client.read_response().status


@pytest.mark.parametrize(
    ("target", "content_type"),
    [
        ("/echotest.html", "text/html; charset=utf-8"),
        ("/stats", "text/html; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/chart.js", "text/javascript; charset=utf-8"),
        ("/favicon.svg", "image/svg+xml"),
        ("/favicon.ico", "image/svg+xml"),
        ("/echotest.html?query", "text/html; charset=utf-8"),
    ],
)
def test_demo_pages_are_served(program: Program, target: str, content_type: str) -> None:
    response, body = fetch(program, target)
    assert (response.status, response.header("content-type")) == (200, content_type)
    assert len(body) == int(response.header("content-length")) > 50
    head, nothing = fetch(program, target, "HEAD")
    assert (head.status, head.header("content-length"), nothing) == (200, str(len(body)), b"")
    program.wait_for_log(f'"GET {target} HTTP/1.1" 200')


def test_root_redirects_to_the_page(program: Program) -> None:
    response, body = fetch(program, "/")
    assert (response.status, response.header("location"), body) == (302, "/echotest.html", b"")


@pytest.mark.parametrize(
    "target", ["/nowhere", "/../application.py", "/application.py", "/%2e%2e/"]
)
def test_unknown_path_is_404(program: Program, target: str) -> None:
    assert fetch(program, target)[0].status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_plain_request_to_echo_server_gets_426(program: Program, method: str) -> None:
    response, body = fetch(program, "/echoserver", method)
    assert (response.status, response.header("upgrade")) == (426, "websocket")
    assert body == (b"We only speak WebSockets here\n" if method == "GET" else b"")


def test_log_shows_the_handshake_and_the_close(program: Program) -> None:
    seen = len(program.log())
    with RawClient(program.address) as client:
        client.open("/echoserver").echo(HELLO)
        client.send(close(4001, "enough"))
        client.expect_close(4001)
        client.expect_end()
    log = program.wait_for_log("4001 enough", seen)
    assert log.count('"GET /echoserver HTTP/1.1" 101') == 1
    assert log.count("/echoserver open> uses RFC 6455") == 1
    assert "Traceback" not in log


def test_foreign_page_may_not_connect(program: Program) -> None:
    with RawClient(program.address) as client:
        client.sock.sendall(client.handshake("/echoserver", {"Origin": "https://evil.example"}))
        assert client.read_response().status == 403


def test_unfinished_request_keeps_no_thread() -> None:
    """Its timeout is 10 s, with one thread per request until then; the test does not wait."""
    with demo() as program, contextlib.ExitStack() as stack:
        for _ in range(20):
            client = stack.enter_context(RawClient(program.address))
            client.sock.sendall(b"GET /echoserver HTTP/1.1\r\nHost:")
        with RawClient(program.address) as client:
            client.open("/echoserver").echo(HELLO)
        assert program.end() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "{taken}"], "Port {taken} on 127.0.0.1 is in use"),
        (["--host", "192.0.2.1", "--port", "0"], "Cannot listen on 192.0.2.1:0"),
    ],
)
def test_unavailable_address_is_reported(
    program: Program, arguments: list[str], message: str
) -> None:
    command = [argument.format(taken=program.port) for argument in arguments]
    run = subprocess.run(
        [sys.executable, "-m", "websocket_handler", *command],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert run.returncode == 1
    assert message.format(taken=program.port) in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("port", ["65536", "-1", "http"])
def test_invalid_port_is_a_usage_error(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", f"--port={port}"])
    assert ended.value.code == 2
    assert f"argument --port: invalid port value: '{port}'" in capsys.readouterr().err


def test_demo_listens_on_an_ipv6_address() -> None:
    with make_server("::1", 0) as server:
        assert server.server_address[0] == "::1"


def test_ctrl_c_closes_all_and_exits() -> None:
    with demo() as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(50)]
        for client in clients:
            client.open("/echoserver").echo(HELLO)
        begun = time.monotonic()
        program.end_soon(signal.SIGINT)
        for client in clients:
            client.expect_closed(1001)
        assert program.wait() == 0
        assert time.monotonic() - begun < 9  # the close timeout is 10 s
        assert "Traceback" not in program.log()
        assert "closing all WebSockets with 1001" in program.log()


def test_sigterm_closes_all_with_1001_and_exits() -> None:
    with demo() as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(5)]
        for client in clients:
            client.open("/echoserver").echo(HELLO)
        program.end_soon(signal.SIGTERM)
        for client in clients:
            client.expect_closed(1001)
        assert program.wait() == 0
        assert "Traceback" not in program.log()


def test_sigterm_with_window_closes_all_with_1012_and_refuses_handshakes() -> None:
    with demo("--window", "1") as program, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(5)]
        for client in clients:
            client.open("/echoserver").echo(HELLO)
        program.end_soon(signal.SIGTERM)
        program.wait_for_log("closing all WebSockets with 1012 within 1 s")
        wait_for(lambda: handshake_status(program) == 503, "handshakes to be refused")
        for client in clients:
            client.expect_closed(1012)
        assert program.wait() == 0
        assert "Traceback" not in program.log()


def test_second_sigterm_ends_the_window() -> None:
    with (
        demo("--window", "3600") as program,
        connect(program.url("/echoserver")) as first,
        connect(program.url("/echoserver")) as second,
    ):
        program.end_soon(signal.SIGTERM)
        wait_for(lambda: first.close_code or second.close_code, "the first to be closed")
        program.end_soon(signal.SIGTERM)
        assert first.wait_closed(10)
        assert second.wait_closed(10)
        assert {first.close_code, second.close_code} == {1012, 1001}
        assert program.wait() == 0


def test_five_thousand_connections_need_few_threads() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = min(CROWD, most - 500)
    with demo(descriptors=crowd + 500) as program, contextlib.ExitStack() as stack:
        with RawClient(program.address) as client:  # so that the engine is running
            client.open("/echoserver").echo(HELLO)
            client.send(close())
            client.expect_closed(None)
        before = program.descriptors()
        clients = [stack.enter_context(RawClient(program.address)) for _ in range(crowd)]
        for start in range(0, crowd, BATCH):
            for client in clients[start : start + BATCH]:
                client.sock.sendall(client.handshake("/echoserver"))
            for client in clients[start : start + BATCH]:
                client.expect_opened()
        wait_for(lambda: program.threads() <= 12, f"{program.threads()} threads to become 12")
        assert program.descriptors() >= crowd
        for number, client in enumerate(clients):
            client.send(text(str(number)))
        for number, client in enumerate(clients):
            client.expect(text(str(number)))
        assert program.threads() <= 12
        for client in clients:
            client.send(close(1000))
        for client in clients:
            client.expect_close(1000)
            client.sock.close()
        wait_for(lambda: program.descriptors() <= before, "descriptors to be given back")
        assert program.log().count('"GET /echoserver HTTP/1.1" 101') == crowd + 1
        assert program.end() == 0


@pytest.mark.parametrize("version", ["hixie-76", "hybi-03", "hybi-07"])
def test_demo_accepts_every_version(program: Program, version: str) -> None:
    with connect(program.url("/echoserver"), version=version) as websocket:
        websocket.send("hello")
        assert websocket.receive(timeout=10) == "hello"
    assert f"uses {version}" in program.log()


def test_stats_arrive_once_a_second(program: Program) -> None:
    with connect(program.url("/stats")) as watcher, connect(program.url("/echoserver")) as echo:
        before = json.loads(watcher.receive(10))
        echo.send("one more")
        assert echo.receive(10) == "one more"
        after = json.loads(watcher.receive(10))
        assert after["time"] - before["time"] > 0.5
        received = [stats["traffic"]["messages_received"] for stats in (before, after)]
        assert received[1] == received[0] + 1
        assert after["open"] >= 2
    program.wait_for_log("1000")
    with connect(program.url("/stats")) as watcher:
        assert json.loads(watcher.receive(10))["closed"]["1000"] >= 1
