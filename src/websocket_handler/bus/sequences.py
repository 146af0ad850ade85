"""Detects duplicate and missing messages by their numbers. One object per room.

No I/O: the caller passes numbers in and gets the result.
"""

from __future__ import annotations

MAX_NODES = 1024
"""The maximum number of processes remembered for a room; beyond it the oldest one is forgotten."""

MAX_MISSING = 1024
"""The maximum number of missing messages of a process that are still accepted late."""


class _Node:
    __slots__ = ("gap_is_reported", "last", "missing")

    def __init__(self, last: int) -> None:
        self.last = last
        self.missing: set[int] = set()
        self.gap_is_reported = False


class Sequences:
    """The message numbers of every process in one room."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[bytes, _Node] = {}

    def arrived(self, node: bytes, number: int, starts: bool = False) -> tuple[int, bool] | None:
        """Record a message.

        Returns how many messages before it are missing, and whether that is to be reported: a gap
        is not reported after `reconnected`. Returns None if the message is a duplicate.
        """
        known = self._nodes.get(node)
        if known is None:
            if len(self._nodes) >= MAX_NODES:
                del self._nodes[next(iter(self._nodes))]
            self._nodes[node] = _Node(number)
            return 0, False
        if number <= known.last:
            if number not in known.missing:
                return None
            known.missing.discard(number)
            return 0, False
        gap = 0 if starts else number - known.last - 1
        if gap:
            first = max(known.last + 1, number - MAX_MISSING)
            known.missing.update(range(first, number))
            while len(known.missing) > MAX_MISSING:
                known.missing.remove(min(known.missing))
        known.last = number
        is_news, known.gap_is_reported = not known.gap_is_reported, False
        return gap, bool(gap) and is_news

    def is_known(self, node: bytes, number: int) -> bool:
        """Whether `arrived` would treat the message as a duplicate."""
        known = self._nodes.get(node)
        return known is not None and number <= known.last and number not in known.missing

    def reconnected(self) -> None:
        """Do not report the next gap of each process: a loss of unknown size has been reported."""
        for node in self._nodes.values():
            node.gap_is_reported = True
