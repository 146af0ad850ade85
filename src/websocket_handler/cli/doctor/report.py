"""Shows the findings: a table on a terminal, lines in a pipe, or JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator

from ...protocol.printable import printable
from .finding import Finding, Level


def show_json(url: str, findings: Iterable[Finding]) -> bool:
    """Print one JSON object; returns whether there is no problem."""
    found = list(findings)
    is_well = not any(finding.is_problem for finding in found)
    report = {"url": url, "ok": is_well, "findings": [as_dict(finding) for finding in found]}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return is_well


def as_dict(finding: Finding) -> dict[str, object]:
    return {
        "step": finding.step,
        "level": finding.level.value,
        "text": finding.text,
        "cure": finding.cure or None,
        "seconds": finding.seconds,
        "details": dict(finding.details),
    }


def show(url: str, findings: Iterable[Finding]) -> bool:
    """Print the findings as they come; returns whether there is no problem."""
    problems = []
    display = show_table if sys.stdout.isatty() else show_lines

    def watched() -> Iterator[Finding]:
        for finding in findings:
            if finding.is_problem:
                problems.append(finding)
            yield finding

    display(watched())
    sys.stdout.write(f"{printable(url, len(url))}: {summary(len(problems))}\n")
    return not problems


def summary(problems: int) -> str:
    if not problems:
        return "everything is well"
    return "1 problem" if problems == 1 else f"{problems} problems"


def show_lines(findings: Iterable[Finding]) -> None:
    for finding in findings:
        text = safe(finding.text)
        line = f"{finding.level.value:<8} {finding.step:<12} {time_of(finding):>10}  {text}"
        sys.stdout.write(f"{line}\n")
        if finding.cure:
            sys.stdout.write(f"{'':<33}cure: {safe(finding.cure)}\n")
        sys.stdout.flush()


def show_table(findings: Iterable[Finding]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    colours = {Level.OK: "green", Level.NOTE: "cyan", Level.WARNING: "yellow", Level.FAILURE: "red"}
    table = Table("", "step", "time", "finding", box=SIMPLE_HEAD, highlight=False)
    table.columns[2].justify = "right"
    with Live(table, console=Console(), auto_refresh=False) as live:
        for finding in findings:
            colour = colours[finding.level]
            text = Text(safe(finding.text))
            if finding.cure:
                text.append(f"\n{safe(finding.cure)}", "italic")
            level = Text(finding.level.value, f"bold {colour}")
            table.add_row(level, finding.step, time_of(finding), text)
            live.refresh()


def safe(text: str) -> str:
    return printable(text, len(text))


def time_of(finding: Finding) -> str:
    return "" if finding.seconds is None else f"{1000 * finding.seconds:.1f} ms"
