"""The servers on which the tests run the application."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for

HERE = "tests.socketio"
GUNICORN = "gunicorn --threads 8 --log-level warning -b 127.0.0.1:{port}"
UVICORN = "uvicorn --log-level warning --port {port}"
OURS = "--ws websocket_handler.servers.uvicorn:WebSocketProtocol"

COMMANDS = {
    "flask-gunicorn": f"{GUNICORN} {HERE}.with_flask:app",
    "fastapi-uvicorn": f"{UVICORN} {OURS} {HERE}.with_fastapi:app",
    "flask-werkzeug": f"{HERE}.with_flask werkzeug {{port}}",
    "flask-wsgiref": f"{HERE}.with_flask wsgiref {{port}}",
    "flask-gevent": f"{GUNICORN} -k gevent {HERE}.with_flask:app",
    "django-gunicorn": f"{GUNICORN} {HERE}.with_django:app",
    "fastapi-uvicorn-messages": f"{UVICORN} {HERE}.with_fastapi:app",
    "aiohttp": f"{HERE}.with_aiohttp {{port}}",
    "tornado": f"{HERE}.with_tornado {{port}}",
}
"""The arguments of `python -m`. Under "messages" the WebSocket uses the messages of ASGI. Those of
`BOTH` are the first, so that pytest runs the tests that share a server one after the other."""

LAUNCH = (
    "import runpy, sys; print('port {port}', flush=True); del sys.argv[0]; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)

BOTH = ("flask-gunicorn", "fastapi-uvicorn")
"""One synchronous and one asynchronous server."""


@contextlib.contextmanager
def serving(
    name: str,
    *,
    serve: Any = None,
    extra: str = "",
    pure: bool = False,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> Iterator[Program]:
    """Run the application. `serve` are the options of `serve`, `options` those of the server;
    serve="none" leaves the server to python-socketio."""
    if name == "flask-gevent":
        options["async_mode"] = "gevent"
    chosen = serve if serve == "none" else json.dumps(serve or {})
    variables = {"SOCKETIO_OPTIONS": json.dumps(options), "SOCKETIO_SERVE": chosen}
    with running(start(f"{COMMANDS[name]} {extra}", variables, pure)) as program:
        wait_for(lambda: responds(program, tls), f"{name} to respond:\n{program.log()}", 30)
        yield program


@contextlib.contextmanager
def conformance_server(suite: str, framework: str, serve: str) -> Iterator[Program]:
    """Run the server that a test suite of the Socket.IO project expects."""
    options = {"ping_interval": 1, "ping_timeout": 1, "cors_allowed_origins": "*"}
    variables = {
        "SOCKETIO_SUITE": suite,
        "SOCKETIO_OPTIONS": json.dumps(options),
        "SOCKETIO_SERVE": serve,
    }
    wsgi = f"gunicorn --threads 64 -b 127.0.0.1:{{port}} {HERE}.conformance_server:wsgi_app()"
    asgi = (
        f"{UVICORN} {OURS if serve != 'none' else ''} --factory {HERE}.conformance_server:asgi_app"
    )
    with running(start(wsgi if framework == "wsgi" else asgi, variables)) as program:
        wait_for(lambda: listens(program), "the server to listen", 30)
        yield program


def start(command: str, variables: dict[str, str], pure: bool = False) -> Program:
    """Start `python -m` with a command on a free port, and with variables of the environment."""
    port = free_port()
    arguments = ["-c", LAUNCH.format(port=port), *command.format(port=port).split()]
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        return Program(arguments, r"port (\d+)", pure)
    finally:
        for variable, former in before.items():
            if former is None:
                del os.environ[variable]
            else:
                os.environ[variable] = former


def listens(program: Program) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(program.address) == 0


def responds(program: Program, tls: ssl.SSLContext | None) -> bool:
    url = program.url("/state", "http" if tls is None else "https")
    with contextlib.suppress(URLError, OSError), urlopen(url, timeout=5, context=tls):
        return True
    return False


def state(program: Program) -> dict[str, Any]:
    found: dict[str, Any] = program.get("/state")
    return found


def wait_for_state(program: Program, **wanted: Any) -> dict[str, Any]:
    """Return the state of the application once it has these values."""
    wait_for(
        lambda: wanted.items() <= state(program).items(), f"{wanted} in {state(program)}", 20, 0.05
    )
    return state(program)
