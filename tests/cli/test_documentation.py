"""The commands in docs/command-line.md, with their outputs as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import ROOT
from ..support.programs import Program
from .processes import TIMEOUT_S, environment

DOCUMENT = ROOT / "docs" / "command-line.md"
PORT = "4080"
"""The port of the demo in the document."""

VARIABLE = re.compile(r" *[0-9.]+ ms|Python/[0-9.]+|localhost is [0-9a-f.:, ]+")
"""The parts of the outputs that differ from machine to machine."""


def sessions() -> Iterator[tuple[str, str]]:
    """Yield each command of the document with its output."""
    blocks = re.findall(r"^```console\n(.*?)^```", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    for block in blocks:
        for session in block.split("$ ")[1:]:
            command, _, output = session.partition("\n")
            yield command, output


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path on which `websocket-handler` runs this version."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "websocket-handler"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m websocket_handler "$@"\n')
    Path(program).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(("command", "output"), list(sessions()))
def test_documented_output_is_that_of_the_command(
    command: str, output: str, echo: Program, path: str
) -> None:
    done = subprocess.run(
        ["bash", "-c", command.replace(PORT, str(echo.port))],
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
        env=environment(PATH=path),
        check=False,
    )
    shown = done.stdout.replace(str(echo.port), PORT)
    assert VARIABLE.sub("…", shown) == VARIABLE.sub("…", output)
