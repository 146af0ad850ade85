"""The programs in examples/, run as they stand but for the port."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from websockets.sync.client import connect

from .programs import wait_for

EXAMPLES = sorted((Path(__file__).parent.parent.parent / "examples").glob("*.py"))


def _free_port() -> int:
    with socket.create_server(("localhost", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_an_example_echoes_and_asks_for_an_upgrade(example: Path) -> None:
    port = _free_port()
    source = example.read_text()
    assert source.count("8000") == 2  # in its description, and where it listens
    process = subprocess.Popen(
        [sys.executable, "-c", source.replace("8000", str(port))], stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: _listens(port), f"{example.name} to listen")
        with connect(f"ws://localhost:{port}/", compression=None) as client:
            client.send("héllo")
            assert client.recv(timeout=10) == "héllo"
        with pytest.raises(HTTPError, match="426"):
            urlopen(f"http://localhost:{port}/", timeout=10).read()
        assert process.poll() is None
    finally:
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert b"Traceback" not in log
