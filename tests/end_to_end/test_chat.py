"""The chat in examples/chat: in real browsers, with both frameworks, and as a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as connect_client

from websocket_handler import IS_NATIVE

from ..conftest import ROOT, require
from ..support.browser import FLAGS
from ..support.ports import free_port
from ..support.programs import TIMEOUT_S, Program, running, wait_for

FOLDER = ROOT / "examples" / "chat"
READY = r"[Rr]unning on http://127\.0\.0\.1:(\d+)"
EVIL_NAME = "<img src=x onerror=evil()>"
EVIL = "<b>bold</b><script>evil()</script><img src=x onerror=evil()>"

WAIT = 30_000
"""Milliseconds within which a page has reconnected, even on a busy machine."""

Enter = Callable[..., Page]


def start(command: list[str], ready: str) -> AbstractContextManager[Program]:
    return running(Program(command, ready, not IS_NATIVE))


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def enter(browser: Browser) -> Iterator[Enter]:
    """Let one more user, with separate cookies, join a room; returns the user's page. No page may
    have reported any error, except that the server is unreachable."""
    complaints: list[str] = []
    contexts = []

    def console(message: ConsoleMessage) -> None:
        is_away = "WebSocket connection to" in message.text
        if message.type in ("error", "warning") and not is_away:
            complaints.append(message.text)

    def enter_one(program: Program, name: str, room: str = "lobby") -> Page:
        contexts.append(browser.new_context())
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.add_init_script("window.evil = () => { throw new Error('evil'); };")
        page.goto(program.url("/", "http"))
        page.get_by_label("Your name").fill(name)
        page.get_by_label("Room").fill(room)
        page.get_by_role("button", name="Join").click()
        expect_state(page, "open")
        return page

    yield enter_one
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module", params=["with_flask", "with_fastapi"])
def command(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The chat on a port that stays the same after a restart."""
    folder = shutil.copytree(FOLDER, tmp_path_factory.mktemp("chat") / "chat")
    program = folder / f"{request.param}.py"
    source = program.read_text()
    assert source.count("8000") == 2  # in its description, and the listening address
    program.write_text(source.replace("8000", str(free_port())))
    return [str(program)]


@pytest.fixture
def program(command: list[str]) -> Iterator[Program]:
    with start(command, READY) as program:
        yield program
        assert "Traceback" not in program.log(), program.log()


def expect_state(page: Page, state: str) -> None:
    expect(page.locator("#status")).to_have_attribute("data-state", state, timeout=WAIT)


def expect_present(page: Page, *names: str) -> None:
    expect(page.locator("#present .name")).to_have_text(list(names), timeout=WAIT)


def expect_said(page: Page, *texts: str) -> None:
    """The page shows all these messages, in this order, each once, and none is pending."""
    expect(page.locator("#log li:not(.waiting) .text")).to_have_text(list(texts), timeout=WAIT)
    expect(page.locator("#log .waiting")).to_have_count(0)


def notice(page: Page, text: str) -> None:
    expect(page.locator("#log .notice", has_text=text)).to_have_count(1, timeout=WAIT)


def wait_until_settled(page: Page) -> None:
    """Wait until the page reports new members: those of the first second were there before."""
    expect(page.locator("#present")).not_to_have_attribute("aria-busy", "true", timeout=WAIT)


def send_message(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def follow_a_link(page: Page, program: Program) -> None:
    """Follow a link to a room: a name of blank characters is rejected, then a valid one joins."""
    page.goto(program.url("/#elsewhere", "http"))
    expect(page.get_by_label("Room")).to_have_value("elsewhere")
    page.get_by_label("Your name").fill(" \u200b ")
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("alert")).to_have_text("A name must have 1 to 40 characters\n")
    page.get_by_label("Your name").fill("Other")
    page.get_by_role("button", name="Join").click()
    expect_present(page, "Other")
    page.reload()  # the cookie and the URL are sufficient
    expect_present(page, "Other")


def test_users_join_talk_and_leave(browser: Browser, enter: Enter, program: Program) -> None:
    other = browser.new_page()
    follow_a_link(other, program)
    room = "<i>room</i>"
    alice = enter(program, "Alice", room)
    expect_present(alice, "Alice")
    wait_until_settled(alice)
    mallory = enter(program, EVIL_NAME, room)
    for page in (alice, mallory):
        expect_present(page, EVIL_NAME, "Alice")
    notice(alice, f"{EVIL_NAME} joined")
    said = ["Hello, all", EVIL, "Grüße ✓"]
    for page, text in zip((alice, mallory, mallory), said, strict=True):
        send_message(page, text)
        expect(alice.locator("#log li:not(.waiting)", has_text=text)).to_have_count(1)
    for page in (alice, mallory):
        expect_said(page, *said)
        expect(page.locator("#log .name")).to_have_text(["Alice", EVIL_NAME, EVIL_NAME])
        expect(page.locator("h1")).to_have_text(room)
        assert page.locator("main :is(img, script, b, i), h1 *").count() == 0
    mallory.get_by_role("button", name="Leave").click()
    expect_present(alice, "Alice")
    notice(alice, f"{EVIL_NAME} left")
    assert alice.locator("main :is(img, script, b, i)").count() == 0
    expect(mallory.get_by_label("Your name")).to_be_visible()
    expect_present(other, "Other")
    expect_said(other)
    other.close()


def test_server_restart_reconnects_the_users(enter: Enter, command: list[str]) -> None:
    with start(command, READY) as program:
        alice, bob = enter(program, "Alice"), enter(program, "Bob")
        send_message(alice, "before")
        for page in (alice, bob):
            expect_said(page, "before")
        program.end()
    for page in (alice, bob):
        expect_state(page, "closed")
    send_message(alice, "meanwhile")
    expect(alice.locator("#log .waiting .text")).to_have_text("meanwhile")
    with start(command, READY) as program:
        for page in (alice, bob):
            expect_state(page, "open")
            expect_present(page, "Alice", "Bob")
        expect_said(alice, "before", "meanwhile")
        send_message(bob, "again")
        expect_said(alice, "before", "meanwhile", "again")
        expect(bob.locator("#log .text").last).to_have_text("again")
        for page in (alice, bob):
            expect(page.locator("#log .notice", has_text="left")).to_have_count(0)
        assert program.end() == 0 or command[0].endswith("with_flask.py")  # SIGINT as it comes


def join(program: Program, name: str, room: str) -> ClientConnection:
    form = Request(program.url("/login", "http"), data=b"name=" + quote(name).encode())
    with urlopen(form, timeout=TIMEOUT_S) as response:
        cookie = response.headers["Set-Cookie"].partition(";")[0]
    url = program.url(f"/chat?room={quote(room)}")
    return connect_client(url, additional_headers={"Cookie": cookie}, compression=None)


def test_message_sent_twice_appears_once(enter: Enter, chat: Program) -> None:
    alice = enter(chat, "Alice", room="twice")
    with join(chat, "Bob", "twice") as bob, join(chat, "Carol", "twice") as carol:
        for client, text in ((bob, "once"), (bob, "once"), (carol, "with the same id")):
            client.send(json.dumps({"id": "1", "text": text}))
            read_until(client, text)
        bob.send(json.dumps({"id": "2", "text": "the end"}))
        expect_said(alice, "once", "with the same id", "the end")


def read_until(client: ClientConnection, text: str) -> None:
    while json.loads(client.recv(TIMEOUT_S)).get("text") != text:
        pass


def read_all(client: ClientConnection) -> None:
    while True:
        client.recv(TIMEOUT_S)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("hello", 1008),
        ("[" * 16_000, 1008),
        ('{"id": "1"}', 1008),
        ('{"id": 1, "text": "x"}', 1008),
        ('{"id": "1", "text": " "}', 1008),
        (json.dumps({"id": "1", "text": "x" * 2001}), 1008),
        (json.dumps({"id": "x" * 41, "text": "x"}), 1008),
        (b"\xff", 1008),
        (json.dumps({"id": "1", "text": "x" * 20_000}), 1009),
    ],
    ids=str,
)
def test_invalid_client_message_closes_its_connection(
    chat: Program, message: str | bytes, code: int
) -> None:
    with join(chat, "Alice", "lobby") as alice, join(chat, "Mallory", "lobby") as mallory:
        mallory.send(message)
        with pytest.raises(ConnectionClosedError, match=f"received {code}"):
            read_all(mallory)
        alice.send('{"id": "1", "text": "\\ud800 and \\u0000", "name": "Mallory"}')
        while (event := json.loads(alice.recv(TIMEOUT_S)))["type"] != "message":
            assert event["type"] in ("welcome", "present")
        assert (event["name"], event["text"]) == ("Alice", "\ud800 and \u0000")


@pytest.mark.parametrize("room", ["", " ", "x" * 41, "a\x00b"], ids=ascii)
def test_room_without_a_name_is_rejected(chat: Program, room: str) -> None:
    with join(chat, "Alice", room) as alice, pytest.raises(ConnectionClosedError, match="4400"):
        alice.recv(TIMEOUT_S)


@pytest.fixture(scope="module")
def chat() -> Iterator[Program]:
    """One chat for many tests, served by gunicorn."""
    gunicorn = ["-m", "gunicorn", "-w", "4", "-k", "gthread", "--threads", "4", "-b", "127.0.0.1:0"]
    ready = r"Listening at: http://127\.0\.0\.1:(\d+)"
    with start([*gunicorn, "--chdir", str(FOLDER), "with_flask:app"], ready) as program:
        yield program
        assert "Traceback" not in program.log(), program.log()
        program.end()


# The cluster

CLUSTER_READY = r"http://127\.0\.0\.1:(\d+)/ is ready"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    require(shutil.which("redis-server"), "redis-server")
    require(shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"), "haproxy")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with start([str(FOLDER / "cluster.py"), "--port", "0"], CLUSTER_READY) as program:
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        assert len(children) == 5  # Redis, haproxy, three servers
        yield program
        assert program.end() == 0
        assert not [child for child in children if Path("/proc", child).exists()]
        assert list(tmp_path.iterdir()) == []
        assert "Traceback" not in program.log(), program.log()


def server_of(page: Page) -> str:
    return page.locator("#status").get_attribute("data-server") or ""


def test_killed_cluster_server_loses_no_message(enter: Enter, cluster: Program) -> None:
    alice, bob = enter(cluster, "Alice"), enter(cluster, "Bob")
    for _ in range(10):
        if server_of(alice) != server_of(bob):
            break
        bob.reload()
        expect_state(bob, "open")
    killed = server_of(alice)
    assert killed != server_of(bob)
    for page in (alice, bob):
        expect_present(page, "Alice", "Bob")
    carol = enter(cluster, "Carol")
    for page in (alice, bob):
        expect_present(page, "Alice", "Bob", "Carol")
    carol.close()
    for page in (alice, bob):
        notice(page, "Carol left")
    send_message(alice, "before")
    for page in (alice, bob):
        expect_said(page, "before")

    [pid] = re.findall(rf"{killed}: pid (\d+)", cluster.log())
    os.kill(int(pid), signal.SIGKILL)
    said = [f"meanwhile {number}" for number in range(5)]
    for text in said:
        send_message(bob, text)
    send_message(alice, "from Alice")
    wait_for(lambda: server_of(alice) != killed, "Alice to come back elsewhere")
    expect_state(alice, "open")
    for page in (alice, bob):
        expect(page.locator("#log li:not(.waiting) .text")).to_have_count(7)
        expect_present(page, "Alice", "Bob")
    send_message(bob, "after")
    for page in (alice, bob):
        texts = page.locator("#log .text")
        expect(texts).to_have_count(8)
        assert sorted(texts.all_text_contents()) == sorted(
            [*("before", *said, "from Alice", "after")]
        )
        expect(page.locator("#log .notice", has_text="missing")).to_have_count(0)
    assert alice.locator("#log .text").all_text_contents() == (
        bob.locator("#log .text").all_text_contents()
    )
    cluster.wait_for_log(f"{killed} has exited with -9")


@pytest.mark.parametrize(
    ("options", "path", "words"),
    [
        (["--port", "0"], "", "redis-server is not installed: apt-get install redis-server"),
        (["--port", "taken"], None, "Address already in use"),
    ],
    ids=["no Redis", "port taken"],
)
def test_impossible_cluster_is_reported(
    options: list[str], path: str | None, words: str, chat: Program
) -> None:
    options = [str(chat.port) if option == "taken" else option for option in options]
    environment = os.environ if path is None else {**os.environ, "PATH": path}
    done = subprocess.run(
        [sys.executable, str(FOLDER / "cluster.py"), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
