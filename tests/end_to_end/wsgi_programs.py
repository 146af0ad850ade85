"""WSGI servers with the applications of `wsgi`."""

from __future__ import annotations

import contextlib
import re
from urllib.request import urlopen

from websocket_handler import IS_NATIVE

from ..support.programs import Program, running, wait_for

HERE = "tests.end_to_end.wsgi"
GUNICORN = ["-m", "gunicorn", "-b", "127.0.0.1:0", "--log-level", "info"]
SERVERS = {
    "gunicorn sync": [*GUNICORN, "-k", "sync", "-w", "2"],
    "gunicorn gthread": [*GUNICORN, "-k", "gthread", "--threads", "4"],
    "gunicorn preload": [*GUNICORN, "-k", "gthread", "--threads", "4", "--preload", "-w", "2"],
    "gunicorn gevent": [*GUNICORN, "-k", "gevent"],
    "gunicorn gevent_pywsgi": [*GUNICORN, "-k", "gevent_pywsgi"],
    "gevent.pywsgi": ["-m", f"{HERE}.serve", "pywsgi"],
    "gevent.pywsgi, patched": ["-m", f"{HERE}.serve", "patched_pywsgi"],
    "werkzeug": ["-m", f"{HERE}.serve", "werkzeug"],
    "cheroot": ["-m", f"{HERE}.serve", "cheroot"],
    "waitress": ["-m", f"{HERE}.serve", "waitress"],
    "wsgiref": ["-m", f"{HERE}.serve", "wsgiref"],
    "bottle": ["-m", f"{HERE}.serve", "bottle"],
    "runserver": ["-m", f"{HERE}.serve", "runserver"],
}
THREADED_GUNICORN = ("gunicorn gthread", "gunicorn preload")

QUIET = re.compile(r"Traceback|Exception|ERROR|CRITICAL")


def serve(
    server: str,
    application: str,
    *options: str,
    descriptors: int = 8192,
    pure: bool = not IS_NATIVE,
) -> contextlib.AbstractContextManager[Program]:
    command = [*SERVERS[server], *options, f"{HERE}.{application}"]
    ready = r"(?:Listening at: http://127\.0\.0\.1:|ready on port )(\d+)"
    return running(Program(command, ready, pure, descriptors=descriptors))


def wait_until_it_serves(program: Program) -> None:
    def ask() -> bool:
        with contextlib.suppress(OSError), urlopen(program.url("/plain", "http"), timeout=2):
            return True
        return False

    wait_for(ask, "the server to serve")
