"""The Autobahn test suite (as kosoku has it) against every row of the matrix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE

from .programs import Program, running

SECTIONS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""How many cases each has; 12 and 13 are about permessage-deflate."""

FRAMEWORKS = {
    "Flask, gunicorn": [
        *("-m", "gunicorn", "-b", "127.0.0.1:0", "-k", "gthread", "--threads", "4"),
        "tests.end_to_end.wsgi.with_flask:app",
    ],
    "Starlette, uvicorn": [
        *("-m", "uvicorn", "--port", "0", "--ws"),
        "websocket_handler.servers.uvicorn:WebSocketProtocol",
        "tests.end_to_end.asgi.with_starlette:app",
    ],
}

GOOD = {"OK", "INFORMATIONAL"}


@pytest.mark.timeout(300)
def test_every_case_is_passed(program: Program, tmp_path: Path) -> None:
    pass_all(program.url("/echo"), tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_case_is_passed_in_a_framework(framework: str, tmp_path: Path) -> None:
    ready = r"(?:Uvicorn running on|Listening at:) http://127\.0\.0\.1:(\d+)"
    with running(Program(FRAMEWORKS[framework], ready, not IS_NATIVE)) as program:
        pass_all(program.url("/either" if "Starlette" in framework else "/echo"), tmp_path)


def pass_all(url: str, tmp_path: Path) -> None:
    include = [argument for section in SECTIONS for argument in ("-i", f"{section}.*")]
    command = ["-m", "fuzzingclient", url, "-p", "2", "-o", str(tmp_path)]
    kosoku = Path(sys.executable).with_name("kosoku")
    run = subprocess.run(
        [kosoku, *command, *include], capture_output=True, text=True, timeout=280, check=False
    )
    assert (tmp_path / "index.json").exists(), run.stdout + run.stderr
    (cases,) = json.loads((tmp_path / "index.json").read_text()).values()
    counted = {
        section: sum(case.startswith(f"{section}.") for case in cases) for section in SECTIONS
    }
    assert counted == SECTIONS
    bad = {
        case: result
        for case, result in cases.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    }
    assert bad == {}
