"""The wheel: built as for a release, and installed without a compiler."""

from __future__ import annotations

import re
import subprocess
import venv
import zipfile
from pathlib import Path
from urllib.request import urlopen

import pytest

from websocket_handler import IS_NATIVE, connect

from ..support.programs import Program, running
from ..support.wheels import build_wheel

MAX_NATIVE_SIZE = 2 << 20
"""Total size of all extension modules in bytes: stripped they take 0.9 MB, unstripped 5 MB."""

pytestmark = [
    pytest.mark.skipif(not IS_NATIVE, reason="the wheel has the native engine"),
    pytest.mark.timeout(400),  # the first test compiles the native engine
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel as built by `make wheel`."""
    return build_wheel(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with only the wheel installed, and no compiler on its path."""
    directory = tmp_path_factory.mktemp("clean")
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    environment = {"PATH": str(python.parent), "HOME": str(directory)}
    install = ["-m", "pip", "install", "--no-index", "--no-deps", "--quiet", str(wheel)]
    subprocess.run([str(python), *install], env=environment, check=True, timeout=120)
    return python


def test_wheel_contains_stripped_extensions(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        size = sum(archive.getinfo(name).file_size for name in modules)
        with_symbols = [name for name in modules if b".symtab" in archive.read(name)]
    assert len(modules) == 9
    assert with_symbols == []
    assert size < MAX_NATIVE_SIZE


def test_wheel_contains_no_sources(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        suffixes = {Path(name).suffix for name in archive.namelist()}
    assert not suffixes & {".c", ".h", ".pyx", ".pxd"}


def test_wheel_is_tagged_for_manylinux_or_musllinux(wheel: Path) -> None:
    assert "manylinux" in wheel.name or "musllinux" in wheel.name


def test_demo_from_wheel_needs_no_environment_variable(clean_python: Path, tmp_path: Path) -> None:
    """As in a slim container: only Python and the wheel, in a directory of their own."""
    outside = ["-i", str(clean_python), "-I", "-m", "websocket_handler", "demo", "--port", "0"]
    ready = r"http://localhost:(\d+)/echotest\.html is ready \(native engine\)"
    script = (
        f"import os; os.chdir({str(tmp_path)!r}); os.execv('/usr/bin/env', {['env', *outside]})"
    )
    with running(Program(["-c", script], ready)) as program:
        environment = Path("/proc", str(program.pid), "environ").read_text()
        assert environment == ""
        for page in ("/echotest.html", "/stats"):
            assert {"/style.css", "/chart.js"} < page_and_its_files(program, page)
        with connect(program.url("/echoserver")) as websocket:
            websocket.send("from a container")
            assert websocket.receive(timeout=10) == "from a container"


def page_and_its_files(program: Program, target: str) -> set[str]:
    """Request a page, and all files that it and its scripts name; returns their paths."""
    found, missing = set[str](), {target}
    while missing:
        path = missing.pop()
        found.add(path)
        with urlopen(program.url(path, "http"), timeout=10) as response:
            text = response.read().decode()
        named = re.findall(r'(?:(?:src|href)="|from "\.)(/[\w-]+\.\w+)"', text)
        missing |= {name for name in named if not name.endswith(".html")} - found
    return found


def test_demo_from_wheel_echoes_without_compiler(clean_python: Path) -> None:
    code = "import websocket_handler as w; print(w.IS_NATIVE, w.__file__)"
    environment = {"PATH": str(clean_python.parent)}
    shown = subprocess.run(
        [clean_python, "-I", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert shown.startswith("True ")
    assert str(clean_python.parent.parent) in shown
    command = ["-I", "-m", "websocket_handler", "--port", "0"]
    ready = r"http://localhost:(\d+)/echotest\.html is ready"
    with (
        running(Program(command, ready, python=str(clean_python))) as program,
        connect(program.url("/echoserver")) as websocket,
    ):
        websocket.send("from a wheel")
        assert websocket.receive(timeout=10) == "from a wheel"


def test_command_from_wheel_names_the_missing_extra(clean_python: Path) -> None:
    command = [str(clean_python.with_name("websocket-handler")), "connect", "ws://127.0.0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'websocket-handler[cli]'" in done.stderr
