"""Takes the pictures of the pages in docs/, with real traffic: `make screenshots`."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from ..conftest import ROOT
from ..support.browser import FLAGS
from ..support.programs import Program, demo
from .page_states import (
    chat_program,
    conversation,
    open_echo_page,
    open_stats_page,
    run_load_test,
    use_echo_page,
)

FOLDER = ROOT / "docs"
TRAFFIC_S = 120
"""Seconds of traffic for the statistics: the charts show two minutes."""

WAVE_S = 40
PEERS = 24
MAX_MESSAGES_PER_PEER = 12


def echo_page(browser: Browser, program: Program, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1180, "height": 1000})
    open_echo_page(page, program)
    use_echo_page(page)
    run_load_test(page, milliseconds=20_000)
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=True)
    page.close()


def stats_page(browser: Browser, program: Program, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1180, "height": 900})
    open_stats_page(page, program)
    with traffic(program):
        page.screenshot(path=path, full_page=True)
    page.close()


@contextlib.contextmanager
def traffic(program: Program) -> Iterator[None]:
    """For TRAFFIC_S, let peers connect, send messages in waves, and leave; some stay to the end."""
    url, begin = program.url("/echoserver"), time.monotonic()
    peers: list[ClientConnection] = []
    with contextlib.suppress(InvalidStatus), connect(url, origin=Origin("https://other.example")):
        pass
    with contextlib.ExitStack() as stack:
        while (elapsed := time.monotonic() - begin) < TRAFFIC_S:
            wave = (1 - math.cos(2 * math.pi * elapsed / WAVE_S)) / 2
            while len(peers) < 4 + wave * PEERS:
                peers.append(stack.enter_context(connect(url)))
            while len(peers) > 5 + wave * PEERS:
                peers.pop(0).close(1000 if len(peers) % 5 else 4000)
            for peer in peers[::2]:  # the others are silent, and are pinged
                exchange(peer, 1 + int(wave * MAX_MESSAGES_PER_PEER))
            time.sleep(0.1)
        yield


def exchange(peer: ClientConnection, count: int) -> None:
    for number in range(count):
        peer.send(f"message {number}")
    for _ in range(count):
        peer.recv()


def chat_page(browser: Browser, program: Program, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 640})
    with conversation(browser, program, page, "team"):
        page.screenshot(path=path)
    page.close()


def main() -> None:
    chromium = shutil.which("chromium")
    with sync_playwright() as playwright, demo() as program, chat_program() as chat:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        echo_page(browser, program, FOLDER / "echotest.png")
        stats_page(browser, program, FOLDER / "stats.png")
        chat_page(browser, chat, FOLDER / "chat.png")
        browser.close()


if __name__ == "__main__":
    main()
