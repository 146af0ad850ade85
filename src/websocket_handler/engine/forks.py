"""Forks: a child process inherits engines, connections and locks, but not their threads.

The connections stay open in the parent. In the child they are closed, without events and without
messages to the peers. Each engine forgets them and starts again when it is needed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet

logger: logging.Logger = logging.getLogger("websocket_handler")


class Inherited(Protocol):
    """An engine that must forget its connections in a forked child."""

    def forget_after_fork(self) -> None: ...


engines: WeakSet[Inherited] = WeakSet()
"""Every engine of this process."""

_renewals: list[Callable[[], None]] = []


def in_forked_child(renew: Callable[[], None]) -> Callable[[], None]:
    """Decorator: call `renew` in each forked child, in the order of registration and before the
    engines forget the parent's connections. For locks, which a thread of the parent may have held,
    and for state of the parent."""
    _renewals.append(renew)
    return renew


def _after_fork_in_child() -> None:
    for forget in [*_renewals, *(engine.forget_after_fork for engine in engines)]:
        try:
            forget()
        except Exception:  # the other engines must not use the parent's connections
            logger.exception("state of the parent process remains in a forked child")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
