"""The cost of tests with `websocket_handler.testing`: `make bench-testing`.

Runs tests/testing/test_twelve.py seventeen times in five frameworks: 1,020 tests in one process of
pytest. Each starts a client and its application anew. Rounds alternate with as many empty tests, so
that other load on the machine affects both equally. The results are medians.
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


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float


def cost_of(cache: str, *arguments: str) -> Cost:
    """Run pytest. Returns its cost; fails if a test fails or if one is missing."""
    environment = {
        **os.environ,
        "TWELVE_TESTS_TIMES": str(TIMES),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": cache,  # of bytecode
    }
    command = [sys.executable, "-m", "pytest", "-vq", "-p", "no:cacheprovider", *arguments]
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if f"{TESTS} passed" not in ended.stdout:
        raise RuntimeError(ended.stdout[-2000:])
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with TemporaryDirectory() as directory:
        empty = Path(directory, "test_empty.py")
        empty.write_text(EMPTY)
        twelve = ("tests/testing/test_twelve.py", "-k", "not tornado")
        cost_of(directory, *twelve)  # compiles
        ours, nothing = [], []
        for _ in range(rounds):
            nothing.append(cost_of(directory, str(empty)))
            ours.append(cost_of(directory, *twelve))
    print(f"{TESTS} tests, medians of {rounds} rounds; load average {os.getloadavg()[0]:.1f}")
    for name, costs in (("empty tests", nothing), ("with a client", ours)):
        wall, cpu = (statistics.median(column) for column in zip(*costs, strict=True))
        print(f"{name:14} {wall:6.1f} s, CPU {cpu:6.1f} s")
    ratios = (one.cpu_s / other.cpu_s for one, other in zip(ours, nothing, strict=True))
    print(f"ratio of the CPU time: {statistics.median(ratios):.1f}")


if __name__ == "__main__":
    main()
