"""One result of an examination."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias, TypeVar


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    """Worth knowing, but not a problem."""
    WARNING = "warning"
    """A problem for some clients."""
    FAILURE = "failure"


@dataclass(frozen=True)
class Finding:
    """The result of one step. A peer's text in it may have any characters.

    `cure` is a sentence that says how to solve the problem; `seconds` is the time that the step
    took; `details` are for programs.
    """

    step: str
    level: Level
    text: str
    cure: str = ""
    seconds: float | None = None
    details: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_problem(self) -> bool:
        return self.level in (Level.WARNING, Level.FAILURE)


Result = TypeVar("Result")

Step: TypeAlias = Generator[Finding, None, Result]
"""A step yields its findings and returns its result, for the steps after it."""


class Clock:
    """Measures the time of a step, which must not take more than `limit` seconds."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._begin = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._begin

    def left(self) -> float:
        """Return the seconds that are left. Raises `TimeoutError` if there are none."""
        left = self.limit - self.seconds
        if left <= 0:
            raise TimeoutError(f"no answer within {self.limit:g} s")
        return left
