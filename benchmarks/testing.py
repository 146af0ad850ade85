"""The cost of tests with `websocket_handler.testing`: `make bench-testing`.

Runs tests/testing/test_twelve.py seventeen times in five frameworks: 1,020 tests in one process of
pytest, which loads no other plugin and no configuration. Each test starts a client. A framework has
one application for all tests, except for aiohttp, whose applications run in one event loop only.

Rounds alternate with as many empty tests, and with as many tests that only get the application:
they import the frameworks, and cost as much without a client. So other load on the machine affects
all equally. A last run divides the tests among two processes (pytest-xdist). The results are
medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TIMES = 17
TESTS = 12 * 5 * TIMES
EMPTY = f"""
import pytest
@pytest.mark.parametrize("number", range({TESTS}))
def test_nothing(number): ...
"""
APPLICATION = f"""
import pytest
from tests.testing.conftest import app
@pytest.mark.parametrize("number", range({12 * TIMES}))
def test_application(app, number): ...
"""
OURS = "websocket_handler_pytest"


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def cost_of(directory: Path, *arguments: str) -> Cost:
    """Run pytest. Returns its cost; fails if a test fails or if one is missing."""
    environment = {
        **os.environ,
        "TWELVE_TESTS_TIMES": str(TIMES),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(directory),  # of bytecode
    }
    configuration = ("-c", str(directory / "pytest.ini"), f"--rootdir={ROOT}")
    plugins = ("-p", OURS, "-p", "no:cacheprovider", "--confcutdir=tests/testing")
    selection = ("-vq", "-k", "not tornado")
    command = [sys.executable, "-m", "pytest", *configuration, *plugins, *selection, *arguments]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if f"{TESTS} passed" not in ended.stdout:
        raise RuntimeError((ended.stdout + ended.stderr)[-2000:])
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def kinds_of_tests(directory: Path) -> dict[str, tuple[str, ...]]:
    """Write the tests that are missing, and return the arguments of pytest for each kind."""
    (directory / "pytest.ini").write_text("[pytest]\n")
    empty, application = directory / "test_empty.py", directory / "test_application.py"
    empty.write_text(EMPTY)
    application.write_text(APPLICATION)
    twelve = "tests/testing/test_twelve.py"
    return {
        "empty tests": (str(empty),),
        "application only": (str(application),),
        "with a client": (twelve,),
        "two processes": (twelve, "-p", "xdist", "-n", "2"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as name:
        kinds = kinds_of_tests(Path(name))
        cost_of(Path(name), *kinds["with a client"])  # compiles
        costs: dict[str, list[Cost]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind, arguments in kinds.items():
                costs[kind].append(cost_of(Path(name), *arguments))
    print(f"{TESTS} tests, medians of {rounds} rounds; load average {os.getloadavg()[0]:.1f}")
    for kind, measured in costs.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{kind:16} {wall:6.1f} s, CPU {cpu:6.1f} s")
    pairs = zip(costs["with a client"], costs["application only"], strict=True)
    client = statistics.median(ours.cpu_s - without.cpu_s for ours, without in pairs)
    print(f"CPU time of the client, per test: {1000 * client / TESTS:.1f} ms")


if __name__ == "__main__":
    main()
