"""`websocket-handler doctor`, with servers and proxies that are wrong in many ways."""

from __future__ import annotations

import contextlib
import datetime
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from flask import Flask
from werkzeug.serving import make_server

from websocket_handler import Settings
from websocket_handler.cli import commands
from websocket_handler.cli.doctor.examination import Examination
from websocket_handler.cli.doctor.finding import Finding, Level
from websocket_handler.cli.target import Target
from websocket_handler.protocol.assembly import Pong
from websocket_handler.protocol.frame import Opcode
from websocket_handler.protocol.message import Decoder

from ..conftest import require
from ..support.ports import free_port
from ..support.programs import Program, wait_for
from ..support.raw_client import Frame, close, text
from .processes import run, terminal
from .servers import answering, frame, header, response, sending, serving, upgrade

LIMIT_S = 10.0
SHORT_S = 1.0
"""The limit of steps that a server lets pass."""

AUTHORITY = trustme.CA()


def examine(
    url: str,
    limit: float = LIMIT_S,
    message: str | None = None,
    subprotocols: tuple[str, ...] = (),
    origin: str | None = None,
    ca: Path | None = None,
) -> dict[str, Finding]:
    """Return the last finding of each step."""
    target = Target(url, subprotocols=subprotocols, origin=origin, ca=ca)
    return {finding.step: finding for finding in Examination(target, limit, message).run()}


def problems(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: one.text for name, one in findings.items() if one.is_problem}


# A server that works


def test_working_server_has_no_problem(url: str) -> None:
    found = examine(url, message="hello", subprotocols=("chat",))
    steps = ["name", "tcp", "handshake", "subprotocol", "compression", "ping", "message", "close"]
    assert list(found) == [*steps, "origin"]
    assert {one.level for one in found.values()} == {Level.OK}
    assert found["subprotocol"].text == "the server chose chat"
    assert "permessage-deflate" in found["compression"].text
    timed = [found[name].seconds for name in ("name", "tcp", "handshake", "ping", "close")]
    assert all(seconds is not None and seconds > 0 for seconds in timed)


def test_report_in_a_pipe_is_plain_and_the_exit_code_0(url: str) -> None:
    done = run("doctor", url)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr) == (0, b"")
    assert [line.split()[:2] for line in lines[:2]] == [["ok", "name"], ["ok", "tcp"]]
    assert lines[-1] == f"{url}: everything is well"
    assert "\x1b" not in done.stdout.decode()


def test_report_on_a_terminal_is_a_table(url: str, tmp_path: Path) -> None:
    with terminal(tmp_path, "doctor", url) as shown:
        assert shown.wait() == 0
        assert "everything is well" in shown.screen()
        assert "\x1b[1;32mok" in shown.raw()
    with terminal(tmp_path, "doctor", url, NO_COLOR="1") as shown:
        assert shown.wait() == 0
        assert "[1;32m" not in shown.raw()
        assert "round trip" in shown.screen()


def test_report_as_json_has_every_finding(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.run(["doctor", "--json", f"{url}x"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["url"], report["ok"]) == (f"{url}x", False)
    last = next(one for one in report["findings"] if one["step"] == "handshake")
    assert (last["level"], last["details"]["status"]) == ("failure", 404)
    assert last["cure"].startswith("Check the path")


def test_report_does_not_show_the_password_of_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(answering("302 Found", headers={"Location": "/there"})) as port:
        commands.run(["doctor", f"ws://me:hunter2@127.0.0.1:{port}/"])
    report = capsys.readouterr().out
    assert f"Use the URL ws://…@127.0.0.1:{port}/there" in report
    assert "hunter2" not in report


def test_report_of_a_problem_has_its_cure_and_no_control_characters(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving(answering("401 Unauthorized", "log \x1b[2Jin\x9b")) as port:
        assert commands.run(["doctor", f"127.0.0.1:{port}"]) == 1
    shown = capfd.readouterr().out
    assert 'the server answered 401 Unauthorized: "log \\x1b[2Jin' in shown
    assert "cure: Log in: pass -H" in shown
    assert shown.endswith(f"ws://127.0.0.1:{port}: 1 problem\n")
    assert shown.replace("\n", "").isprintable()


# Before HTTP


def test_name_that_does_not_resolve_is_a_failure() -> None:
    found = examine("ws://nowhere.invalid/")
    assert list(found) == ["name"]
    assert "nowhere.invalid does not resolve" in problems(found)["name"]


def test_port_without_a_server_is_a_failure() -> None:
    found = examine(f"ws://127.0.0.1:{free_port()}/")
    assert "Connection refused" in problems(found)["tcp"]
    assert "start the server" in found["tcp"].cure


def test_address_that_drops_packets_is_left_in_time() -> None:
    """A full backlog drops them: the kernel answers no further SYN."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        found = examine(f"ws://127.0.0.1:{full.getsockname()[1]}/", SHORT_S)
    assert "timed out" in problems(found)["tcp"]
    assert "firewall" in found["tcp"].cure


@contextlib.contextmanager
def secure(
    tmp_path: Path, leaf: trustme.LeafCert, issuer: trustme.CA = AUTHORITY
) -> Iterator[tuple[str, Path]]:
    """Serve over TLS; yields the URL, and the file of the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    authority = tmp_path / "authority.pem"
    issuer.cert_pem.write_to_path(authority)
    with serving(sending(close(1000)), context) as port:
        yield f"wss://localhost:{port}/", authority


def ago(days: int) -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=days)


@pytest.mark.parametrize(
    ("leaf", "is_trusted", "words", "cure"),
    [
        (AUTHORITY.issue_cert("localhost"), False, "issuer certificate", "--ca"),
        (AUTHORITY.issue_cert("other.example"), True, "not valid for 'localhost'", "other names"),
        (
            AUTHORITY.issue_cert("localhost", not_before=ago(9), not_after=ago(2)),
            True,
            "has expired",
            "renew",
        ),
        (AUTHORITY.issue_cert("localhost", not_before=ago(-2)), True, "not yet valid", "clocks"),
        (
            AUTHORITY.issue_cert("localhost", not_after=ago(-3)),
            True,
            "expires in 2 days",
            "Renew",
        ),
    ],
    ids=["unknown-issuer", "other-name", "expired", "not-yet-valid", "expires-soon"],
)
def test_defect_of_the_certificate_is_named(
    tmp_path: Path, leaf: trustme.LeafCert, is_trusted: bool, words: str, cure: str
) -> None:
    with secure(tmp_path, leaf) as (url, authority):
        found = examine(url, ca=authority if is_trusted else None)
    assert words in problems(found)["tls"]
    assert cure in found["tls"].cure


def test_trusted_certificate_is_well(tmp_path: Path) -> None:
    with secure(tmp_path, AUTHORITY.issue_cert("localhost")) as (url, authority):
        found = examine(url, ca=authority)
    assert found["tls"].level is Level.OK
    assert found["handshake"].level is Level.OK


def test_wrong_scheme_is_named(tmp_path: Path, url: str) -> None:
    plain = examine(url.replace("ws:", "wss:"))
    assert problems(plain) == {"tls": "the port does not speak TLS"}
    with secure(tmp_path, AUTHORITY.issue_cert("localhost")) as (secure_url, _):
        encrypted = examine(secure_url.replace("wss:", "ws:"))
    assert problems(encrypted) == {"handshake": "the port speaks TLS"}


# The answer


@pytest.mark.parametrize(
    ("status", "headers", "cure"),
    [
        ("200 OK", {}, "ordinary page"),
        ("301 Moved Permanently", {"Location": "/there"}, "Use the URL ws://127.0.0.1:"),
        ("302 Found", {"Location": "/"}, "The redirect leads back to this URL"),
        ("302 Found", {"Location": "https://b.example/login"}, "wss://b.example/login"),
        ("400 Bad Request", {"Server": "nginx/1.25"}, "In nginx: proxy_http_version 1.1"),
        ("401 Unauthorized", {}, "Log in"),
        ("403 Forbidden", {}, "another reason than the Origin"),
        ("404 Not Found", {}, "Check the path"),
        ("426 Upgrade Required", {"Via": "1.1 haproxy"}, "In haproxy: "),
        ("426 Upgrade Required", {"Sec-WebSocket-Version": "8"}, "only version 8"),
        ("429 Too Many Requests", {}, "too many"),
        ("500 Internal Server Error", {}, "traceback"),
        ("502 Bad Gateway", {}, "The proxy does not reach the application"),
        ("503 Service Unavailable", {}, "overloaded"),
        ("504 Gateway Timeout", {}, "did not answer the proxy in time"),
        ("599 Odd", {}, "Look into the log"),
    ],
)
def test_status_is_explained(status: str, headers: dict[str, str], cure: str) -> None:
    with serving(answering(status, "<title>x</title><p>the reason</p>", headers)) as port:
        found = examine(f"ws://127.0.0.1:{port}/")
    assert status.split()[0] in problems(found)["handshake"]
    assert cure in found["handshake"].cure
    assert ("the reason" in found["handshake"].text) == (status >= "4")
    named = headers.get("Server") or headers.get("Via")
    assert (found["servers"].text if named else "").endswith(named or "")


def test_flask_without_the_middleware_is_recognised() -> None:
    app = Flask(__name__)
    app.add_url_rule("/echo", view_func=lambda: "plain")
    server = make_server("127.0.0.1", 0, app)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        found = examine(f"ws://127.0.0.1:{server.port}/echo")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert "400 BAD REQUEST" in problems(found)["handshake"].upper()
    assert "app.wsgi_app = WSGIMiddleware(app.wsgi_app)" in found["handshake"].cure


@pytest.mark.parametrize(
    ("leave_out", "words"),
    [
        (("Upgrade",), "lacks Upgrade"),
        (("Connection",), "lacks Connection"),
        (("Upgrade", "Connection"), "lacks Upgrade and Connection"),
        (("Sec-WebSocket-Accept",), "Sec-WebSocket-Accept"),
    ],
)
def test_101_without_a_header_is_a_failure(leave_out: tuple[str, ...], words: str) -> None:
    with serving(lambda sock, head: sock.sendall(upgrade(head, *leave_out))) as port:
        assert words in problems(examine(f"ws://127.0.0.1:{port}/"))["handshake"]


def test_101_in_http_1_0_is_a_warning() -> None:
    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head, version="HTTP/1.0"))

    with serving(respond) as port:
        assert "HTTP/1.0" in problems(examine(f"ws://127.0.0.1:{port}/"))["handshake"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "closed the connection without a response"),
        (b"SSH-2.0-server\r\n\r\n", "not HTTP/1.1"),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00", "HTTP/2 only"),
    ],
)
def test_other_protocol_is_a_failure(sent: bytes, words: str) -> None:
    with serving(lambda sock, _: sock.sendall(sent)) as port:
        assert words in problems(examine(f"ws://127.0.0.1:{port}/"))["handshake"]


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_server_that_never_answers_is_left_in_time(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        found = examine(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", SHORT_S)
        assert time.monotonic() - begun < LIMIT_S
    assert list(problems(found)) == ["tls" if scheme == "wss" else "handshake"]


def test_answer_that_trickles_does_not_extend_the_time() -> None:
    def trickle(sock: socket.socket, _: bytes) -> None:
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n")
        while True:
            sock.sendall(b"X: y\r\n")
            time.sleep(0.02)

    with serving(trickle) as port:
        begun = time.monotonic()
        found = examine(f"ws://127.0.0.1:{port}/", SHORT_S)
        assert time.monotonic() - begun < LIMIT_S
    assert "does not complete its answer" in problems(found)["handshake"]


# Origin and subprotocol


def test_refused_origin_is_named_if_another_is_accepted(url: str) -> None:
    found = examine(url, origin="https://evil.example")
    assert "403" in problems(found)["handshake"]
    assert "https://evil.example, but accepts" in found["handshake"].cure


def test_refused_page_of_the_same_host_is_a_warning() -> None:
    """As behind a proxy that changes the Host header: only browsers are refused."""

    def respond(sock: socket.socket, head: bytes) -> None:
        if header(head, "Origin"):
            sock.sendall(response("403 Forbidden"))
        else:
            sending(close(1000))(sock, head)

    with serving(respond) as port:
        found = examine(f"ws://127.0.0.1:{port}/")
    assert f"http://127.0.0.1:{port} may not connect" in problems(found)["origin"]
    assert "Host" in found["origin"].cure


def test_subprotocol_that_the_server_ignores_is_a_warning() -> None:
    with serving(sending(close(1000))) as port:
        found = examine(f"ws://127.0.0.1:{port}/", subprotocols=("chat", "more"))
    assert problems(found)["subprotocol"] == "the server chose none of chat, more"


# The connection


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (close(1008, "log in\x1b[1m"), "1008 (policy violation) log in"),
        (close(1011), "1011 (internal error)"),
        (close(4401, "who are you"), "4401 who are you"),
        (close(1000), "1000 (normal closure)"),
        (close(), "1005 (no code received)"),
        (Frame(3, b""), "breaks the protocol"),
    ],
)
def test_close_at_once_is_explained(sent: Frame, words: str) -> None:
    with serving(sending(text("hello"), sent)) as port:
        found = examine(f"ws://127.0.0.1:{port}/")
    assert words in problems(found)["ping"]
    assert found["ping"].cure


def test_ping_of_the_server_is_answered() -> None:
    def respond(sock: socket.socket, head: bytes) -> None:
        decoder = Decoder(Settings(), expect_masked=True)
        sock.sendall(upgrade(head) + frame(Frame(Opcode.PING, b"first")))
        while data := sock.recv(1 << 16):
            for event in decoder.feed(data):
                sock.sendall(frame(close(1000)) if event == Pong(b"first") else b"")

    with serving(respond) as port:
        found = examine(f"ws://127.0.0.1:{port}/", SHORT_S)
    assert "1000 (normal closure)" in problems(found)["ping"]


def test_connection_that_ends_at_once_is_a_failure() -> None:
    with serving(lambda sock, head: sock.sendall(upgrade(head))) as port:
        found = examine(f"ws://127.0.0.1:{port}/")
    assert "1006 (abnormal closure)" in problems(found)["ping"]


def test_missing_pong_message_and_close_frame_are_warnings() -> None:
    with serving(sending()) as port:
        found = examine(f"ws://127.0.0.1:{port}/", SHORT_S, message="hello")
    assert list(problems(found)) == ["ping", "message", "close"]


def test_pong_that_a_proxy_buffers_until_the_end_is_noticed(echo: Program) -> None:
    def buffer(sock: socket.socket, head: bytes) -> None:
        with socket.create_connection(echo.address) as upstream:
            upstream.sendall(head)
            forward = threading.Thread(target=copy, args=(sock, upstream))
            forward.start()
            answer = upstream.recv(1 << 16)
            sock.sendall(answer)
            while data := upstream.recv(1 << 16):
                answer += data
            sock.sendall(answer[len(answer) - len(answer.partition(b"\r\n\r\n")[2]) :])
            sock.shutdown(socket.SHUT_RDWR)
            forward.join()

    with serving(buffer) as port:
        found = examine(f"ws://127.0.0.1:{port}/echoserver", SHORT_S)
    assert problems(found)["ping"] == "the pong arrived only when the connection was closed"


def copy(source: socket.socket, destination: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            destination.sendall(data)


def test_late_pong_is_a_warning() -> None:
    def respond(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        while ping := sock.recv(1 << 16):
            time.sleep(0.8)
            payload = bytes(byte ^ ping[2 + i % 4] for i, byte in enumerate(ping[6:]))
            sock.sendall(frame(Frame((ping[0] & 15) + (ping[0] & 15 == 9), payload)))

    with serving(respond) as port:
        found = examine(f"ws://127.0.0.1:{port}/", origin="http://x")
    assert "ms for TCP" in problems(found)["ping"]
    assert found["close"].level is Level.OK


def test_flood_of_messages_does_not_extend_the_time() -> None:
    def flood(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        while True:
            sock.sendall(frame(text("x" * 100)) * 50)

    with serving(flood) as port:
        begun = time.monotonic()
        examine(f"ws://127.0.0.1:{port}/", SHORT_S)
        assert time.monotonic() - begun < LIMIT_S


# haproxy

HAPROXY = """
defaults
    mode http
    retries 0
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend front
    bind 127.0.0.1:{port}
    use_backend down if {{ path /down }}
    http-request del-header Upgrade if {{ path_beg /without }}
    http-request del-header Connection if {{ path_beg /without }}
    http-request set-path /echoserver if {{ path /without-headers }}
    http-request set-header Host inside if {{ path /other-host }}
    http-request set-path /echoserver if {{ path /other-host }}
    default_backend echo
backend echo
    server one 127.0.0.1:{echo}
backend down
    server one 127.0.0.1:{unused}
"""


@pytest.fixture(scope="module")
def haproxy(echo: Program, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a haproxy before the demo."""
    path = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    require(path, "haproxy")
    assert path is not None
    port = free_port()
    file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, echo=echo.port, unused=free_port()))
    with subprocess.Popen([path, "-q", "-db", "-f", str(file)]) as process:
        try:
            wait_for(lambda: accepts(port), "haproxy to listen")
            yield f"ws://127.0.0.1:{port}"
        finally:
            process.kill()


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_proxy_that_takes_the_upgrade_away_is_suspected(haproxy: str) -> None:
    found = examine(f"{haproxy}/without-headers")
    assert "426 Upgrade Required" in problems(found)["handshake"]
    assert "a proxy took the headers away" in found["handshake"].cure


def test_proxy_without_a_server_is_a_503(haproxy: str) -> None:
    found = examine(f"{haproxy}/down")
    assert "503 Service Unavailable" in problems(found)["handshake"]


def test_proxy_that_changes_the_host_refuses_browsers(haproxy: str) -> None:
    found = examine(f"{haproxy}/other-host")
    assert list(problems(found)) == ["origin"]
    assert "proxy_set_header Host" in found["origin"].cure


def test_proxy_that_works_is_well(haproxy: str) -> None:
    assert problems(examine(f"{haproxy}/echoserver")) == {}
