"""Turns results.json into results.md and chart.svg.

A result is the median, over all rounds, of the ratio of CPU time per message to that of the C
baseline in the same round. Two servers are tied if each is better in some round.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
from html import escape
from pathlib import Path
from typing import Any

from scenarios import BASELINE, CASES, HERE, OURS, PACED

INTRODUCTION = (
    f"CPU time of the server per message, as a multiple of “{BASELINE.name}”, a C program on "
    "epoll that only echoes bytes; lower is better. Cases are connections × messages in flight × "
    "size. Values are medians of alternating rounds, with the range in parentheses. “–”: not "
    "measured, or failed (fewer echoes than connections). “=”: tied with "
    f"“{OURS[0].name}”, because the rounds disagree on which one is lower."
)

MANY_CONNECTIONS = (
    "CPU time of the server per message, and its memory. In the first columns each connection "
    "echoes 32 bytes in a closed loop. The open loop has "
    f"{PACED['connections']:,} connections, of which {PACED['active']} are active: together they "
    f"send {PACED['rate']:,} messages a second, however late the echoes are. Its latencies begin "
    "when a message was due (no coordinated omission)."
)
PERCENTILES = {"p50": "p50_us", "p99": "p99_us", "p99.9": "p999_us"}

CHARTED = [str(CASES[index]) for index in (1, 3, 5)]
BAR, ROW, LEFT, WIDTH = 12, 20, 210, 720


def main() -> None:
    source = Path(sys.argv[1]) if sys.argv[1:] else HERE / "results.json"
    results = json.loads(source.read_text())
    (HERE / "results.md").write_text(table(results))
    (HERE / "chart.svg").write_text(chart(results))


Rounds = list[float | None]


def ratios(title: str, case: dict[str, Any], name: str) -> Rounds:
    """Return the ratios of CPU time per message to the baseline, None for rounds without result."""
    connections = int(title.split()[0])
    return [
        one["cpu_us"] / baseline["cpu_us"]
        if one and baseline and one["messages"] >= connections
        else None
        for one, baseline in zip(case.get(name, ()), case[BASELINE.name], strict=False)
    ]


def known(rounds: Rounds) -> list[float]:
    return [ratio for ratio in rounds if ratio is not None]


def is_tie(ours: Rounds, other: Rounds) -> bool:
    pairs = [(a, b) for a, b in zip(ours, other, strict=False) if a is not None and b is not None]
    return any(a <= b for a, b in pairs) and any(a >= b for a, b in pairs)


def table(results: dict[str, Any]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in results["about"].items())
    names = [*next(iter(results["echo"].values())), *results["handshake"]]
    lines = [
        "# Results",
        "",
        INTRODUCTION,
        "",
        "| | "
        + " | ".join(results["echo"])
        + " | CPU µs per handshake | CPU µs per connect, message, close"
        + " | bytes per idle connection |",
        "|---" * (len(results["echo"]) + 4) + "|",
    ]
    for name in dict.fromkeys(names):
        if name == BASELINE.name:
            continue
        cells = [cell(title, case, name) for title, case in results["echo"].items()]
        cells.append(number(results["handshake"].get(name), 0))
        cells.append(number(results.get("churn", {}).get(name), 0))
        cells.append(number(results["idle"].get(name), 0))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for title, key in (("Servers over TLS", "tls"), ("Clients", "clients")):
        if results.get(key):
            lines += ["", f"## {title}", "", *plain_table(results[key])]
    if results.get("growth"):
        lines += ["", "## Many connections", "", MANY_CONNECTIONS, "", *large_table(results)]
    return "\n".join([*lines, "", f"Measured with: {about}.", ""])


def plain_table(cases: dict[str, Any]) -> list[str]:
    """Return a table of CPU time per message in µs: medians, with the range in parentheses."""
    names = list(next(iter(cases.values())))
    lines = ["| CPU µs per message | " + " | ".join(cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for name in names:
        measured = [[one["cpu_us"] for one in case[name] if one] for case in cases.values()]
        cells = (
            f"**{statistics.median(one):.2f}** ({min(one):.2f}–{max(one):.2f})" if one else "–"
            for one in measured
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def large_table(results: dict[str, Any]) -> list[str]:
    """Return a table with a row per server: growth, then the open loop."""
    growth, paced = results["growth"], results["paced"]
    numbers = list(next(iter(growth.values())))
    titles = [f"{int(number):,} connections" for number in numbers]
    titles += ["open loop, CPU µs", *(f"{part} µs" for part in PERCENTILES), "open loop, memory"]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for name, measured in growth.items():
        cells = [growth_cell(measured[number_]) for number_ in numbers]
        one = paced[name] or {}
        cells += [number(one.get("cpu_us"), 1)]
        cells += [number(one.get(key), 0) for key in PERCENTILES.values()]
        cells += [f"{one['memory'] / 1e6:.0f} MB" if one else "–"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def growth_cell(measured: dict[str, Any] | None) -> str:
    if not measured:
        return "–"
    return f"{measured['cpu_us']:.1f} µs, {measured['memory'] / 1e6:.0f} MB"


def cell(title: str, case: dict[str, Any], name: str) -> str:
    rounds = ratios(title, case, name)
    measured = known(rounds)
    if not measured:
        return "–"
    middle = statistics.median(measured)
    ours = ratios(title, case, OURS[0].name)
    tie = not name.startswith("ours") and is_tie(ours, rounds)
    return f"**{middle:.2f}** ({min(measured):.2f}–{max(measured):.2f})" + (" =" if tie else "")


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def chart(results: dict[str, Any]) -> str:
    """Return a chart with a bar per server and case, on a logarithmic scale."""
    parts: list[str] = []
    top = 8
    for title in CHARTED:
        case = results["echo"][title]
        parts.append(f'<text class="title" x="0" y="{top + 14}">{escape(title)}</text>')
        top += 24
        ours = ratios(title, case, OURS[0].name)
        for name in case:
            rounds = ratios(title, case, name)
            if name == BASELINE.name or not known(rounds):
                continue
            parts += bar(name, known(rounds), top, is_tie(ours, rounds))
            top += ROW
        top += 14
    style = (
        "text{font:12px system-ui,sans-serif;fill:#24292f}.title{font-weight:600}"
        ".ours{fill:#0f766e}.other{fill:#8b949e}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.ours{fill:#2dd4bf}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" width="{WIDTH}">'
    return "\n".join([head, f"<style>{style}</style>", *parts, "</svg>", ""])


def bar(name: str, measured: list[float], top: int, tie: bool) -> list[str]:
    middle = statistics.median(measured)
    length = 8 + math.log2(max(middle, 0.5) * 2) * 60
    kind = "ours" if name.startswith("ours") else "other"
    note = f"{middle:.2f} ×" + (" (tie)" if tie and kind == "other" else "")
    y = top + BAR - 2
    return [
        f'<text x="{LEFT - 8}" y="{y}" text-anchor="end">{escape(name)}</text>',
        f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{length:.0f}" height="{BAR}" rx="2"/>',
        f'<text x="{LEFT + length + 6:.0f}" y="{y}">{note}</text>',
    ]


main()
