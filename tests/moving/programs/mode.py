"""The application's behaviour after a deploy, which a file decides: "refuse" for example."""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

KILLED_AT = 5
"""The number of the resumed request at which the new process is killed."""

resumed_requests = count(1)


def mode() -> str:
    path = os.environ.get("DEPLOY_MODE_FILE")
    return Path(path).read_text() if path and Path(path).exists() else ""


def report(found: object) -> None:
    """Write a line to the log."""
    sys.stdout.write(f"{found}\n")
    sys.stdout.flush()


def start() -> None:
    """Take some seconds until the application is there, if that is the behaviour."""
    if mode() == "start late":
        time.sleep(4)


def timeout() -> float:
    """Seconds that a move may take."""
    return float(os.environ.get("DEPLOY_TIMEOUT", "10"))


def options() -> dict[str, Any]:
    """Settings of `connect()`."""
    return {"max_message_size": 1000} if mode() == "limits" else {}


def refusal(resumed: bool) -> int:
    """Return the status with which the application refuses a request, 0 if it accepts it."""
    found = mode() if resumed else ""
    if found == "raise":
        raise RuntimeError("as the test wants it")
    if found == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if found == "kill later" and next(resumed_requests) == KILLED_AT:
        os.kill(os.getpid(), signal.SIGKILL)
    if found == "delay":
        time.sleep(0.1)
    if found == "slow":
        time.sleep(60)
    return {"refuse": 401, "fail": 500}.get(found, 0)


def answer(ws: Any, message: str | bytes) -> str:
    """Return the process, whether it has the connection from another one, and the carried data."""
    ws.carry = {"count": ((ws.carry or ws.carried) or {"count": 0})["count"] + 1}
    return f"{os.getpid()} {ws.resumed} {ws.carry['count']} {message!s}"
