"""The chat in examples/socketio, in a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ..conftest import PEERS, ROOT
from ..support.browser import FLAGS
from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from .engineio_client import PollingClient


@pytest.fixture(params=["flask", "fastapi"])
def chat(request: pytest.FixtureRequest, tmp_path: Path, node: str) -> Iterator[Program]:
    """The example, with the client that the tests have installed."""
    del node
    folder = shutil.copytree(ROOT / "examples/socketio", tmp_path / "socketio")
    shutil.rmtree(folder / "node_modules", ignore_errors=True)
    (folder / "node_modules").symlink_to(PEERS / "node_modules")
    arguments = [str(folder / "run.py"), request.param, str(free_port())]
    with running(Program(arguments, r"localhost:(\d+)/")) as program:
        wait_for(lambda: responds(program), "the example to respond", 30)
        yield program


def responds(program: Program) -> bool:
    try:
        return bool(PollingClient(program).sid)
    except OSError:
        return False


def join(browser: Browser, program: Program, name: str) -> Page:
    page = browser.new_page()
    page.set_default_timeout(60_000)  # milliseconds; the machine may be busy
    page.goto(program.url("/", "http"))
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Join").click()
    return page


def test_browsers_chat(chat: Program, chromium: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        alice = join(browser, chat, "Alice")
        bob = join(browser, chat, "Bob")
        expect(alice.locator("#members")).to_have_text("Here: Alice, Bob", timeout=60_000)
        bob.get_by_label("Message").fill("Hello")
        bob.get_by_role("button", name="Send").click()
        expect(alice.get_by_role("log")).to_have_text("BobHello", timeout=60_000)
        bob.close()
        expect(alice.locator("#members")).to_have_text("Here: Alice", timeout=60_000)
    assert "Traceback" not in chat.log(), chat.log()
