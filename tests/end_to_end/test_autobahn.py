"""The Autobahn test suite (as included in kosoku) against every engine setup."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from websocket_handler import IS_NATIVE

from ..support.programs import Program, running

SECTIONS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""The number of cases of each section; 12 and 13 are about permessage-deflate."""

COMPRESSION = {"12": 90, "13": 126}
SOME_OF_THEM = ["12.1.2", "12.4.3", "12.5.11", "13.1.1", "13.3.3", "13.6.6"]
"""All of them take minutes: `make autobahn-compression`."""

ALL = os.environ.get("AUTOBAHN_COMPRESSION") == "all"

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

KOSOKU = [str(Path(sys.executable).with_name("kosoku"))]
GOOD = {"OK", "INFORMATIONAL"}


@pytest.mark.timeout(300)
def test_every_autobahn_case_passes(program: Program, tmp_path: Path) -> None:
    pass_sections(program.url("/echo"), SECTIONS, tmp_path)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_autobahn_case_passes_in_frameworks(framework: str, tmp_path: Path) -> None:
    with in_framework(framework) as url:
        pass_sections(url, SECTIONS, tmp_path)


@pytest.mark.timeout(1300)
def test_compression_autobahn_cases_pass(program: Program, tmp_path: Path) -> None:
    pass_compression(program.url("/echo?compression=true"), tmp_path)


@pytest.mark.timeout(1300)
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_compression_autobahn_cases_pass_in_frameworks(framework: str, tmp_path: Path) -> None:
    with in_framework(framework) as url:
        pass_compression(url, tmp_path)


@contextmanager
def in_framework(framework: str) -> Iterator[str]:
    ready = r"(?:Uvicorn running on|Listening at:) http://127\.0\.0\.1:(\d+)"
    with running(Program(FRAMEWORKS[framework], ready, not IS_NATIVE)) as program:
        yield program.url("/either" if "Starlette" in framework else "/echo")


def pass_compression(url: str, tmp_path: Path) -> None:
    module = ["-m", "tests.end_to_end.kosoku_compression"]
    if ALL:
        pass_sections(url, COMPRESSION, tmp_path, module)
    else:
        cases = pass_cases(url, SOME_OF_THEM, tmp_path, module)
        assert sorted(cases) == sorted(SOME_OF_THEM)


def pass_sections(
    url: str, sections: dict[str, int], tmp_path: Path, module: Sequence[str] = KOSOKU
) -> None:
    cases = pass_cases(url, [f"{section}.*" for section in sections], tmp_path, module)
    assert {
        section: sum(case.startswith(f"{section}.") for case in cases) for section in sections
    } == sections


def pass_cases(
    url: str, wanted: list[str], tmp_path: Path, module: Sequence[str]
) -> dict[str, dict[str, str]]:
    include = [argument for cases in wanted for argument in ("-i", cases)]
    command = ["-m", "fuzzingclient", url, "-p", "2", "-o", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, *module, *command, *include],
        capture_output=True,
        text=True,
        timeout=1200 if ALL else 280,
        check=False,
    )
    assert (tmp_path / "index.json").exists(), run.stdout + run.stderr
    cases: dict[str, dict[str, str]]
    (cases,) = json.loads((tmp_path / "index.json").read_text()).values()
    bad = {
        case: result
        for case, result in cases.items()
        if not {result["behavior"], result["behaviorClose"]} <= GOOD
    }
    assert bad == {}
    return cases
