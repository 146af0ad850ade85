"""Installing from source: an unsupported Python, and the lines that `make` prints."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..conftest import ROOT

SETUP = ROOT / "setup.py"

RUN_AS_OLD_PYTHON = """
import runpy, sys
sys.version_info = ({major}, {minor}, 0, "final", 0)
sys.modules["Cython"] = sys.modules["setuptools"] = None  # they cannot be imported
runpy.run_path({path!r}, run_name="__main__")
"""

STUB = """#!/bin/sh
# As `python -m venv` and `python -m pip`, but installs nothing.
case "$*" in "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;; esac
"""


@pytest.mark.parametrize(("major", "minor"), [(3, 8), (3, 9)])
def test_setup_names_the_required_python(major: int, minor: int) -> None:
    code = RUN_AS_OLD_PYTHON.format(major=major, minor=minor, path=str(SETUP))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    expected = f"websocket-handler needs Python 3.10 or newer, but this is Python {major}.{minor} ("
    assert done.stderr.startswith(expected)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("version", [(3, 7), (3, 8), (3, 9)])
def test_old_python_can_parse_setup(version: tuple[int, int]) -> None:
    ast.parse(SETUP.read_text(), feature_version=version)


def test_make_demo_prints_each_step_of_the_installation(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)
    variables = [f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(
        ["make", "--no-print-directory", "demo", *variables],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "MAKEFLAGS"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"Creating a virtual environment in {tmp_path / 'venv'} (1 of 2)"
    assert lines[1].startswith("Compiling and installing websocket-handler; this takes about")
    assert lines[2].endswith("-m websocket_handler")
    assert len(lines) == 3
