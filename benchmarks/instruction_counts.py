"""Compares instructions per round of each workload with instructions.json: `make bench-guard`.

Instruction counts are repeatable, unlike times. They depend on the versions of Python and of the
compiler, so each combination has its own record. `instruction_counts.py --record` writes the record
of this machine.
"""

import json
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from workloads import WORKLOADS

RECORD = Path(__file__).parent / "instructions.json"
TOLERANCE = 0.03
FEW, MANY = 100, 300


def count(workload: str, times: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    done = subprocess.run(
        [*command, Path(__file__).parent / "workloads.py", workload, str(times)],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode != 0 or found is None:
        raise SystemExit(done.stderr)
    return int(found[1])


def per_round(workload: str) -> int:
    """Return the instructions of one round, without startup and shutdown."""
    return (count(workload, MANY) - count(workload, FEW)) // (MANY - FEW)


def environment() -> str:
    version = ".".join(platform.python_version_tuple()[:2])
    compiler = subprocess.check_output(["cc", "-dumpversion"], text=True).strip()
    return f"CPython {version}, cc {compiler}, {platform.machine()}"


def main() -> None:
    with ThreadPoolExecutor(2) as pool:
        counts = dict(zip(WORKLOADS, pool.map(per_round, WORKLOADS), strict=True))
    records = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if "--record" in sys.argv:
        records[environment()] = counts
        RECORD.write_text(json.dumps(records, indent=1) + "\n")
        return
    if environment() not in records:
        raise SystemExit(f"no record for {environment()}: use instruction_counts.py --record")
    is_worse = False
    for workload, before in records[environment()].items():
        change = counts[workload] / before - 1
        is_worse |= change > TOLERANCE
        print(f"{workload:34} {before:>10,} {counts[workload]:>10,} {change:+7.1%}")
    if is_worse:
        raise SystemExit(f"more than {TOLERANCE:.0%} more instructions than recorded")


main()
