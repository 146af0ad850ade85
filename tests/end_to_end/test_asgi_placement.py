"""No WebSocket bypasses the application's guard: inside of other middleware, `ASGIMiddleware`
raises an error."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from websocket_handler import ASGIMiddleware, WebSocketError

Event = MutableMapping[str, Any]
Next = Callable[[Request], Awaitable[Response]]


async def guard(request: Request, call_next: Next) -> Response:
    if request.headers.get("authorization") != "secret":
        return Response("denied", 401)
    return await call_next(request)


class PlainGuard:
    """A guard without a framework, which knows nothing of WebSockets."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and (b"authorization", b"secret") not in scope["headers"]:
            await Response("denied", 401)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def echo(request: Request) -> Response:
    ws = request.scope["websocket"]
    if ws is None:
        return Response("WebSockets only", 426)
    ws.on("message", ws.send)
    return Response(ws.connect())


ROUTES = [Route("/echo", echo)]
GUARD = Middleware(BaseHTTPMiddleware, dispatch=guard)


def ask(app: Any, kind: str, path: str = "/echo", authorization: bytes = b"") -> list[Event]:
    """Returns the messages that the application sends for a request."""
    sent: list[Event] = []
    first = {"websocket": "websocket.connect", "http": "http.request"}[kind]
    fields = [(b"host", b"localhost"), (b"authorization", authorization)]
    scope = {
        "type": kind,
        "path": path,
        "headers": fields,
        "query_string": b"",
        "root_path": "",
        "extensions": {"websocket.http.response": {}},
        "method": "GET",
    }

    async def main() -> None:
        last = "http.disconnect" if kind == "http" else "websocket.disconnect"
        messages: list[Event] = [{"type": first}, {"type": last, "code": 1001}]
        answered = asyncio.Event()

        async def receive() -> Event:
            if len(messages) == 1:
                await answered.wait()
            return messages.pop(0)

        async def send(event: Event) -> None:
            sent.append(event)
            answered.set()

        await asyncio.wait_for(app(scope, receive, send), 10)

    asyncio.run(main())
    return sent


def status(sent: list[Event]) -> int:
    if sent[0]["type"] == "websocket.accept":
        return 101
    found: int = sent[0]["status"]
    return found


def starlette(*middleware: Middleware) -> Starlette:
    return Starlette(routes=ROUTES, middleware=list(middleware))


def fastapi(is_first: bool) -> FastAPI:
    app = FastAPI()
    if is_first:
        app.add_middleware(cast(Any, ASGIMiddleware))
    app.middleware("http")(guard)
    if not is_first:
        app.add_middleware(cast(Any, ASGIMiddleware))
    app.add_route("/echo", echo)
    return app


OURS = Middleware(cast(Any, ASGIMiddleware))
WELL_PLACED: dict[str, Callable[[], Any]] = {
    "last line": lambda: ASGIMiddleware(starlette(GUARD)),
    "last line, plain guard": lambda: ASGIMiddleware(starlette(Middleware(PlainGuard))),
    "outermost": lambda: starlette(OURS, Middleware(GZipMiddleware), GUARD),
    "FastAPI, added last": lambda: fastapi(is_first=False),
    "twice": lambda: ASGIMiddleware(starlette(GUARD, OURS)),
    "around a mount": lambda: ASGIMiddleware(
        Starlette(routes=[Mount("/", starlette(OURS))], middleware=[GUARD])
    ),
    "in a mount": lambda: Starlette(routes=[Mount("/", ASGIMiddleware(starlette(GUARD)))]),
}
BYPASSED: dict[str, Callable[[], Any]] = {
    "inside": lambda: starlette(GUARD, OURS),
    "inside of a plain guard": lambda: starlette(Middleware(PlainGuard), OURS),
    "FastAPI, added first": lambda: fastapi(is_first=True),
    "in a mount": lambda: Starlette(
        routes=[Mount("/", ASGIMiddleware(starlette()))], middleware=[GUARD]
    ),
    "in a mounted application": lambda: Starlette(
        routes=[Mount("/", starlette(OURS))], middleware=[GUARD]
    ),
    "in a mount with middleware": lambda: Starlette(
        routes=[Mount("/", ASGIMiddleware(starlette()), middleware=[GUARD])]
    ),
}


@pytest.mark.parametrize("make", WELL_PLACED.values(), ids=WELL_PLACED)
def test_guard_inside_sees_websockets_as_requests(make: Callable[[], Any]) -> None:
    app = make()
    for kind in ("http", "websocket"):
        assert status(ask(app, kind)) == 401
    assert status(ask(app, "http", authorization=b"secret")) == 426
    assert status(ask(app, "websocket", authorization=b"secret")) == 101


@pytest.mark.parametrize("make", BYPASSED.values(), ids=BYPASSED)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_guard_outside_is_an_error_at_the_first_request(make: Callable[[], Any], kind: str) -> None:
    with pytest.raises(WebSocketError, match=r"app = ASGIMiddleware\(app\)"):
        ask(make(), kind, authorization=b"secret")


def test_error_names_the_middleware_outside() -> None:
    app = starlette(GUARD, Middleware(CORSMiddleware), OURS)
    with pytest.raises(WebSocketError, match=r"guard, CORSMiddleware"):
        ask(app, "websocket")


def test_server_does_not_start_with_a_guard_outside(tmp_path: Path) -> None:
    (tmp_path / "bypassed.py").write_text(
        "from tests.end_to_end.test_asgi_placement import GUARD, OURS, starlette\n"
        "app = starlette(GUARD, OURS)\n"
    )
    command = ["-m", "uvicorn", "--port", "0", "--app-dir", str(tmp_path), "bypassed:app"]
    ended = subprocess.run(
        [sys.executable, *command], timeout=60, text=True, capture_output=True, check=False
    )
    assert ended.returncode != 0
    assert "app = ASGIMiddleware(app)" in ended.stderr
