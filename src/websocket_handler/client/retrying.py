"""When a client connects again: which errors are transient, and how long it waits."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from ..errors import ConnectionFailed, HandshakeFailed, TlsFailed
from ..protocol.close_codes import CloseCode

FIRST_DELAY_S = 2.0
"""The upper limit of the first delay, in seconds."""

MAX_DELAY_S = 60.0
"""The upper limit of the delays of `backoff`, in seconds."""

MAX_RETRY_AFTER_S = 300.0
"""The longest delay that a server can ask for with Retry-After, in seconds."""

RESTART_DELAY_S = (5.0, 30.0)
"""The range of the random delay after 1012 and 1013, in seconds, as the IANA registry of close
codes asks for."""


def backoff() -> Iterator[float]:
    """Yield random delays in seconds, which grow to between 30 and 60.

    The first one is between 0 and 2, so that the clients of a server that has ended do not all
    reconnect at once (RFC 6455 section 7.2.3).
    """
    yield random.uniform(0, FIRST_DELAY_S)  # noqa: S311
    limit = FIRST_DELAY_S
    while True:
        limit = min(2 * limit, MAX_DELAY_S)
        yield random.uniform(limit / 2, limit)  # noqa: S311


def process_exception(error: Exception) -> Exception | None:
    """Return None if connecting again may help after `error`, else `error`.

    Network errors, timeouts and the HTTP statuses from 500 to 599 are transient. All others are
    final: for example a rejection with another status, an invalid certificate or response, or a
    proxy that refuses.
    """
    if isinstance(error, HandshakeFailed):
        return None if error.status is not None and 500 <= error.status < 600 else error
    if isinstance(error, TlsFailed):
        return error
    return None if isinstance(error, ConnectionFailed | TimeoutError) else error


def delay_after_error(error: Exception) -> float:
    """Return the seconds for which the server's Retry-After header asks, at most
    `MAX_RETRY_AFTER_S`; 0 without one (RFC 9110 section 10.2.3)."""
    fields = error.headers if isinstance(error, HandshakeFailed) else []
    value = next((value for name, value in fields if name.lower() == "retry-after"), "")
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def delay_after_close(code: int | None) -> float:
    """Return the seconds to wait, at least, after a connection that was closed with `code`."""
    if code in (CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER):
        return random.uniform(*RESTART_DELAY_S)  # noqa: S311
    return 0.0
