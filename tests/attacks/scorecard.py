"""Writes docs/scorecard.md: `make scorecard`, at the suite's scale or with ATTACKS=full.

Runs the attacks with FIGURES set, measures what can be compared with other servers, and writes
tables of both. Measurements of earlier runs can be added with `--figures FILE`. The file contains
no text written by hand.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..conftest import ROOT
from . import peers

TARGET = ROOT / "docs" / "scorecard.md"
CANARY = "healthy connection during the attacks"
ROWS = (
    "rejected handshakes",
    "requests after a failed upgrade",
    "slow handshakes",
    "dead peers",
    "idle connections",
    "compression, idle",
    "bombs",
    "hostile lengths",
    "endless fragments",
    "one byte per segment",
    "ping floods",
    "slow readers",
    "no descriptors left",
    "resets",
    "connection churn",
    "SIGTERM",
    "blocking listeners",
    "forks",
    "simultaneous reconnects",
    "expensive request heads",
    "request heads byte by byte",
    "TLS",
    CANARY,
)
"""The subjects of the measurements, in the order of the table."""
BOUND = re.compile(r"(<|≤)? ?([0-9.]+)(?: per 1e6)?")

Figure = dict[str, Any]


def attack(figures: Path) -> None:
    """Run the attacks against the native engine and store their measurements."""
    words = ["-m", "pytest", "tests/attacks", "-k", "not pure", "--timeout=0"]
    environment = {**os.environ, "FIGURES": str(figures)}
    subprocess.run([sys.executable, *words], cwd=ROOT, env=environment, check=True)


def block(figures: Path) -> None:
    """Measure blocking listeners with the benchmark."""
    words = [sys.executable, "benchmarks/blocking.py", "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    with figures.open("a") as file:
        for count, medians in json.loads(done.stdout).items():
            what = f"{count} of 100 listeners sleep for 1 s: p99 of the others"
            goal = {"0": "", "1": "≤ 25", "16": "≤ 50"}[count]
            figure = {
                "row": "blocking listeners",
                "what": what,
                "value": medians["p99_ms"],
                "unit": "ms",
            }
            file.write(json.dumps({**figure, "goal": goal}) + "\n")


def is_met(figure: Figure) -> str:
    bound = BOUND.fullmatch(figure["goal"])
    if bound is None:
        return ""
    value, most = float(figure["value"]), float(bound[2])
    if value < most if bound[1] == "<" else value <= most:
        return "yes"
    waits = figure["unit"] in ("s", "ms")
    return "machine too busy" if waits and is_too_busy() else "no"


def is_too_busy() -> bool:
    """Returns whether the machine is so busy that latencies only reflect its load."""
    return os.getloadavg()[2] > 1.5 * (os.cpu_count() or 1)


def in_words(figure: Figure) -> str:
    value = max(float(figure["value"]), 0.0)  # memory may be released meanwhile
    shown = f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.2f}"
    return f"{shown} {figure['unit']}".strip()


def worst(figures: Iterable[Figure]) -> list[Figure]:
    """Keep only the canary's worst measurement: the test during which it waited longest."""
    canaries = [figure for figure in figures if figure["row"] == CANARY]
    others = [figure for figure in figures if figure["row"] != CANARY]
    return [*others, *sorted(canaries, key=lambda figure: -float(figure["value"]))[:1]]


def as_tables(figures: list[Figure], beside: dict[str, dict[str, str]]) -> str:
    rows = sorted(worst(figures), key=lambda figure: ROWS.index(figure["row"]))
    seen: dict[tuple[str, str], Figure] = {(row["row"], row["what"]): row for row in rows}
    lines = ["| subject | figure | measured | target | met |", "|---|---|---|---|---|"]
    for (row, what), figure in seen.items():
        goal = f"{figure['goal']} {figure['unit']}".strip() if figure["goal"] else ""
        lines.append(f"| {row} | {what} | {in_words(figure)} | {goal} | {is_met(figure)} |")
    names = list(beside)
    lines += ["", "## Other servers", "", "Each with its own defaults; the same client; one run."]
    lines += ["", f"| figure | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for what in next(iter(beside.values()), {}):
        lines.append(f"| {what} | {' | '.join(beside[name][what] for name in names)} |")
    return "\n".join(lines)


def about() -> str:
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    scale = "at full scale" if os.environ.get("ATTACKS") == "full" else "at the suite's scale"
    ours = importlib.metadata.version("websocket-handler")
    system = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores"
    load = os.getloadavg()[2]
    return (
        f"Written by `make scorecard` on {today}, {scale}: websocket-handler {ours}, "
        f"Python {platform.python_version()}, {system}; load average {load:.1f}."
    )


HEAD = """# Scorecard

{about}

The cost of attacks for the server, measured by `tests/attacks` from outside, in `/proc`. The
server is `http.server` with the native engine, unless a row names another. Times are those of
a shared machine; counts, codes and memory do not depend on it. [Guarantees](security.md).

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", type=Path, nargs="*", default=[], help="of earlier runs")
    parser.add_argument("--target", type=Path, default=TARGET)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        fresh = Path(folder) / "figures"
        attack(fresh)
        block(fresh)
        lines = [line for file in (fresh, *options.figures) for line in file.open()]
    tables = as_tables([json.loads(line) for line in lines], peers.measure())
    text = HEAD.format(about=about()) + tables + "\n"
    options.target.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
