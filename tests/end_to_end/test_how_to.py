"""The programs of docs/how-to: each is run as it stands there, and used as a client would.

`CHECKS` has a function for each block that is to be saved as a file. The programs that need a
proxy are in test_proxies.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from playwright.sync_api import expect, sync_playwright
from prometheus_client import CollectorRegistry, generate_latest

from websocket_handler import (
    IS_NATIVE,
    ConnectionClosed,
    HandshakeFailed,
    Rooms,
    WebSocket,
    connect,
    default_engine,
)
from websocket_handler.metrics import EngineCollector

from ..conftest import require
from ..rooms.brokers import STARTERS
from ..support.browser import FLAGS
from ..support.commands import environment, serving
from ..support.documents import DOCS, Block, blocks_of, pages
from ..support.http_streams import echo_over_http2, echo_over_http3
from ..support.ports import free_port
from ..support.programs import wait_for
from ..support.served import load, served
from ..support.tls import AUTHORITY

Check = Callable[[Block, Path], None]

PROXIES = "how-to/proxies.md"
NATIVE_ONLY = {"listeners/blocking", "tls/server"}
"""Programs that the pure-Python engine cannot run, as their pages say."""

BLOCKS = [
    block
    for page in pages("how-to")
    for block in blocks_of(page)
    if block.file and block.page != PROXIES
]
CHECKS: dict[str, Check] = {}
TIMEOUT_S = 10
PEERS = 10


def check(name: str) -> Callable[[Check], Check]:
    """Make a function the check of a block: "page/file" without its suffixes."""

    def add(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return add


def name_of(block: Block) -> str:
    return f"{Path(block.page).stem}/{Path(str(block.file)).stem}"


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_program_does_as_its_page_says(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name_of(block) in NATIVE_ONLY and not IS_NATIVE:
        pytest.skip("needs the native engine")
    monkeypatch.chdir(tmp_path)
    CHECKS[name_of(block)](block, tmp_path)


def test_each_check_has_its_program() -> None:
    assert set(map(name_of, BLOCKS)) == set(CHECKS)


EVIL = "https://evil.example"


@contextlib.contextmanager
def program(block: Block, folder: Path) -> Iterator[str]:
    """Serve the application of a block; gives its address."""
    with served(load(block.source, str(block.file), folder)["app"]) as address:
        yield address


@contextlib.contextmanager
def opened(address: str, path: str, **options: Any) -> Iterator[WebSocket]:
    ws = connect(f"ws://{address}{path}", **options)
    try:
        yield ws
    finally:
        ws.abort()


def ask(ws: WebSocket, message: str | bytes) -> str | bytes:
    ws.send(message)
    return ws.receive(TIMEOUT_S)


def status_of(address: str, path: str, **options: Any) -> int | None:
    """Returns the HTTP status with which the WebSocket is rejected."""
    with pytest.raises(HandshakeFailed) as caught:
        connect(f"ws://{address}{path}", **options)
    return caught.value.status


def close_code(ws: WebSocket) -> int | None:
    """Returns the code with which the peer closes, after any number of messages."""
    try:
        while True:
            ws.receive(TIMEOUT_S)
    except ConnectionClosed as closed:
        return closed.code


def request(
    address: str, method: str, path: str, headers: dict[str, str] | None = None, **form: str
) -> tuple[str, str]:
    """Make an HTTP request; returns the body and the cookie of the response."""
    connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
    try:
        content_type = {"Content-Type": "application/x-www-form-urlencoded"} if form else {}
        connection.request(method, path, urlencode(form), {**content_type, **(headers or {})})
        response = connection.getresponse()
        cookie = (response.getheader("Set-Cookie") or "").partition(";")[0]
        return response.read().decode(), cookie
    finally:
        connection.close()


def log_in(address: str) -> dict[str, str]:
    _, cookie = request(address, "POST", "/login", user="alice")
    return {"Cookie": cookie}


# authentication.md


@check("authentication/session_login")
def check_session(block: Block, folder: Path) -> None:
    with program(block, folder) as address:
        assert status_of(address, "/chat") == 401
        headers = log_in(address)
        with opened(address, "/chat", additional_headers=headers) as ws:
            assert ask(ws, "hi") == "alice: hi"
        assert status_of(address, "/chat", additional_headers=headers, origin=EVIL) == 403


@check("authentication/tickets")
def check_ticket(block: Block, folder: Path) -> None:
    with program(block, folder) as address:
        bearer = {"Authorization": "Bearer token-of-alice"}
        ticket, _ = request(address, "POST", "/ticket", bearer)
        assert status_of(address, "/chat?ticket=alice.forged") == 401
        with opened(address, f"/chat?ticket={ticket}") as ws:
            assert ask(ws, "hi") == "alice: hi"
        assert request(address, "POST", "/ticket")[0] == "unknown token"


@check("authentication/first_message")
def check_first_message(block: Block, folder: Path) -> None:
    with program(block, folder) as address:
        with opened(address, "/chat") as ws:
            ws.send("token-of-alice")
            assert ask(ws, "hi") == "alice: hi"
        with opened(address, "/chat") as ws:
            ws.send("another token")
            assert close_code(ws) == 4401


@check("authentication/logout")
def check_logout(block: Block, folder: Path) -> None:
    module = load(block.source, str(block.file), folder)
    with served(module["app"]) as address:
        headers = log_in(address)
        with opened(address, "/chat", additional_headers=headers) as ws:
            assert ask(ws, "hi") == "alice: hi"
            request(address, "POST", "/logout", headers)
            assert close_code(ws) == 4401
        module["SESSION_SECONDS"] = -1
        with opened(address, "/chat", additional_headers=log_in(address)) as ws:
            ws.send("hi")
            assert close_code(ws) == 4401
            assert ws.close_reason == "session expired"


# listeners.md


@check("listeners/blocking")
def check_blocking_listeners_do_not_wait_for_one_another(block: Block, folder: Path) -> None:
    meeting = threading.Barrier(PEERS)
    module = load(block.source, str(block.file), folder)
    module["time"] = SimpleNamespace(sleep=lambda _: meeting.wait(TIMEOUT_S))
    work_with_several_peers(module["app"])


@check("listeners/awaiting")
def check_awaiting_listeners_do_not_wait_for_one_another(block: Block, folder: Path) -> None:
    module = load(block.source, str(block.file), folder)
    arrived: list[float] = []
    meeting = asyncio.Event()

    async def meet(seconds: float) -> None:
        arrived.append(seconds)
        if len(arrived) == PEERS:
            meeting.set()
        await meeting.wait()

    module["asyncio"] = SimpleNamespace(sleep=meet)
    work_with_several_peers(module["app"])


def work_with_several_peers(app: Any) -> None:
    """Each listener sleeps until all are asleep, which needs them to run at the same time."""
    with served(app) as address, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(opened(address, "/work")) for _ in range(PEERS)]
        for ws in peers:
            ws.send("it")
        assert [ws.receive(TIMEOUT_S) for ws in peers] == ["it is done"] * PEERS


@check("listeners/flask_sqlalchemy_notes")
@check("listeners/sqlalchemy_notes")
def check_notes(block: Block, folder: Path) -> None:
    source = block.source.replace("sqlite:///notes.db", f"sqlite:///{folder}/notes.db")
    module = load(source, str(block.file), folder)
    with served(module["app"]) as address, opened(address, "/notes") as ws:
        assert ask(ws, "one") == "1 notes"
        assert ask(ws, "two") == "2 notes"
    if "db" in module:
        with module["app"].app_context():
            module["db"].engine.dispose()
    else:
        module["database"].dispose()


@check("listeners/tasks")
def check_celery_task(block: Block, folder: Path) -> None:
    with broker("redis", folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKER", url)
        module = load(block.source, str(block.file), folder)
        rooms = Rooms(url)
        try:
            received = received_by(rooms, "user:alice")
            module["render"]("alice", 7)
            wait_for(lambda: received == ["report 7 is ready"], "the message of the task")
        finally:
            rooms.close()
            module["rooms"].close()


def received_by(rooms: Rooms, name: str) -> list[str | bytes]:
    """Add a WebSocket to the room; returns the list of its peer's messages, which grows."""
    from flask import Flask, request

    from websocket_handler import WSGIMiddleware

    app = Flask("receiver")
    app.wsgi_app = WSGIMiddleware(app.wsgi_app)  # type: ignore[method-assign]

    @app.get("/")
    def join() -> Any:
        ws = WebSocket.of(request)
        assert ws is not None
        response = ws.connect()
        rooms[name].add(ws)
        return response

    stack = contextlib.ExitStack()
    address = stack.enter_context(served(app))
    received: list[str | bytes] = []
    peer = connect(f"ws://{address}/")
    peer.on("message", received.append)
    peer.once("close", lambda *_: None)
    assert rooms[name].ready(TIMEOUT_S) or wait_for(lambda: rooms[name].ready(1), "the room")
    return received


@contextlib.contextmanager
def broker(kind: str, folder: Path) -> Iterator[str]:
    started = STARTERS[kind](folder)
    try:
        yield started.url
    finally:
        started.close()


# backpressure.md, messages.md


@check("backpressure/download")
def check_download(block: Block, folder: Path) -> None:
    with program(block, folder) as address, opened(address, "/download") as ws:
        received = sum(len(message) for message in ws)
        assert received == 512 * 64 * 1024
        assert ws.close_code == 1000


@check("backpressure/prices")
def check_prices(block: Block, folder: Path) -> None:
    with program(block, folder) as address, opened(address, "/prices") as ws:
        wait_for(lambda: '"sent":1' in update(address, "17"), "the member")
        ws.receive(TIMEOUT_S)
        ws.pause()
        big = "9" * 300_000  # more than the backlog of a slow member, which drops it
        wait_for(lambda: '"dropped":1' in update(address, big), "a slow member", 30)
        assert '"queued":1' in update(address, "old")
        assert '"queued":1' in update(address, "newest")
        ws.resume()
        received = []
        while "EUR newest" not in received:
            received.append(ws.receive(TIMEOUT_S))
        assert "EUR old" not in received


def update(address: str, price: str) -> str:
    return re.sub(r"\s", "", request(address, "POST", "/prices/EUR", price=price)[0])


@check("messages/api")
def check_json(block: Block, folder: Path) -> None:
    with program(block, folder) as address, opened(address, "/api") as ws:
        call = {"id": 1, "method": "add", "params": {"a": 2, "b": 3}}
        assert json.loads(ask(ws, json.dumps(call))) == {"id": 1, "result": 5}
        for wrong in ("{", "[]", '{"id": 1}', json.dumps({**call, "params": {"c": 1}})):
            assert "error" in json.loads(ask(ws, wrong))
        ws.send(b"binary")
        assert close_code(ws) == 1003


@check("messages/pixels")
def check_binary(block: Block, folder: Path) -> None:
    with program(block, folder) as address, opened(address, "/pixels") as ws:
        assert ask(ws, struct.pack("!HH", 1, 2)) == struct.pack("!HH", 2, 1)


# scaling.md, tls.md, http2.md, graphql.md


@check("scaling/app")
def check_workers_share_a_room(block: Block, folder: Path) -> None:
    (folder / "app.py").write_text(block.source)
    local, redis = commands_after(block)
    expect_workers_to_share_a_room(local, folder)
    with broker("redis", folder) as url:
        shared = redis.replace("redis://localhost:6379", url)
        expect_workers_to_share_a_room(f"env {shared}", folder)


def expect_workers_to_share_a_room(command: str, folder: Path) -> None:
    port = free_port()
    command = command.replace("localhost:8000", f"localhost:{port}")
    with serving(command, folder, port) as log, contextlib.ExitStack() as stack:
        peers: dict[str | bytes, WebSocket] = {}
        end = time.monotonic() + 30
        while len(peers) < 2 and time.monotonic() < end:  # until both workers have one
            ws = stack.enter_context(opened(f"localhost:{port}", "/chat"))
            peers.setdefault(ws.receive(TIMEOUT_S), ws)
        first, second = peers.values()
        first.send("hello")
        assert second.receive(TIMEOUT_S) == "hello"
    assert "Traceback" not in log()


def command_after(block: Block) -> str:
    """Returns the command in the first block after this one."""
    return commands_after(block)[0]


def commands_after(block: Block) -> list[str]:
    page = DOCS / block.page
    return [
        one.source.strip()
        for one in blocks_of(page)
        if one.language == "bash" and one.line > block.line
    ]


@check("reconnecting/app")
def check_page_gets_the_messages_that_it_has_missed(block: Block, folder: Path) -> None:
    chromium = shutil.which("chromium")
    require(chromium, "Chromium")
    with broker("redis", folder) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BROKER", url)
        module = load(block.source, str(block.file), folder)
        room = module["rooms"]["chat"]
        with served(module["app"]) as address, sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
            page = browser.new_page()
            page.goto(f"http://{address}/")
            wait_for(lambda: len(room) == 1, "the page to join")
            assert json.loads(request(address, "POST", "/say", text="one")[0]) == {"a visitor": 1}
            expect(page.locator("output")).to_have_text("one ")
            room.members[0].abort()
            wait_for(lambda: not len(room), "the page to leave")
            request(address, "POST", "/say", text="two")
            expect(page.locator("output")).to_have_text("one two ")
            request(address, "POST", "/say", text="three")
            expect(page.locator("output")).to_have_text("one two three ")
            browser.close()
        module["rooms"].close()


@check("tls/server")
def check_tls(block: Block, folder: Path) -> None:
    AUTHORITY.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(
        folder / "cert.pem"
    )
    port = free_port()
    (folder / "server.py").write_text(block.source.replace("8443", str(port)))
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    with serving(command_after(block), folder, port) as log:
        ws = connect(f"wss://localhost:{port}/", ssl=context)
        assert ask(ws, "hi") == "hi"
        ws.close()
        assert ws.wait_closed(TIMEOUT_S)
    assert "Traceback" not in log()


@check("http2/app")
def check_http2_and_http3(block: Block, folder: Path) -> None:
    (folder / "app.py").write_text(block.source)
    certificate = AUTHORITY.issue_cert("localhost")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    plain, secure = commands_after(block)
    port = free_port()
    with serving(plain.replace("8000", str(port)), folder, port) as log:
        assert echo_over_http2(port, "hello") == "hello"
    assert "Traceback" not in log()
    with serving(secure.replace("8443", str(port)), folder, port) as log:
        assert asyncio.run(echo_over_http3(port, "hello")) == "hello"
    assert "Traceback" not in log()


@check("graphql/app")
def check_subscription(block: Block, folder: Path) -> None:
    with (
        program(block, folder) as address,
        opened(address, "/graphql", subprotocols=["graphql-transport-ws"]) as ws,
    ):
        assert ask(ws, '{"type": "connection_init"}') == '{"type": "connection_ack"}'
        query = {"query": "subscription { count(to: 3) }"}
        ws.send(json.dumps({"id": "a", "type": "subscribe", "payload": query}))
        answers = [json.loads(ws.receive(TIMEOUT_S)) for _ in range(4)]
        assert [one["type"] for one in answers] == ["next", "next", "next", "complete"]
        assert answers[2]["payload"] == {"data": {"count": 3}}
        wrong = {"id": "b", "type": "subscribe", "payload": {"query": "subscription { no }"}}
        assert json.loads(ask(ws, json.dumps(wrong)))["type"] == "error"


# Operation


@check("systemd/chat")
def check_unit(block: Block, folder: Path) -> None:
    verify_unit(block.source, folder / str(block.file))
    unit = dict(line.split("=", 1) for line in block.source.splitlines() if "=" in line)
    assert int(unit["TimeoutStopSec"]) > graceful_timeout()
    assert unit["ExecStart"].endswith("gunicorn app:app")


def verify_unit(source: str, path: Path) -> None:
    """Let systemd read the unit, with programs that exist here."""
    analyze = shutil.which("systemd-analyze")
    require(analyze, "systemd-analyze")
    gunicorn = Path(sys.executable).parent / "gunicorn"
    path.write_text(source.replace("/srv/chat/venv/bin/gunicorn", str(gunicorn)))
    verify = [str(analyze), "verify", "--man=no", str(path)]
    result = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def graceful_timeout() -> int:
    page = (DOCS / "start/gunicorn.md").read_text()
    return int(re.findall(r"graceful_timeout = (\d+)", page)[0])


@check("docker/Dockerfile")
def check_dockerfile(block: Block, folder: Path) -> None:
    command = json.loads(re.findall(r"^CMD (.*)$", block.source, re.MULTILINE)[0])
    page = blocks_of(DOCS / "start/gunicorn.md")
    files = {one.file: one.source for one in page if one.file}
    copied = re.findall(r"^COPY (.*) \./$", block.source, re.MULTILINE)[0].split()
    port = free_port()
    for name in copied:
        (folder / name).write_text(files[name])
    line = " ".join(command).replace("0.0.0.0:8000", f"127.0.0.1:{port}")
    with serving(line, folder, port), opened(f"127.0.0.1:{port}", "/echo") as ws:
        assert ask(ws, "hi") == "You said: hi"
    stop_timeout = re.findall(r"--stop-timeout (\d+)", (DOCS / block.page).read_text())[0]
    assert int(stop_timeout) > graceful_timeout()


@check("kubernetes/chat")
def check_manifest(block: Block, _: Path) -> None:
    deployment, service, ingress = yaml.safe_load_all(block.source)
    pod = deployment["spec"]["template"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["ports"][0]["targetPort"] in [
        port["containerPort"] for port in container["ports"]
    ]
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["spec"]["terminationGracePeriodSeconds"] > pause + graceful_timeout()


@check("logging/log")
def check_log_configuration(block: Block, folder: Path) -> None:
    (folder / "log.py").write_text(
        block.source + "\nlogging.getLogger('websocket_handler').debug('shown')\n"
    )
    result = subprocess.run(
        ["python", "log.py"], env=environment(), capture_output=True, text=True, check=True
    )
    assert "websocket_handler DEBUG shown" in result.stderr


# metrics.md


@check("metrics/app")
def check_metrics(block: Block, folder: Path) -> None:
    port = free_port()
    expect_metrics(block, folder, port, f"gunicorn --bind 127.0.0.1:{port} --threads 4 app:app")


@check("metrics/asgi")
def check_metrics_of_an_event_loop(block: Block, folder: Path) -> None:
    port = free_port()
    expect_metrics(block, folder, port, f"{command_after(block)} --port {port}")


def expect_metrics(block: Block, folder: Path, port: int, command: str) -> None:
    (folder / str(block.file)).write_text(block.source)
    address = f"127.0.0.1:{port}"
    with serving(command, folder, port), opened(address, "/echo") as ws:
        assert ask(ws, "hi") == "hi"
        assert "\nwebsocket_connections 1.0\n" in request(address, "GET", "/metrics/")[0]


def exported_metrics() -> set[str]:
    """The names of the samples that a scrape gets, without those of histograms' parts."""
    registry = CollectorRegistry()
    registry.register(EngineCollector(default_engine()))
    text = generate_latest(registry).decode()
    names = re.findall(r"^# TYPE (\S+) \S+$", text, re.MULTILINE)
    return {name for name in names if not name.endswith("_created")}


def test_page_lists_each_metric() -> None:
    page = (DOCS / "how-to/metrics.md").read_text()
    listed = set(re.findall(r"^\| `(websocket_\w+)", page, re.MULTILINE))
    assert listed == exported_metrics()


def test_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads((DOCS / "how-to/grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set(re.findall(r"websocket_\w+", " ".join(queries)))
    assert {name.removesuffix("_bucket") for name in used} <= exported_metrics()
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
