"""A WSGI application without a framework, with every misuse."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from websocket_handler import ALL_VERSIONS, WebSocket, WSGIMiddleware, default_engine

JOURNAL: list[list[object]] = []


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    ws: WebSocket | None = environ["wsgi.websocket"]
    if path == "/journal":
        return answer(start_response, "200 OK", json.dumps(JOURNAL).encode())
    if path == "/threads":
        return answer(start_response, "200 OK", str(threading.active_count()).encode())
    if path == "/pid":
        return answer(start_response, "200 OK", str(os.getpid()).encode())
    if path == "/forbidden":
        return answer(start_response, "403 Forbidden", b"not you\n")
    if ws is None or path == "/plain":
        return answer(start_response, "200 OK", b"plain\n")
    JOURNAL.append(["request", path, ws.request.target])
    ws.on("message", ws.send)
    ws.on("close", lambda code, reason: JOURNAL.append(["close", code, reason]))
    if path == "/generator":
        return generator(ws)
    if path == "/receive":
        ws.off("message", ws.send)
        ws.connect()
        for message in ws:
            ws.send(message)
        return answer(start_response, "200 OK", b"")
    ws.connect(max_message_size=1 << 24)
    if path == "/greet":
        ws.send("hello")
    if path == "/at-rest":
        ws.off("message", ws.send)
        ws.on("message", functools.partial(echo_at_rest, ws))
    if path == "/interrupts":
        ws.on("message", lambda _: signal.raise_signal(signal.SIGINT))
    if path == "/interrupts-engine":
        interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
        ws.on("message", lambda _: default_engine()._call_later(0, interrupt))
    if path == "/twice":
        with contextlib.suppress(Exception):
            ws.connect()
    if path == "/raises":
        raise RuntimeError("as the test wants it")
    if path == "/body":
        return Closing(answer(start_response, "200 OK", b"nobody sees this"))
    if path == "/nothing":
        return []
    return answer(start_response, "101 Switching Protocols", b"")


def answer(start_response: Any, status: str, body: bytes) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def echo_at_rest(ws: WebSocket, message: str | bytes) -> None:
    """Echo once the main thread waits for requests: a signal that interrupts a handler may be
    swallowed, or the handler may hold a lock."""
    is_in_main_thread = threading.get_native_id() == os.getpid()  # possible for a greenlet
    while not is_in_main_thread and not is_at_rest(threading.main_thread()):
        time.sleep(0.001)
    ws.send(message)


def is_at_rest(thread: threading.Thread) -> bool:
    assert thread.ident is not None
    code = sys._current_frames()[thread.ident].f_code
    return (Path(code.co_filename).name, code.co_name) in (
        ("selectors.py", "select"),
        ("sync.py", "wait"),  # gunicorn's
        ("hub.py", "run"),  # gevent's
        ("wasyncore.py", "poll"),  # waitress's
        ("threading.py", "join"),
        ("threading.py", "_wait_for_tstate_lock"),
    )


def generator(ws: WebSocket) -> Iterable[bytes]:
    """Connects only when the server asks for the body."""
    ws.connect()
    yield b"nobody sees this"


class Closing:
    def __init__(self, body: list[bytes]) -> None:
        self._body = body

    def __iter__(self) -> Any:
        return iter(self._body)

    def close(self) -> None:
        JOURNAL.append(["teardown"])


app = WSGIMiddleware(application, versions=ALL_VERSIONS)


# Middleware outside and inside of WSGIMiddleware


class Counting:
    """Keeps the server's `start_response` in an attribute."""

    def __init__(self, start_response: Any) -> None:
        self._wrapped = start_response
        self.calls = 0

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        return self._wrapped(*arguments)


def call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def with_a_header(start_response: Any) -> Any:
    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        return start_response(status, [*headers, ("X-Middleware", "outer")], *error)

    return start


def buffering(application: Any) -> Any:
    """Responds when the whole response is available."""

    def buffer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        started: list[tuple[Any, ...]] = []
        result = application(environ, lambda *arguments: started.append(arguments))
        body = b"".join(result)
        for arguments in started:
            start_response(*arguments)
        return [body]

    return buffer


def wrapped(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start = with_a_header(functools.partial(call, Counting(start_response)))
    return app(environ, start)


buffered_within = WSGIMiddleware(buffering(application), versions=ALL_VERSIONS)


def buffered_around(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Like `buffering`, but the server's `start_response` can be reached through this one."""
    started: list[tuple[Any, ...]] = []

    def start(*arguments: Any) -> None:
        started.append((start_response, arguments))

    body = b"".join(app(environ, start))
    for begin, arguments in started:
        begin(*arguments)
    return [body]


def hidden(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Nothing of the server can be reached through `start_response`."""
    started: list[tuple[Any, ...]] = []
    result = app(environ, lambda *arguments: started.append(arguments))
    for arguments in started:
        start_response(*arguments)
    return result
