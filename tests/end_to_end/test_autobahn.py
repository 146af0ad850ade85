"""The Autobahn test suite (as kosoku has it) against every row of the matrix."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .programs import Program

SECTIONS = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}
"""How many cases each has; 12 and 13 are about permessage-deflate."""

GOOD = {"OK", "INFORMATIONAL"}


@pytest.mark.timeout(300)
def test_every_case_is_passed(program: Program, tmp_path: Path) -> None:
    include = [argument for section in SECTIONS for argument in ("-i", f"{section}.*")]
    command = ["-m", "fuzzingclient", program.url("/echo"), "-p", "2", "-o", str(tmp_path)]
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
