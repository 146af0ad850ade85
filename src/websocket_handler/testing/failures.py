"""The exceptions that the application raises, so that they can be raised in the test.

Frameworks turn an exception of a handler into a response with status 500. Each has its own way to
observe the exception, and all of them call `Failures.record`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine import Engine

MAX_RECORDED = 100
"""The number of exceptions that are kept; the oldest ones are dropped."""

_current: ContextVar[Failures | None] = ContextVar("websocket_handler.testing", default=None)
"""The failures of the client whose request a handler serves."""


class Failures:
    """The exceptions that the application of one client has raised, oldest first. Thread-safe."""

    def __init__(self, is_raising: bool) -> None:
        self._is_raising = is_raising
        self._recorded: deque[BaseException] = deque(maxlen=MAX_RECORDED)

    def record(self, error: BaseException) -> None:
        """Keep an exception, once."""
        if self._is_raising and all(known is not error for known in self._recorded):
            self._recorded.append(error)

    def raise_first(self) -> None:
        """Raise the oldest exception that was not raised yet, if there is one."""
        if self._recorded:
            raise self._recorded.popleft()

    def context(self) -> Context:
        """Return a copy of the caller's context in which the framework's exceptions come here."""
        context = copy_context()
        context.run(_current.set, self)
        return context

    @contextlib.contextmanager
    def observing_frameworks(self) -> Iterator[None]:
        """Record the exceptions that Flask and Django turn into a response."""
        with contextlib.ExitStack() as signals:
            for module in ("flask", "django.core.signals"):
                signal: Any = getattr(sys.modules.get(module), "got_request_exception", None)
                if signal is not None:
                    signal.connect(self._note_signal, weak=False)
                    signals.callback(signal.disconnect, self._note_signal)
            yield

    @contextlib.contextmanager
    def observing_listeners(self, engine: Engine) -> Iterator[None]:
        """Record the exceptions of the listeners that `engine` calls."""
        _ledger, record = engine._ledger, self.record
        _ledger.error_observers += (record,)
        try:
            yield
        finally:
            observers = (one for one in _ledger.error_observers if one != record)
            _ledger.error_observers = tuple(observers)

    def _note_signal(self, sender: object, **_: object) -> None:
        """Record the exception that a framework handles now, if it is from our application."""
        del sender
        self._note_handled(sys.exc_info()[1])

    def _note_handled(self, error: BaseException | None) -> None:
        if error is not None and _current.get() is self:
            self.record(error)

    def log_handler(self) -> logging.Handler:
        """Return a handler for the logger to which a framework writes the exceptions."""
        return _RecordingHandler(self)


class _RecordingHandler(logging.Handler):
    def __init__(self, failures: Failures) -> None:
        super().__init__(logging.ERROR)
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._failures._note_handled(record.exc_info[1])
