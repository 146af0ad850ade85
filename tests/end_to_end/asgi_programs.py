"""uvicorn and gunicorn with ASGI applications, and checks of their logs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from websocket_handler import IS_NATIVE

from ..support.programs import Program, running, wait_for

HERE = "tests.end_to_end.asgi"
UVICORN = ["-m", "uvicorn", "--port", "0"]
OURS = ["--ws", f"{HERE}.every_version:Protocol"]
SERVERS = {
    "uvicorn": [*UVICORN, *OURS, "--loop", "asyncio", "--http", "httptools"],
    "uvicorn h11": [*UVICORN, *OURS, "--loop", "asyncio", "--http", "h11"],
    "uvicorn uvloop": [*UVICORN, *OURS, "--loop", "uvloop", "--http", "httptools"],
    "uvicorn uvloop h11": [*UVICORN, *OURS, "--loop", "uvloop", "--http", "h11"],
    "gunicorn": ["-m", "gunicorn", "-b", "127.0.0.1:0", "-k", f"{HERE}.every_version.Worker"],
}

THEIRS = [*UVICORN, "--ws", "websockets-sansio"]
"""uvicorn's own implementation, which an application cannot distinguish from ours."""

UNWANTED = re.compile(r"Traceback|Exception|ERROR|CRITICAL")


def serve(
    command: list[str], application: str = "bare:app"
) -> contextlib.AbstractContextManager[Program]:
    ready = r"(?:Uvicorn running on|Listening at:) http://127\.0\.0\.1:(\d+)"
    return running(
        Program([*command, f"{HERE}.{application}"], ready, not IS_NATIVE, descriptors=8192)
    )


def watched(program: Program) -> Iterator[Program]:
    """A server that must keep running and log no error."""
    seen = len(program.log())
    yield program
    assert program.get("/plain") == "plain\n"
    unwanted = UNWANTED.findall(program.log()[seen:])
    assert not unwanted, program.log()[seen:]


def wait_for_journal(program: Program, *entry: object) -> None:
    wait_for(lambda: list(entry) in program.get("/journal"), f"{entry} in the journal")
