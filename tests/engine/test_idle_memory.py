"""The memory that an idle connection keeps."""

from __future__ import annotations

import subprocess
import sys

import pytest

from websocket_handler.engine import IS_NATIVE

MAX_BYTES = 512
"""Per connection: its object and its packed request, with the links that other objects have."""


@pytest.mark.skipif(not IS_NATIVE, reason="the engine in plain Python keeps more")
def test_idle_connection_of_a_browser_keeps_little_memory() -> None:
    command = [sys.executable, "-m", "tests.engine.idle_memory"]
    kept = float(subprocess.check_output(command, timeout=60))
    assert kept <= MAX_BYTES
