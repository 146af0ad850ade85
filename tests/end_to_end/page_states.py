"""The pages of the demo and of the chat, opened in Chromium in the states that users see."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from playwright.sync_api import Browser, Page, expect

from websocket_handler import IS_NATIVE

from ..conftest import ROOT
from ..support.programs import Program, running

TIMEOUT_MS = 40_000
"""The machine may be busy."""

expect.set_options(timeout=TIMEOUT_MS)

CONVERSATION = [
    ("Ada", "Morning! Is the new build up?"),
    ("Grace", "For ten minutes. Three servers, one room."),
    ("Grace", "kill -9 any of them"),
    ("Ada", "Done. The page reconnected before I could read the message about it."),
    ("Linus", "And nothing is missing on this side ✓"),
    (
        "Лев",
        "Здесь тоже ничего не потеряно. A longer message, to show how the lines wrap.",
    ),
    ("Ada", "<b>not bold</b>, as it should be"),
]


@contextlib.contextmanager
def chat_program() -> Iterator[Program]:
    """The chat of examples/, served by gunicorn."""
    gunicorn = ["-m", "gunicorn", "-k", "gthread", "--threads", "8", "-b", "127.0.0.1:0"]
    folder = str(ROOT / "examples" / "chat")
    ready = r"Listening at: http://127\.0\.0\.1:(\d+)"
    command = [*gunicorn, "--chdir", folder, "with_flask:app"]
    with running(Program(command, ready, not IS_NATIVE)) as program:
        yield program


def expect_state(page: Page, state: str) -> None:
    expect(page.locator("#status")).to_have_attribute("data-state", state, timeout=TIMEOUT_MS)


def open_echo_page(page: Page, program: Program) -> None:
    page.goto(program.url("/echotest.html", "http"))
    expect_state(page, "open")


def use_echo_page(page: Page) -> None:
    """Send a text and some bytes, and measure the latency."""
    received = page.locator('#log [data-kind="received"]')
    for count, button in enumerate(("send", "send-random", "ping"), start=1):
        page.locator(f"#{button}").click()
        expect(received).to_have_count(count, timeout=TIMEOUT_MS)


RUN_LOAD_TEST = """
(milliseconds) => new Promise((done) => {
    const begin = performance.now(), find = (id) => document.getElementById(id);
    find("burst-in-flight").value = 2;
    find("burst-start").click();
    const timer = setInterval(() => {
        const total = Number(find("total").textContent.replaceAll(",", ""));
        if (total < 100 || performance.now() - begin < milliseconds) return;
        clearInterval(timer);
        find("burst-stop").click();
        done();
    }, 100);
})
"""


def run_load_test(page: Page, milliseconds: int) -> None:
    """Run the load test for this time, and for 100 echoes at least. The page itself ends it:
    Playwright is slow while it receives an event per message."""
    page.evaluate(RUN_LOAD_TEST, milliseconds)
    expect(page.locator("#burst-start")).to_be_enabled(timeout=TIMEOUT_MS)


def open_stats_page(page: Page, program: Program) -> None:
    page.goto(program.url("/stats", "http"))
    expect_state(page, "open")
    expect(page.locator('[data-chart="messages"] path.first').first).to_be_attached(
        timeout=TIMEOUT_MS
    )


def enter_chat(page: Page, program: Program, name: str, room: str) -> None:
    page.goto(program.url("/", "http"))
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Room").fill(room)
    page.get_by_role("button", name="Join").click()
    expect_state(page, "open")


@contextlib.contextmanager
def conversation(browser: Browser, program: Program, page: Page, room: str) -> Iterator[None]:
    """Let four users talk; `page` is that of the first."""
    pages = {"Ada": page}
    enter_chat(page, program, "Ada", room)
    with contextlib.ExitStack() as stack:
        for name in ("Grace", "Linus", "Лев"):
            context = stack.enter_context(contextlib.closing(browser.new_context()))
            pages[name] = context.new_page()
            enter_chat(pages[name], program, name, room)
        for count, (name, text) in enumerate(CONVERSATION, start=1):
            pages[name].get_by_label("Message").fill(text)
            pages[name].get_by_label("Message").press("Enter")
            said = page.locator("#log li:not(.waiting) .text")
            expect(said).to_have_count(count, timeout=TIMEOUT_MS)
        yield
