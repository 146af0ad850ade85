"""gunicorn's workers restart: their WebSockets are closed, and nothing of them remains."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from urllib.request import urlopen

import pytest

from ..support.gunicorn import wait_for_signal_handlers, workers
from ..support.programs import TIMEOUT_S, Program, wait_for
from ..support.raw_client import RawClient, close, text
from .asgi_programs import SERVERS as ASGI_SERVERS
from .asgi_programs import serve as serve_asgi
from .wsgi_programs import SERVERS, serve, wait_until_it_serves

HELLO = text("hello")
KINDS = {
    **{name: 1001 for name in SERVERS if name.startswith("gunicorn")},
    "gunicorn asgi": 1012,
}
"""The worker classes, each with its workers' close code."""


def serving(kind: str, *options: str) -> contextlib.AbstractContextManager[Program]:
    if kind in SERVERS:
        return serve(kind, "bare:app", *options)
    return serve_asgi([*ASGI_SERVERS["gunicorn"], *options])


def end(program: Program) -> None:
    wait_for_signal_handlers(program)
    left = workers(program)
    assert left
    assert program.end(signal.SIGTERM) == 0
    wait_for(lambda: not any(Path("/proc", str(pid)).exists() for pid in left), "no orphans")
    assert "Traceback" not in program.log(), program.log()


@pytest.mark.parametrize("kind", KINDS)
def test_gunicorn_reload_closes_websockets_of_old_workers(kind: str) -> None:
    with serving(kind) as program:
        wait_until_it_serves(program)
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
            former = workers(program)
            program.end_soon(signal.SIGHUP)
            client.expect_close(KINDS[kind])
            client.send(close(KINDS[kind]))
            client.expect_end()
        wait_for(lambda: not set(former) & set(workers(program)), "other workers")
        wait_until_it_serves(program)
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
        end(program)


COUNTING = [kind for kind in KINDS if kind not in ("gunicorn preload", "gunicorn gevent_pywsgi")]
"""The other worker classes: one has two workers, and one does not count requests."""


@pytest.mark.parametrize("kind", COUNTING)
def test_gunicorn_max_requests_closes_websockets_of_old_worker(kind: str) -> None:
    with serving(kind, "--max-requests", "4", "-w", "1") as program:
        wait_until_it_serves(program)
        former = workers(program)
        with RawClient(program.address) as client:
            client.open().echo(HELLO)
            for _ in range(6):
                with urlopen(program.url("/plain", "http"), timeout=TIMEOUT_S) as response:
                    assert b"plain" in response.read()
            client.expect_close(KINDS[kind])
            client.send(close(KINDS[kind]))
            client.expect_end()
        wait_for(lambda: not set(former) & set(workers(program)), "another worker")
        wait_until_it_serves(program)
        end(program)
