"""The programs in examples/, unchanged except for the port."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from playwright.sync_api import expect, sync_playwright
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from ..support.browser import FLAGS
from ..support.ports import free_port, listens
from ..support.programs import wait_for

FOLDER = Path(__file__).parent.parent.parent / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
LOGINS = sorted((FOLDER / "login").glob("*.py"))


@contextlib.contextmanager
def _run(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that must not have logged an error at its end."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    try:
        wait_for(lambda: listens(port), f"{command[0]} to listen")
        yield process
    finally:
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert b"Traceback" not in log, log.decode()


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_echoes_and_answers_426_to_plain_requests(example: Path) -> None:
    port = free_port()
    source = example.read_text()
    assert source.count("8000") == 2  # in its description, and the listening address
    with _run(["-c", source.replace("8000", str(port))], port) as process:
        with connect(f"ws://localhost:{port}/", compression=None) as client:
            client.send("héllo")
            assert client.recv(timeout=10) == "héllo"
        with pytest.raises(HTTPError, match="426"):
            urlopen(f"http://localhost:{port}/", timeout=10).read()
        assert process.poll() is None


@pytest.mark.parametrize("example", LOGINS, ids=[path.stem for path in LOGINS])
def test_browser_login_opens_the_websocket(example: Path, tmp_path: Path, chromium: str) -> None:
    port = free_port()
    folder = shutil.copytree(example.parent, tmp_path / "login")
    program = folder / example.name
    program.write_text(example.read_text().replace("8000", str(port)))
    with _run([str(program)], port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(60_000)  # milliseconds; the machine may be busy
        page.goto(f"http://localhost:{port}/")
        log = page.get_by_role("log")
        page.get_by_role("button", name="Connect").click()
        expect(log).to_have_text("refused: log in first\n")
        page.get_by_role("button", name="Log in").click()
        expect(log).to_contain_text("logged in")
        page.get_by_role("button", name="Connect").click()
        expect(log).to_contain_text("open")
        page.get_by_role("button", name="Send").click()
        expect(log).to_have_text("refused: log in first\nlogged in\nopen\nHello\n")
        browser.close()
        with pytest.raises(InvalidStatus, match="401"), connect(f"ws://localhost:{port}/echo"):
            pass
        with pytest.raises(HTTPError, match="426"):
            urlopen(f"http://localhost:{port}/echo", timeout=10).read()
