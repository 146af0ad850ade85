"""A newcomer follows each page of docs/start: copies its blocks, runs its command, sees the echo.

The packages that `pip install` names are looked up, not downloaded: they are requirements of the
tests. With NEWCOMER=full (`make newcomer`) each page has an empty environment, into which its
commands install a wheel of this library and the other packages. Ports are replaced, because port
8000 may be taken.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from ..support.browser import FLAGS
from ..support.commands import environment, serving
from ..support.documents import Block, blocks_of, pages
from ..support.ports import free_port
from ..support.served import load
from ..support.wheels import build_wheel

START = pages("start")
PORT = "8000"
IS_FULL = os.environ.get("NEWCOMER") == "full"


class Steps(NamedTuple):
    """The parts of a page, in the order in which they stand there."""

    preparations: list[Block]
    """Files to save and commands that end."""
    server: str
    """The command that serves."""
    end: int
    """The line of that command."""


class Shell(NamedTuple):
    """Runs the commands of a page."""

    prefix: str
    """Selects an environment for a command."""
    wheel: Path | None
    """Is installed in the place of `websocket-handler`; None: that is installed already."""


def steps_of(page: Path) -> Steps:
    blocks = [one for one in blocks_of(page) if one.language == "bash" or one.file]
    last = max(index for index, one in enumerate(blocks) if one.language == "bash")
    return Steps(blocks[:last], blocks[last].source.strip(), blocks[last].line)


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Shell:
    """A shell of the newcomer; with NEWCOMER=full, in an empty environment."""
    if not IS_FULL:
        return Shell("", None)
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    return Shell(f"env PATH={venv}/bin:$PATH ", request.getfixturevalue("wheel"))


@pytest.mark.timeout(600 if IS_FULL else 120)
@pytest.mark.parametrize("page", START, ids=lambda page: page.stem)
def test_start_page_leads_to_an_echo_in_the_browser(
    page: Path, browser: Browser, tmp_path: Path, shell: Shell
) -> None:
    assert f"http://localhost:{PORT}" in page.read_text()
    port = free_port()
    steps = steps_of(page)
    for block in steps.preparations:
        prepare(block, tmp_path, port, shell)
    command = shell.prefix + steps.server.replace(PORT, str(port))
    with serving(command, tmp_path, port) as log:
        visitor = browser.new_page()
        visitor.set_default_timeout(60_000)  # milliseconds; the machine may be busy
        visitor.goto(f"http://localhost:{port}/")
        visitor.wait_for_function("ws.readyState !== WebSocket.CONNECTING")
        assert visitor.evaluate("ws.readyState === WebSocket.OPEN"), log()
        visitor.get_by_role("button").click()
        expect(visitor.locator("output")).to_have_text("You said: Hello")
        visitor.close()
    assert "Traceback" not in log(), log()


def prepare(block: Block, folder: Path, port: int, shell: Shell) -> None:
    """Save a file, or run the commands of a block that end."""
    if block.file is not None:
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.source.replace(PORT, str(port)))
        return
    for command in block.source.splitlines():
        if command.startswith("pip install ") and not IS_FULL:
            find_packages(shlex.split(command)[2:])
        else:
            line = shell.prefix + command.replace(
                "install websocket-handler", f"install {shell.wheel}"
            )
            subprocess.run(line, shell=True, cwd=folder, env=environment(), check=True)


def find_packages(requirements: list[str]) -> None:
    """Raise `PackageNotFoundError` if a package, or one that its extra needs, is not installed."""
    for requirement in requirements:
        name, _, extras = requirement.partition("[")
        found = distribution(name)
        for extra in filter(None, extras.rstrip("]").split(",")):
            assert extra in (found.metadata.get_all("Provides-Extra") or ()), requirement


def test_start_page_names_only_commands_of_its_packages() -> None:
    for page in START:
        text = page.read_text()
        command = shlex.split(steps_of(page).server)[0]
        installed = re.findall(r"^pip install (.*)$", text, re.MULTILINE)
        known = {"python", "django-admin"} | set(" ".join(installed).split())
        assert command.removesuffix("-serve") in known, (page.name, command)


FURTHER = [
    block
    for page in START
    for block in blocks_of(page)
    if block.file and block.line > steps_of(page).end
]


@pytest.mark.parametrize("block", FURTHER, ids=str)
def test_program_after_the_command_runs(block: Block, tmp_path: Path) -> None:
    assert load(block.source, str(block.file), tmp_path)
