"""The programs in docs/socketio.md, unchanged, with the commands that it names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import socketio

from ..conftest import ROOT
from ..support.programs import Program, running, wait_for
from .engineio_client import PollingClient
from .servers import start

TEXT = (ROOT / "docs/socketio.md").read_text()
PROGRAMS = {
    "gunicorn": ("-b 127.0.0.1:{port}", "from flask"),
    "uvicorn": ("--port {port}", "from fastapi"),
}


def responds(program: Program) -> bool:
    try:
        return bool(PollingClient(program).sid)
    except OSError:
        return False


@pytest.mark.parametrize("server", PROGRAMS)
def test_program_of_the_documentation_echoes(server: str, tmp_path: Path) -> None:
    options, mark = PROGRAMS[server]
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    (source,) = [block for block in blocks if mark in block]
    (arguments,) = re.findall(rf"`{server} (.*?app:app)`", TEXT)
    (tmp_path / "app.py").write_text(source)
    command = f"{server} {options} {arguments}"
    before = os.environ.get("PYTHONPATH")  # `make test-socketio-versions` sets it
    path = os.pathsep.join([str(tmp_path), *([before] if before else [])])
    with running(start(command, {"PYTHONPATH": path})) as program:
        wait_for(lambda: responds(program), "the program to respond", 30)
        with socketio.SimpleClient() as client:
            client.connect(program.url("/", "http"))
            assert client.call("echo", "hello", timeout=15) == "hello"
        assert "Traceback" not in program.log(), program.log()
