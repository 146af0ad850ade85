"""Fixtures for all tests; a fixture used by one folder belongs in that folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .support.leftovers import kill, mark_children, marked_processes
from .support.raw_threads import trace_raw_threads
from .support.tls import AUTHORITY

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"

if threading.gettrace() is not None:  # coverage runs
    trace_raw_threads()


def require(present: object, what: str) -> None:
    """Skip the test if a real peer is missing; with CI=true that is a failure."""
    if present:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is not installed here")


@pytest.fixture(scope="session", autouse=True)
def _no_process_outlives_the_tests() -> Iterator[None]:
    mark_children()
    yield
    end = time.monotonic() + 10
    while (left := marked_processes()) and time.monotonic() < end:
        time.sleep(0.05)
    kill(left)
    assert not left, f"processes that tests have not ended: {left}"


@pytest.fixture(scope="session", autouse=True)
def _own_runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The local:// rooms of programs are not those of other processes of this user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        yield


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node.js; its npm libraries are in tests/peers."""
    path = shutil.which("node")
    packages = ("ws", "ws1", "websocket", "websocket-driver")
    found = all((PEERS / "node_modules" / package).is_dir() for package in packages)
    require(path and found, f"Node.js with {', '.join(packages)}")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def ruby() -> str:
    """The path of Ruby, with em-websocket and websocket-ruby."""
    path = shutil.which("ruby")
    wanted = ["-e", 'require "em-websocket"; require "websocket"']
    found = path and subprocess.run([path, *wanted], capture_output=True).returncode == 0
    require(found, "Ruby with em-websocket and websocket")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def perl() -> str:
    """The path of Perl, with Protocol::WebSocket."""
    path = shutil.which("perl")
    wanted = ["-MProtocol::WebSocket", "-e", "1"]
    found = path and subprocess.run([path, *wanted], capture_output=True).returncode == 0
    require(found, "Perl with Protocol::WebSocket")
    assert path is not None
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of Chromium."""
    path = shutil.which("chromium")
    require(path, "Chromium")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    issued = AUTHORITY.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(path)
    return path
