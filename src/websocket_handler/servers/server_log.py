"""Warnings and errors of this library go to the log of the HTTP server, like its own.

Servers configure loggers of their own, and none for others: an error of this library would be
printed to stderr without time or level, and not be in the server's log file.
"""

from __future__ import annotations

import logging

SERVER_LOGS = ("uvicorn.error", "gunicorn.error", "hypercorn.error", "_granian")


class ServerLog(logging.Handler):
    """Hands records to the server's logger where the application has configured no logging."""

    def emit(self, record: logging.LogRecord) -> None:
        if _is_configured(record.name, self):
            return
        server = _server_logger()
        if server is None:
            if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
                logging.lastResort.handle(record)
        elif server.isEnabledFor(record.levelno):
            server.handle(record)


def _is_configured(name: str, other_than: logging.Handler) -> bool:
    """Whether a record of the logger reaches another handler."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not other_than for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


def _server_logger() -> logging.Logger | None:
    for name in SERVER_LOGS:
        logger = logging.Logger.manager.loggerDict.get(name)
        if isinstance(logger, logging.Logger) and logger.hasHandlers():
            return logger
    return None
