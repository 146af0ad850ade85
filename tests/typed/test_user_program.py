"""mypy and pyright on a user's program, and on the types that the package exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT, require

PROGRAM = Path(__file__).with_name("user_program.py")
MISTAKES = {
    number: line
    for line, text in enumerate(PROGRAM.read_text().splitlines(), 1)
    for number in re.findall(r"# mistake (\d+)$", text)
}


def lines_reported_by_mypy() -> set[int]:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", str(PROGRAM)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {int(line) for line in re.findall(r":(\d+): error: ", result.stdout)}


def lines_reported_by_pyright() -> set[int]:
    command = [sys.executable, "-m", "pyright", "--outputjson", str(PROGRAM)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    diagnostics = json.loads(result.stdout)["generalDiagnostics"]
    errors = [entry for entry in diagnostics if entry["severity"] == "error"]
    return {entry["range"]["start"]["line"] + 1 for entry in errors}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_checker_finds_every_mistake_and_nothing_else(checker: str) -> None:
    if checker == "mypy":
        reported = lines_reported_by_mypy()
    else:
        require(shutil.which("node"), "Node.js")
        reported = lines_reported_by_pyright()
    assert len(MISTAKES) == 10
    assert reported == set(MISTAKES.values())
