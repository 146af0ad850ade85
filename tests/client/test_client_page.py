"""docs/client.md: its programs run, and each row of its comparison has its tests."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from websocket_handler.client import ClientSettings

from ..conftest import ROOT
from .peers import EchoServer

PAGE = (ROOT / "docs" / "client.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ROWS = re.findall(r"^\| ([^|]*) \|(?:[^|]*\|){4} `(test_\w+)`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_program_prints_the_echo(number: int, server: EchoServer, tmp_path: Path) -> None:
    program = PROGRAMS[number].replace("ws://localhost:8765/", server.url())
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
        check=False,
    )
    assert (run.returncode, "Traceback" in run.stderr) == (0, False), run.stderr
    assert set(run.stdout.split()) in ({"hello"}, {"subscribe"})


def test_page_lists_every_option() -> None:
    for field in fields(ClientSettings):
        assert f"`{field.name}`" in PAGE, field.name


def test_every_row_of_the_comparison_has_tests() -> None:
    assert len(ROWS) > 30
    for feature, module in ROWS:
        folder = "end_to_end" if module == "test_versions" else "client"
        assert (ROOT / "tests" / folder / f"{module}.py").exists(), feature
