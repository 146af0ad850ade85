"""The pages of the demo in a real browser."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import ConsoleMessage, Page, expect, sync_playwright

from websocket_handler import connect

from ..support.browser import FLAGS
from ..support.programs import Program, demo
from .page_states import expect_state, run_load_test


@pytest.fixture
def program() -> Iterator[Program]:
    with demo() as program:
        yield program


@pytest.fixture
def page(chromium: str, program: Program) -> Iterator[Page]:
    """The opened page; at the end it must have reported no error, except that the server is
    unreachable, and contacted only the demo."""
    complaints: list[str] = []
    hosts: set[str] = set()

    def console(message: ConsoleMessage) -> None:
        is_away = "WebSocket connection to" in message.text or "CONNECTION_REFUSED" in message.text
        if message.type in ("error", "warning") and not is_away:
            complaints.append(message.text)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.set_default_timeout(60_000)  # milliseconds; the machine may be busy
        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).netloc))
        page.goto(program.url("/echotest.html", "http"))
        yield page
        browser.close()
    assert complaints == []
    assert {host.partition(":")[2] for host in hosts} == {str(program.port)}
    assert {host.partition(":")[0] for host in hosts} <= {"127.0.0.1", "localhost"}


def test_page_echoes_text_and_file_then_closes(
    page: Page, program: Program, tmp_path: Path
) -> None:
    expect_state(page, "open")  # without a click
    opened = page.locator('#log [data-kind="open"]')
    expect(opened).to_contain_text("open: RFC 6455")
    expect(opened).to_contain_text("extensions permessage-deflate")
    verified = page.locator('#log [data-kind="received"][data-verified="true"]')
    page.locator("#text").fill("Gr\u00fc\u00dfe \u20ac")
    page.locator("#send").click()
    expect(verified).to_have_count(1)
    expect(verified.first).to_contain_text("Gr\u00fc\u00dfe \u20ac")
    assert float(verified.first.get_attribute("data-rtt") or "nan") >= 0

    file = tmp_path / "file.bin"
    file.write_bytes(os.urandom(300_000))
    page.locator("#file").set_input_files(file)
    expect(verified).to_have_count(2)
    assert page.locator('#log [data-verified="false"]').count() == 0

    page.get_by_text("Close with a code").click()
    page.locator("#close-code").fill("4001")
    page.locator("#close-reason").fill("enough")
    page.locator("#close").click()
    expect_state(page, "closed")
    expect(page.locator('#log [data-kind="close"]')).to_contain_text("4001")
    program.wait_for_log("4001 enough")


def test_page_measures_the_latency(page: Page) -> None:
    expect_state(page, "open")
    page.locator("#ping").click()
    expect(page.locator("#result")).to_contain_text("ms")
    run_load_test(page, milliseconds=1500)
    assert page.locator('#log [data-verified="false"]').count() == 0
    page.locator("#disconnect").click()
    expect_state(page, "closed")


def test_page_shows_that_the_server_left(page: Page, program: Program) -> None:
    expect_state(page, "open")
    assert program.end() == 0
    expect_state(page, "reconnecting")
    expect(page.locator('#log [data-kind="close"]')).to_contain_text("closed: 1001")


def test_stats_page_counts_live_messages(page: Page, program: Program) -> None:
    expect_state(page, "open")
    page.get_by_role("link", name="Statistics").click()
    expect_state(page, "open")
    messages = page.locator('[data-note="received"]')
    expect(messages).to_have_text("0 so far")
    with connect(program.url("/echoserver")) as echo:
        expect(page.locator('[data-figure="open"]')).to_have_text("2")
        echo.send("hello")
        expect(messages).to_have_text("1 so far")
        expect(page.locator('[data-chart="messages"] path.second')).to_have_attribute(
            "d", re.compile(r"^M[\d.]+,[\d.]+L")
        )
    expect(page.locator("#closed tr", has_text="1000").locator("td")).to_have_text(
        ["1000", "normal closure", "1"]
    )
    expect(page.locator('[data-chart="round-trips"] rect')).to_have_count(14)
