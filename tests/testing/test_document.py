"""docs/testing.md: its test files, run by pytest as a user runs them, and the plugin of pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from websocket_handler import WebSocket
from websocket_handler.testing import Client, ClientConnection

from ..conftest import ROOT

DOCUMENT = (ROOT / "docs" / "testing.md").read_text()
FILES = dict(re.findall(r"^```python\n# (test_\w+\.py)\n(.*?)^```", DOCUMENT, re.DOTALL | re.M))

TESTS = {
    "test_flask.py": 3,
    "test_django.py": 1,
    "test_peers.py": 3,
    "test_async.py": 2,
}
"""The number of tests in each file."""


def pytest_in(directory: Path, *arguments: str, pure: str | None = None) -> str:
    """Run pytest in a process of its own, with the plugins that the environment has. Returns its
    output; fails if a test fails."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    if pure is not None:
        environment["WEBSOCKET_HANDLER_PURE_PYTHON"] = pure
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the test files of the document. Their waits are longer than a user's."""
    (tmp_path / "pytest.ini").write_text("[pytest]\nwebsocket_timeout = 10\n")
    for name, source in FILES.items():
        (tmp_path / name).write_text(source)
    return tmp_path


def test_document_consists_of_complete_test_files() -> None:
    assert DOCUMENT.count("```python\n") == len(FILES)
    assert set(FILES) == set(TESTS)


def test_document_names_methods_that_exist() -> None:
    for name in re.findall(r"\bws\.([a-z_]+)\(", DOCUMENT):
        assert hasattr(ClientConnection, name) or hasattr(WebSocket, name), name
    for name in re.findall(r"\bclient\.([a-z_]+)\(", DOCUMENT):
        assert hasattr(Client, name), name


def test_test_files_of_the_document_pass_in_parallel(project: Path) -> None:
    output = pytest_in(project, "--numprocesses", "2")
    assert f"{sum(TESTS.values())} passed" in output


def test_test_files_of_the_document_pass_without_the_native_part(project: Path) -> None:
    assert f"{sum(TESTS.values())} passed" in pytest_in(project, pure="1")


def test_limit_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_it(request):\n"
        "    with pytest.raises(ValueError, match=\"websocket_timeout is a number of s.*'1s'\"):\n"
        "        request.getfixturevalue('websocket_client')\n"
    )
    assert "1 passed" in pytest_in(tmp_path, "--override-ini", "websocket_timeout=1s")


PLUGIN_IMPORTS_NOTHING = """
import sys
def test_plugin_is_loaded_without_the_package(request):
    assert request.config.pluginmanager.get_plugin("websocket_handler") is not None
    assert "websocket_handler_pytest" in sys.modules
    assert "websocket_handler" not in sys.modules
def test_fixture_imports_the_package(websocket_client):
    assert "websocket_handler" in sys.modules
"""


def test_plugin_costs_nothing_until_its_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_plugin.py").write_text(PLUGIN_IMPORTS_NOTHING)
    assert "2 passed" in pytest_in(tmp_path)


def test_entry_point_names_the_plugin() -> None:
    (found,) = (one for one in entry_points(group="pytest11") if one.name == "websocket_handler")
    assert found.value == "websocket_handler_pytest"


WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None
from http.server import BaseHTTPRequestHandler
from websocket_handler import WebSocket
from websocket_handler.testing import AsyncClient, Client
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        ws = WebSocket.of(self)
        ws.on("message", ws.send)
        ws.connect()
    def log_message(self, *_): ...
with Client(Handler, timeout=10) as client, client.connect("/") as ws:
    ws.send("x")
    assert ws.receive() == "x"
wanted = {"pytest", "aiohttp", "tornado", "uvicorn", "flask", "django"}
assert not {name for name in wanted if sys.modules.get(name)}
"""


def test_client_needs_no_other_package() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_PYTEST], check=True, timeout=60)
