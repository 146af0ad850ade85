"""The servers and frameworks, how each is started, and which situations it cannot serve."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from websocket_handler import IS_NATIVE

from ..support.ports import free_port
from ..support.programs import Program, running, wait_for
from ..support.raw_client import RawClient

APPLICATIONS = "tests.matrix.applications"
SERVE = ["-m", "tests.end_to_end.wsgi.serve"]
UVICORN = ["--ws", "websocket_handler.servers.uvicorn:WebSocketProtocol", "--proxy-headers"]
READY = (
    r"(?:Listening at: |ready on port |[Rr]unning on |address )(?:http://)?(?:127\.0\.0\.1:)?(\d+)"
)

Command = Callable[[str, str], list[str]]
"""Makes the command from an application and a port."""


class Server(NamedTuple):
    """One column of the table."""

    name: str
    framework: str
    application: str
    command: Command
    impossible: dict[str, str] = {}  # noqa: RUF012
    """The reason for each situation that the server or framework cannot serve."""

    @property
    def id(self) -> str:
        return f"{self.name} {self.framework}".strip()


def own(application: str, port: str) -> list[str]:
    """A program that serves itself."""
    return ["-m", application, port]


def wsgi(server: str) -> Command:
    return lambda application, _: [*SERVE, server, application]


def gunicorn(*options: str) -> Command:
    return lambda application, port: [
        "-m",
        "gunicorn",
        "-b",
        f"127.0.0.1:{port}",
        *options,
        application,
    ]


def uvicorn(application: str, port: str) -> list[str]:
    return ["-m", "uvicorn", "--port", port, *UVICORN, application]


def hypercorn(application: str, port: str) -> list[str]:
    return ["-m", "hypercorn", "-b", f"127.0.0.1:{port}", application]


def daphne(application: str, port: str) -> list[str]:
    return ["-m", "daphne", "-p", port, application]


def granian(application: str, port: str) -> list[str]:
    return ["-m", "granian", "--interface", "asgi", "--port", port, application]


ONLY_403 = "daphne rejects a WebSocket with 403 and without a body, regardless of the response"
NO_HEADERS = "the server sends no headers of the application with its 101"

HTTP_SERVER = {
    "hook_raises": "http.server has no hooks or middleware",
    "proxy_headers": "http.server has no support for proxies",
}
HYPERCORN = {
    "early_frames": "hypercorn refuses a handshake with bytes behind it: 400",
    "close_without_code": "hypercorn reports 1006 for every end, not the code that the peer sent",
}
DAPHNE = {
    "early_frames": "daphne loses the frames that arrive together with the handshake",
    "refused_before_connect": ONLY_403,
    "handler_raises": ONLY_403,
    "handler_aborts": ONLY_403,
    "second_connect": ONLY_403,
    "hook_raises": ONLY_403,
    "session_cookie": NO_HEADERS,
    "response_header": NO_HEADERS,
    "rejected_with_a_code": "daphne sends the code without the reason",
    "foreign_origin": ONLY_403,
    "too_many_connections": ONLY_403,
    "close_without_code": "daphne answers a close frame without a code with 1000",
}
GRANIAN = {
    "session_cookie": NO_HEADERS,
    "response_header": NO_HEADERS,
    "client_leaves_before_connect": "granian reports 1005 for a connection that was reset",
}
TORNADO = {"hook_raises": "Tornado has no hook between the handler and its response"}

SERVERS = [
    Server("http.server", "", "with_http_server", own, HTTP_SERVER),
    Server("wsgiref", "", "bare_wsgi:app", wsgi("wsgiref")),
    Server("werkzeug", "Flask", "with_flask:app", wsgi("werkzeug")),
    Server("gunicorn gthread", "Flask", "with_flask:app", gunicorn("--threads", "4")),
    Server("gunicorn sync", "Flask", "with_flask:app", gunicorn()),
    Server("gunicorn gevent", "Flask", "with_flask:app", gunicorn("-k", "gevent")),
    Server("gevent.pywsgi", "Flask", "with_flask:app", wsgi("pywsgi")),
    Server("waitress", "bottle", "with_bottle:app", wsgi("waitress")),
    Server("cheroot", "", "bare_wsgi:app", wsgi("cheroot")),
    Server("bottle", "bottle", "with_bottle:app", wsgi("bottle")),
    Server("gunicorn gthread", "Django", "with_django:app", gunicorn("--threads", "4")),
    Server("uvicorn", "Starlette", "with_starlette:app", uvicorn),
    Server("uvicorn", "FastAPI", "with_fastapi:app", uvicorn),
    Server("uvicorn", "Django", "with_django_asgi:app", uvicorn),
    Server(
        "gunicorn ASGIWorker",
        "Starlette",
        "with_starlette:behind_uvicorn",
        gunicorn("-k", "websocket_handler.servers.gunicorn.ASGIWorker"),
    ),
    Server("hypercorn", "Starlette", "with_starlette:behind_hypercorn", hypercorn, HYPERCORN),
    Server("daphne", "Starlette", "with_starlette:behind_uvicorn", daphne, DAPHNE),
    Server("granian", "Starlette", "with_starlette:behind_granian", granian, GRANIAN),
    Server("aiohttp", "aiohttp", "with_aiohttp", own),
    Server("Tornado", "Tornado", "with_tornado", own, TORNADO),
]


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Program]:
    """Start the server, and wait until it responds."""
    command = server.command(f"{APPLICATIONS}.{server.application}", str(free_port()))
    with running(Program(command, READY, not IS_NATIVE)) as program:
        wait_for(lambda: is_serving(program), "the server to serve", 20)
        yield program


def is_serving(program: Program) -> bool:
    with contextlib.suppress(OSError, AssertionError), RawClient(program.address) as client:
        return client.get("/closed").status == 200
    return False
