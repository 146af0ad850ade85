"""Tracing threads that are started with `_thread`."""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from typing import Any


def trace_raw_threads() -> None:
    """Measure the coverage of threads that are started with `_thread`, such as those of a bus.

    coverage itself traces only those of `threading`, unless it uses `sys.monitoring`.
    """
    start, trace = _thread.start_new_thread, threading.gettrace()

    def start_traced(function: Callable[..., object], *arguments: Any) -> int:
        def run(*arguments: Any, **keywords: Any) -> None:
            sys.settrace(trace)
            function(*arguments, **keywords)

        return start(run, *arguments)

    _thread.start_new_thread = start_traced
