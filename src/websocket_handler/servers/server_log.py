"""Passes log records of this library to the log of the HTTP server.

Servers configure their own loggers only. Without this handler, Python prints warnings and errors
of this library to stderr without time or level, and they are missing in the server's log file.
"""

from __future__ import annotations

import logging

SERVER_LOGS = ("uvicorn.error", "gunicorn.error", "hypercorn.error", "_granian")


class ServerLog(logging.Handler):
    """Passes records to the server's logger if the application has configured no logging."""

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
    """Return whether records of the logger reach a handler other than `other_than`."""
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
