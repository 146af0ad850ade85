"""Forks: a child inherits engines, connections and locks whose threads are not in it.

The connections go on in the parent. In the child they are closed, without an event, and
nothing is said to their peers; each engine lets go of them, and begins anew when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """An engine, as a fork sees it."""

    def forget_after_fork(self) -> None: ...


engines: WeakSet[Inherited] = WeakSet()
"""Every engine of this process."""

_renewals: list[Callable[[], None]] = []


def in_forked_child(renew: Callable[[], None]) -> Callable[[], None]:
    """Have `renew` called in each forked child, before its engines let go of the parent's
    connections: for locks that a thread of the parent may have held. A decorator."""
    _renewals.append(renew)
    return renew


def _after_fork_in_child() -> None:
    for renew in _renewals:
        renew()
    for engine in list(engines):
        engine.forget_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
