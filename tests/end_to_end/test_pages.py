"""The pages of the demo, the chat and the login examples: layout, accessibility, lost servers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from websockets.sync.client import connect

from ..conftest import PEERS, ROOT, require
from ..support.browser import FLAGS
from ..support.ports import free_port
from ..support.programs import TIMEOUT_S, Program, demo
from .page_states import (
    TIMEOUT_MS,
    chat_program,
    conversation,
    enter_chat,
    expect_state,
    open_echo_page,
    open_stats_page,
    use_echo_page,
)

MINUS = "\N{MINUS SIGN}"

VIEWS = [
    ("light", 1180, 900),
    ("dark", 1180, 900),
    ("light", 590, 450),  # as at a zoom of 200 %
    ("light", 360, 740),  # a phone
]
"""Colours depend on the scheme and the layout on the width: no rule depends on both."""

RUN_AXE = """
async () => {
    const rules = {"target-size": {enabled: true}};
    const found = await axe.run({resultTypes: ["violations"], rules});
    return found.violations.map((one) => [one.id, one.help, one.nodes.map((node) => node.html)]);
}
"""

ELEMENT_BEYOND_THE_EDGE = """
() => {
    const isBeyond = (one) => one.getBoundingClientRect().right > innerWidth + 1;
    const found = [...document.querySelectorAll("main, main > *, section, input, button, svg")];
    return found.filter((one) => one.checkVisibility() && isBeyond(one)).map((one) => one.id);
}
"""

FOCUSED = """
() => {
    const one = document.activeElement, style = getComputedStyle(one);
    return [one.id || one.tagName.toLowerCase(), style.outlineStyle !== "none"];
}
"""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    errors: list[Any] = []
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on("pageerror", lambda error: errors.append(error))
        yield page
    assert errors == []


@pytest.fixture(scope="module")
def axe() -> str:
    """The script of axe-core, which finds violations of the accessibility guidelines (WCAG)."""
    path = PEERS / "node_modules" / "axe-core" / "axe.min.js"
    require(path.exists(), "axe-core from npm")
    return path.read_text()


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    with demo() as program:
        yield program


@pytest.fixture(scope="module")
def chat() -> Iterator[Program]:
    with chat_program() as program:
        yield program


def expect_usable_in_all_views(page: Page, axe: str) -> None:
    """axe-core finds nothing, and nothing is beyond the right edge, in all of `VIEWS`."""
    page.evaluate(axe)
    for scheme, width, height in VIEWS:
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.set_viewport_size({"width": width, "height": height})
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        view = f"{scheme}, {width} x {height}"
        assert page.evaluate(RUN_AXE) == [], view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        assert page.evaluate(ELEMENT_BEYOND_THE_EDGE) == [], view


# Echo page


def test_echo_page_is_usable_in_all_views(page: Page, program: Program, axe: str) -> None:
    open_echo_page(page, program)
    use_echo_page(page)
    page.get_by_text("Close with a code").click()
    expect_usable_in_all_views(page, axe)


def test_echo_page_shows_the_result_next_to_the_button(page: Page, program: Program) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    open_echo_page(page, program)
    page.locator("#send").click()
    result = page.locator("#result")
    expect(result).to_contain_text("← Hello, WebSocket!")
    expect(result).to_contain_text("ms")
    expect(result).to_be_in_viewport(ratio=1)
    expect(page.locator("#send")).to_be_in_viewport(ratio=1)
    page.get_by_text("Close with a code").click()
    page.locator("#close-code").fill("1001")
    page.locator("#close").click()
    expect(page.locator("#detail")).to_contain_text("between 3000 and 4999")
    expect_state(page, "open")
    page.locator("#close-code").fill("3001")
    page.locator("#close").click()
    expect(page.locator("#detail")).to_have_text("closed: 3001")
    expect(page.locator("#detail")).to_be_in_viewport(ratio=1)


def test_failed_connection_is_explained_once(page: Page, program: Program, axe: str) -> None:
    open_echo_page(page, program)
    page.locator("#disconnect").click()
    expect_state(page, "closed")
    nowhere = f"127.0.0.1:{free_port()}"
    page.locator("#url").fill(f"ws://{nowhere}/")
    page.locator("#connect").click()
    expect_state(page, "reconnecting")
    failed = page.locator('#log [data-kind="error"]')
    expect(failed.locator(".text")).to_have_text(
        f"could not connect: no server answers at {nowhere}"
    )
    expect(page.locator("#detail")).to_contain_text(f"no server answers at {nowhere}")
    expect(failed.locator(".rtt")).to_have_text("3 attempts")
    expect(failed).to_have_count(1)
    expect_usable_in_all_views(page, axe)
    page.get_by_role("button", name="Stop trying").click()
    expect_state(page, "closed")


def test_refused_connection_is_explained(page: Page, program: Program) -> None:
    open_echo_page(page, program)
    page.locator("#disconnect").click()
    expect_state(page, "closed")
    page.locator("#url").fill(program.url("/nowhere"))
    page.locator("#connect").click()
    expect(page.locator("#detail")).to_contain_text("has no such path (404)")


def test_echo_page_works_with_the_keyboard_alone(page: Page, program: Program) -> None:
    open_echo_page(page, program)
    controls = (
        "a url subprotocols disconnect summary text send ping file random-size send-random "
        "copy clear log burst-start burst-in-flight burst-size"
    )
    for name in controls.split():
        page.keyboard.press("Tab")
        assert page.evaluate(FOCUSED) == [name, True]
    page.locator("#text").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("← typed")
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#close-code")).to_be_visible()


# Statistics


def test_stats_page_is_usable_in_all_views(page: Page, program: Program, axe: str) -> None:
    open_echo_page(page, program)
    use_echo_page(page)
    open_stats_page(page, program)
    expect(page.locator("#closed td")).not_to_have_count(0)
    expect_values_at_the_pointer(page)
    expect_usable_in_all_views(page, axe)


def expect_values_at_the_pointer(page: Page) -> None:
    """A chart shows the values next to the pointer, as long as it is there."""
    for chart, text in (("messages", r": received \S+, sent \S+$"), ("round-trips", r" m?s: \d")):
        shown = page.locator(f'[data-chart="{chart}"] .values')
        expect(shown).to_have_count(0)
        page.locator(f'[data-chart="{chart}"] svg').hover()
        expect(shown).to_have_text(re.compile(text))
    page.mouse.move(0, 0)
    expect(page.locator(".values")).to_have_count(0)


def test_charts_have_axes_before_the_first_message(page: Page, program: Program) -> None:
    page.route_web_socket("**/stats", lambda _: None)  # sends nothing
    page.goto(program.url("/stats", "http"))
    for chart, unit in (("messages", "messages/s"), ("bytes", "bytes/s")):
        texts = page.locator(f'[data-chart="{chart}"] text')
        expect(texts.first).to_have_text(unit)
        found = texts.all_text_contents()
        assert {"0", f"{MINUS}2 min", f"{MINUS}1 min", "now"} <= {
            text.removesuffix(" B") for text in found
        }


def test_pages_reconnect_after_a_restart(browser: Browser, page: Page, axe: str) -> None:
    port = str(free_port())
    stats = browser.new_page()
    stats.set_default_timeout(TIMEOUT_MS)
    with demo("--port", port) as program:
        open_echo_page(page, program)
        open_stats_page(stats, program)
        program.end()
    expect_state(page, "reconnecting")
    expect_state(stats, "reconnecting")
    expect(page.locator('#log [data-kind="close"]')).to_have_count(1)
    age = stats.get_by_role("alert")
    expect(age).to_contain_text("the connection was closed with 1001 (going away)")
    grey = stats.evaluate("getComputedStyle(document.querySelector('#figures dt')).color")
    expect(stats.locator('[data-figure="open"]')).to_have_css("color", grey)
    expect_usable_in_all_views(stats, axe)
    with demo("--port", port):
        for one in (page, stats):
            expect_state(one, "open")
        expect(age).to_be_hidden()
        expect(stats.locator('[data-figure="open"]')).not_to_have_css("color", grey)
        expect(page.locator('#log [data-kind="open"]')).to_have_count(2)
    stats.close()


# Chat and login


def test_chat_is_usable_in_all_views(browser: Browser, page: Page, chat: Program, axe: str) -> None:
    page.goto(chat.url("/", "http"))
    expect_usable_in_all_views(page, axe)
    with conversation(browser, chat, page, "usable"):
        expect_usable_in_all_views(page, axe)


def test_login_card_has_no_gap(page: Page, chat: Program) -> None:
    page.goto(chat.url("/", "http"))
    room, button = page.get_by_label("Room"), page.get_by_role("button", name="Join")
    above, below = room.bounding_box(), button.bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] - above["y"] - above["height"] < 20
    page.get_by_label("Your name").fill("\u200b")
    button.click()
    expect(page.get_by_role("alert")).to_be_visible()


def join_chat(chat: Program, name: str, room: str) -> contextlib.AbstractContextManager[Any]:
    form = Request(chat.url("/login", "http"), data=b"name=" + quote(name).encode())
    with urlopen(form, timeout=TIMEOUT_S) as response:
        cookie = response.headers["Set-Cookie"].partition(";")[0]
    return connect(chat.url(f"/chat?room={room}"), additional_headers={"Cookie": cookie})


def test_ten_members_have_ten_colours(page: Page, chat: Program) -> None:
    names = ["Bob", "Carol", "Dave", "Erin", "Frank", "Grace", "Heidi", "Ivan", "Judy"]
    enter_chat(page, chat, "Alice", "colours")
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(join_chat(chat, name, "colours"))
        shown = page.locator("#present .name")
        expect(shown).to_have_count(1 + len(names), timeout=TIMEOUT_MS)
        colours = shown.evaluate_all("(names) => names.map((one) => getComputedStyle(one).color)")
    assert len(set(colours)) == len(colours)


def test_login_page_is_usable_in_all_views(page: Page, axe: str) -> None:
    page.goto((ROOT / "examples" / "login" / "echo.html").as_uri())
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("log")).to_have_text("connect first\n")
    expect_usable_in_all_views(page, axe)
