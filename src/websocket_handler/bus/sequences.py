"""Whether a message from another process is new, and whether some before it are missing.

Pure: numbers in, answers out. One object a room.
"""

from __future__ import annotations

MOST_NODES = 1024
"""Processes remembered for a room; beyond it the longest known one is forgotten."""

MOST_MISSING = 1024
"""Missing numbers of a process that would still be taken."""


class _Node:
    __slots__ = ("forgiven", "last", "missing")

    def __init__(self, last: int) -> None:
        self.last = last
        self.missing: set[int] = set()
        self.forgiven = False


class Sequences:
    """The numbers of every process in one room."""

    __slots__ = ("_nodes",)

    def __init__(self) -> None:
        self._nodes: dict[bytes, _Node] = {}

    def arrived(self, node: bytes, number: int, starts: bool = False) -> tuple[int, bool] | None:
        """How many messages before this one are missing, and whether that is news: after
        `reconnected` it is not. None if this one has been here before."""
        known = self._nodes.get(node)
        if known is None:
            if len(self._nodes) >= MOST_NODES:
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
            first = max(known.last + 1, number - MOST_MISSING)
            known.missing.update(range(first, number))
            while len(known.missing) > MOST_MISSING:
                known.missing.remove(min(known.missing))
        known.last = number
        is_news, known.forgiven = not known.forgiven, False
        return gap, bool(gap) and is_news

    def is_known(self, node: bytes, number: int) -> bool:
        """Whether `arrived` would take it for one that has been here before."""
        known = self._nodes.get(node)
        return known is not None and number <= known.last and number not in known.missing

    def reconnected(self) -> None:
        """What went missing until now is known to be unknown: it is not news when it shows."""
        for node in self._nodes.values():
            node.forgiven = True
