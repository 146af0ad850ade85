"""The programs of docs/deploying.md, as they stand there."""

from __future__ import annotations

import contextlib
import re
import signal
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE
from websocket_handler.moving.directory import VARIABLE

from ..conftest import ROOT
from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient, text
from .test_servers import READY

FENCED = re.compile(r"^```python\n# ([a-z.]+).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def test_documented_application_counts_on_after_a_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "private"))
    for name, source in FENCED.findall((ROOT / "docs" / "deploying.md").read_text()):
        (tmp_path / name).write_text(source)
    configuration = str(tmp_path / "gunicorn.conf.py")
    command = ["-m", "gunicorn", "-c", configuration, "--chdir", str(tmp_path)]
    program = Program([*command, "-b", "127.0.0.1:0", "app:app"], READY, not IS_NATIVE)
    with running(program):
        wait_for(lambda: b"426" in status_line(program), "the application")
        with RawClient(program.address).open("/count") as client:
            client.send(text("first"))
            client.expect(text("1"))
            program.end_soon(signal.SIGHUP)
            program.wait_for_log("Worker exiting")
            wait_for(lambda: "Booting" in program.log().partition("Worker exiting")[0], "a worker")
            for number in range(2, 30):
                client.send(text("again"))
                client.expect(text(str(number)))


def status_line(program: Program) -> bytes:
    with RawClient(program.address) as client:
        client.sock.sendall(b"GET /count HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return client.sock.recv(100)


def test_documented_server_keeps_its_connections_while_it_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "private"))
    sources = dict(FENCED.findall((ROOT / "docs" / "deploying.md").read_text()))
    port = free_port()
    path = tmp_path / "serve.py"
    ready = f"print('ready on port {port}')\nstop.wait()"
    path.write_text(sources["serve.py"].replace("8000", str(port)).replace("stop.wait()", ready))
    with contextlib.ExitStack() as stack:
        with running(Program([str(path)], READY, not IS_NATIVE)) as program:
            client = stack.enter_context(RawClient(program.address).open())
            client.send(text("first"))
            client.expect(text("first False"))
            assert program.end(signal.SIGTERM) == 0
        client.send(text("meanwhile"))
        with running(Program([str(path)], READY, not IS_NATIVE)):
            client.expect(text("meanwhile True"))
