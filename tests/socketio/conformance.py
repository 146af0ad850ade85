"""Runs the test suites of the Socket.IO project: `make conformance-socketio`.

The suites are cloned from GitHub into build/, with their times set to whole seconds, because
python-engineio announces its intervals in seconds. Each suite runs against python-socketio alone
and against this library. The program fails if a test passes only without this library. It ends by
itself, after at most half an hour, because every step has a limit in time.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from ..conftest import ROOT
from ..support.programs import Program
from .servers import conformance_server

BUILD = ROOT / "build/conformance"
SUITES = {
    "engineio": "https://github.com/socketio/engine.io-protocol",
    "socketio": "https://github.com/socketio/socket.io-protocol",
}
INSTALL_TIMEOUT_S = 240
SUITE_TIMEOUT_S = 120
TEST_TIMEOUT_MS = 10_000
PASSED = re.compile(r"^\s*✔ (.*?)(?: \(\d+ms\))?$", re.MULTILINE)


def prepare(name: str, source: str) -> Path:
    folder = BUILD / name
    if not folder.is_dir():
        clone = ["git", "clone", "--quiet", "--depth=1", source, str(folder)]
        subprocess.run(clone, check=True, timeout=INSTALL_TIMEOUT_S)
    suite = folder / "test-suite"
    if not (suite / "node_modules").is_dir():
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund"]
        subprocess.run(install, cwd=suite, check=True, timeout=INSTALL_TIMEOUT_S)
    return suite


def run(suite: Path, program: Program) -> list[str]:
    """Return the tests that pass, with the section of each."""
    source = (suite / "test-suite.js").read_text()
    source = source.replace("http://localhost:3000", program.url("", "http"))
    source = re.sub(r"(PING_INTERVAL|PING_TIMEOUT) = \d+", r"\1 = 1000", source)
    changed = suite / "changed-suite.js"
    changed.write_text(source)
    mocha = ["node", "node_modules/mocha/bin/_mocha", "--timeout", str(TEST_TIMEOUT_MS), "--exit"]
    done = subprocess.run(
        [*mocha, changed.name],
        cwd=suite,
        capture_output=True,
        text=True,
        check=False,
        timeout=SUITE_TIMEOUT_S,
    )
    tests: list[str] = []
    section: dict[int, str] = {}
    for line in done.stdout.splitlines():
        indent = len(line) - len(line.lstrip())
        if match := PASSED.match(line):
            tests.append("/".join([*section.values(), match[1]]))
        elif line.strip() and not re.match(r"\s*\d+\) ", line):
            section = {depth: text for depth, text in section.items() if depth < indent}
            section[indent] = line.strip()
        if "passing" in line:
            break
    return tests


def main(local: dict[str, Path] | None = None) -> int:
    worse = 0
    for name, source in SUITES.items():
        suite = (local or {}).get(name) or prepare(name, source)
        for framework in ("wsgi", "asgi"):
            passed = {}
            for serve in ("none", "{}"):
                with conformance_server(name, framework, serve) as program:
                    passed[serve] = run(suite, program)
            lost = set(passed["none"]) - set(passed["{}"])
            worse += len(lost)
            print(  # noqa: T201
                f"{name} {framework}: {len(passed['{}'])} pass, {len(passed['none'])} without "
                f"websocket-handler; lost: {sorted(lost) or 'none'}"
            )
    return int(bool(worse))


if __name__ == "__main__":
    folders = dict(argument.split("=") for argument in sys.argv[1:])
    sys.exit(main({name: Path(folder) for name, folder in folders.items()}))
